"""One self-contained HTML page about one run or many.

    python -m experiments.report --workdir=DIR [--workdir=DIR2 ...] [--out=report.html] [--target=80]

A workdir is the folder of a run of `experiments.continual`, or a folder of such folders, one or two levels down. The
page needs no network, and is whole without its script, which sorts the overview: send it by mail, open it on a phone,
put it beside a paper. The same numbers are printed as a table. --target says what accuracy is enough, on all streams or
as --target=STREAM=90 on one, and adds who gets there first. Scores on validation rows, of the trials of
`experiments.search`, and scores on test rows are not shown on one page. Exit codes: 0 the page is written, 2 wrong use,
or a folder that holds no run.
"""

import base64
import datetime
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from ctrain_jax import metrics
from experiments import _charts as charts
from experiments import _cli, _report_curves, _report_runs, _report_targets
from experiments import _results as results
from experiments._charts import esc
from experiments._report_parts import Runs, count, duration, is_open, note, progress, rate, run_tile, score

_TERMS = (
    ("Final accuracy", "Mean over all experiences when the stream is over."),
    ("Average incremental", "Mean over the experiences seen so far, averaged over the stream."),
    ("Forgetting", "Best accuracy on an experience before the last one was trained on, minus the final one. Lower is "
     "better."),
    ("Learning accuracy", "Accuracy on each experience just after training on it."),
)  # fmt: skip


class _Column(NamedTuple):
    """A column of the overview, and the end of it that is looked at first when it is sorted."""

    key: str  # in the address of the page: #sort=forgetting
    name: str
    first: str  # "ascending" or "descending"
    kind: str = ""  # class of its cells


_COLUMNS = (
    _Column("run", "Run", "ascending"),
    _Column("stream", "Stream", "ascending", "stream"),
    _Column("final", "Final accuracy", "descending", "main"),
    _Column("incremental", "Average incremental", "descending"),
    _Column("forgetting", "Forgetting", "ascending"),
    _Column("learning", "Learning accuracy", "descending"),
    _Column("seeds", "Seeds", "descending", "cost"),
    _Column("time", "Wall time", "ascending", "cost"),
    _Column("rate", "Steps/s", "descending", "cost"),
)


def write_report(workdirs: Sequence[Path], out: Path, targets: Sequence[str] = ()) -> Path:
    """Writes the page.

    Args:
      workdirs: folders of runs; see `experiments._results.find_runs`.
      out: the HTML file, replaced if it is there.
      targets: see `_report_targets.parsed`.

    Returns:
      `out`.

    Raises:
      ValueError: if a folder holds no run, or a target is none; scores on validation and on test rows together.
    """
    return _write(_load(workdirs), Path(out), targets)


def _write(runs: Sequence[Mapping[str, Any]], out: Path, targets: Sequence[str]) -> Path:
    page = _page(runs, _report_targets.parsed(targets, list(dict.fromkeys(str(run["stream"]) for run in runs))))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def _load(workdirs: Sequence[Path]) -> list[dict[str, Any]]:
    if not workdirs:
        raise ValueError("A report needs at least one folder of runs, got none: give --workdir=DIR.")
    paths = {path.resolve(): path for folder in workdirs for path in results.find_runs(folder)}
    runs = results.rank([results.load_run(path) for path in paths.values()])
    splits = {results.split(run): run["path"] for run in runs}
    if len(splits) > 1:
        raise ValueError(
            "A report is of scores on test rows, or of those on validation rows by which something was chosen, got "
            f"both ({', '.join(f'{split}: {path}' for split, path in sorted(splits.items()))}): write one of each."
        )
    return [{**run, "label": _label(run, runs), "scores": results.scores(run)} for run in runs]


def _label(run: Mapping[str, Any], runs: Runs) -> str:
    """The name of a run, with as much of its folder as tells it from the others of that name."""
    others = [other["path"].resolve().parts for other in runs if other is not run and other["name"] == run["name"]]
    if not others:
        return str(run["name"])
    parts = run["path"].resolve().parts
    depth = next(n for n in range(1, len(parts) + 1) if all(other[-n:] != parts[-n:] for other in others))
    return f"{run['name']} ({'/'.join(parts[-depth:])})"


def _page(runs: Runs, targets: Mapping[str, float]) -> str:
    style, script = (Path(__file__).with_suffix(end).read_text(encoding="utf-8") for end in (".css", ".js"))
    dark = f"@media (prefers-color-scheme: dark) {{{charts.heat_css('dark')}}}"
    # Nothing is fetched and no other script runs, whatever the name of a run may hold.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    sections = {
        "overview": ("Overview", _overview(runs)),
        "time": ("Accuracy over time", _report_curves.over_time(runs)),
        "matrices": ("Accuracy matrices", _matrices(runs)),
        "gap": ("Stability gap", _report_curves.traces(runs)),
        "target": ("Time to result", _report_targets.time_to_result(runs, targets)),
        "health": ("Run health", _report_curves.health(runs)),
        "cost": ("Wall time", _costs(runs)),
        "config": ("Config differences", _report_runs.differences(runs)),
        "runs": ("Runs in detail", _report_runs.details(runs)),
    }
    links = "".join(f'<a href="#{key}">{title}</a>' for key, (title, _) in sections.items())
    body = "".join(f'<section id="{k}"><h2>{title}</h2>{text}</section>' for k, (title, text) in sections.items())
    streams = list(dict.fromkeys(str(run["stream"]) for run in runs))
    title = f"Continual learning on {streams[0]}" if len(streams) == 1 else "Continual learning report"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)}</title><style>{style}{charts.heat_css('light')}{dark}</style></head>\n"
        f'<body><header><h1>{esc(title)}</h1><p class="lead">{_provenance(runs)}</p><nav>{links}</nav></header>\n'
        f"<main>{body}</main>\n"
        "<footer>Written by <code>python -m experiments.report</code> from the result.json and metrics.jsonl of each "
        f"run. The page is complete in itself.</footer><script>{script}</script></body></html>\n"
    )


def _provenance(runs: Runs) -> str:
    def each(values: Iterator[Any]) -> str:
        return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))

    open_runs = sum(is_open(run) for run in runs)
    few, many = min(len(run["seeds"]) for run in runs), max(len(run["seeds"]) for run in runs)
    parts = [
        count(len(runs), "run") + (f" ({open_runs} unfinished)" if open_runs else ""),
        count(len({str(run["stream"]) for run in runs}), "stream"),
        count(many, "seed") if few == many else f"{few} to {many} seeds",
        f"jax {each((run.get('versions') or {}).get('jax') for run in runs) or 'of unknown version'}",
        f"on {each(run.get('device') for run in runs) or 'an unknown device'}",
        *(["scores on validation rows, by which something may be chosen"] if results.split(runs[0]) == "valid" else []),
        f"written {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
    ]
    return " · ".join(esc(part) for part in parts)


def _overview(runs: Runs) -> str:
    best = _best(runs)
    rows = []
    for k, run in enumerate(runs):
        scores, color = run["scores"], k % charts.NUM_COLORS
        pill = f'<span class="pill best">{best[k]}</span>' if k in best else ""
        if is_open(run):
            pill = f'<span class="pill open">{progress(run)}</span>'
        final = score(scores["final_accuracy"])
        if scores["final_accuracy"] is not None:
            width = 100 * min(max(float(scores["final_accuracy"].mean), 0.0), 1.0)
            final += f'<span class="gauge s{color}" aria-hidden="true"><i style="width:{width:.1f}%"></i></span>'
        what = " · ".join(esc(run[key]) for key in ("method", "model") if run.get(key) and run[key] != run["label"])
        if run.get("validation"):
            what += f" · validation {score(metrics.mean_interval(np.array(run['validation'])))}"
        name = (
            f'<div class="run">{charts.swatch(k)}<div><a href="#run-{k}">{esc(run["label"])}</a>{pill}'
            f"<small>{what}</small></div></div>"
        )
        others = ("average_incremental_accuracy", "forgetting", "learning_accuracy")
        cells = [  # (what it is sorted by, HTML)
            (run["label"], name),
            (run["stream"], esc(run["stream"]).replace("(", "(<wbr>")),
            (_mean(scores["final_accuracy"]), final),
            *((_mean(scores[key]), score(scores[key])) for key in others),
            (len(run["seeds"]), str(len(run["seeds"]))),
            (run.get("seconds"), esc(duration(run.get("seconds")))),
            (run.get("steps_per_second"), esc(rate(run.get("steps_per_second")))),
        ]
        rows.append(
            "<tr>"
            + "".join(
                f'<td class="{column.kind}" data-label="{column.name}" '
                f'data-value="{"" if value is None else esc(value)}">{text}</td>'
                for column, (value, text) in zip(_COLUMNS, cells, strict=True)
            )
            + "</tr>"
        )
    ranked = {"final": ' aria-sort="descending"'}
    head = "".join(
        f'<th scope="col" data-key="{column.key}" data-first="{column.first}"{ranked.get(column.key, "")}>'
        f"{column.name}</th>"
        for column in _COLUMNS
    )
    terms = "".join(f"<div><dt>{term}</dt><dd>{meaning}</dd></div>" for term, meaning in _TERMS)
    return (
        note(
            "Percent; mean over seeds ± half of the 95% Student-t interval. The best of a stream is the highest mean "
            "among at least two finished runs; of a sweep, the best by validation."
        )
        + f'<table class="table"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f'<dl class="terms">{terms}</dl>'
    )


def _matrices(runs: Runs) -> str:
    tiles = []
    for k, run in enumerate(runs):
        mean, half_width, num = metrics.mean_interval(results.matrices(run))
        label = f"Accuracy matrix of {run['label']}, mean of {num} seeds"
        picture = charts.heatmap(np.asarray(mean), np.asarray(half_width), label=label)
        value = results.score_text(run["scores"]["final_accuracy"])
        tiles.append(run_tile(k, run, progress(run) if is_open(run) else value, f'<div class="scroll">{picture}</div>'))
    widest = max(results.matrices(run).shape[2] for run in runs)
    room = ' style="--tile:490px"' if widest > 10 else ""
    return (
        note(
            "Each row is a moment: percent correct on every experience after training on one more, mean over seeds. "
            "Right of the steps are experiences that were still to come."
        )
        + f'{charts.heat_scale()}<div class="tiles"{room}>{"".join(tiles)}</div>'
    )


def _costs(runs: Runs) -> str:
    rows = []
    for k, run in enumerate(runs):
        if run.get("seconds") is not None:
            speed = f" · {rate(run['steps_per_second'])} steps/s" if run.get("steps_per_second") else ""
            rows.append((run["label"], k, float(run["seconds"]), duration(run["seconds"]) + speed))
    if not rows:
        return note("No run has told its wall time.")
    devices = " and ".join(dict.fromkeys(str(run["device"]) for run in runs if run.get("device"))) or "unknown"
    return note(f"As each run reported it, all its seeds together. Device: {esc(devices)}.") + charts.bars(rows)


def _best(runs: Runs) -> dict[int, str]:
    """{place of the best run of a stream: how it was picked}, by validation where all of its runs have it."""
    finished: dict[str, dict[int, float]] = {}
    for k, run in enumerate(runs):
        if run["scores"]["final_accuracy"] is not None and not is_open(run):
            finished.setdefault(str(run["stream"]), {})[k] = float(run["scores"]["final_accuracy"].mean)
    best = {}
    for finals in finished.values():
        if len(finals) < 2:
            continue
        held_out = {k: float(np.mean(runs[k]["validation"])) for k in finals if runs[k].get("validation")}
        values, said = (held_out, "best by validation") if len(held_out) == len(finals) else (finals, "best")
        best |= {k: said for k, value in values.items() if value == max(values.values())}
    return best


def _mean(interval: metrics.Interval | None) -> float | None:
    return None if interval is None else float(interval.mean)


def define_flags() -> None:
    """The flags of the binary; not when it is imported, as flags of all binaries share their names."""
    flags.DEFINE_multi_string("workdir", [], "Folder of a run, or of runs one or two levels down; repeatable.")
    flags.DEFINE_string("out", "report.html", "The page to write.")
    flags.DEFINE_multi_string("target", [], "Percent that is enough: --target=80, or --target=STREAM=80; repeatable.")


def main(argv: Sequence[str]) -> None:
    """The binary."""
    given = flags.FLAGS
    if argv[1:]:
        _cli.fail(f"A report takes flags only, got {' '.join(argv[1:])}: give each folder as --workdir=DIR.")
    try:
        runs = _load([Path(folder) for folder in given.workdir])
        out = _write(runs, Path(given.out), given.target)
    except ValueError as error:
        _cli.fail(str(error))
    print(f"{results.summary_table(runs)}\n\nThe report is in {out}: open it in a browser.")


if __name__ == "__main__":
    define_flags()
    _cli.run(main)
