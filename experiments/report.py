"""One self-contained HTML page about one run or many.

    python -m experiments.report --workdir=DIR [--workdir=DIR2 ...] [--out=report.html]

A workdir is the folder of a run of `experiments.continual`, or a folder of such folders, one or two levels down. The
page needs no network and no script: send it by mail, open it on a phone, put it beside a paper. The same numbers are
printed as a table. A folder that holds no run ends the program with one sentence and exit code 2.
"""

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from ctrain_jax import metrics
from experiments import _charts as charts
from experiments import _cli
from experiments import _results as results
from experiments._charts import esc

_MOST_POINTS = 200  # of a loss curve
_TERMS = (
    ("Final accuracy", "Mean over all experiences when the stream is over."),
    ("Average incremental", "Mean over the experiences seen so far, averaged over the stream."),
    ("Forgetting", "Best accuracy on an experience before the last one was trained on, minus the final one. Lower is "
     "better."),
    ("Learning accuracy", "Accuracy on each experience just after training on it."),
)  # fmt: skip


def write_report(workdirs: Sequence[Path], out: Path) -> Path:
    """Writes the page.

    Args:
      workdirs: folders of runs; see `experiments._results.find_runs`.
      out: the HTML file, replaced if it is there.

    Returns:
      `out`.

    Raises:
      ValueError: if a folder holds no run.
    """
    return _write(_load(workdirs), Path(out))


def _write(runs: Sequence[Mapping[str, Any]], out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(_page(runs), encoding="utf-8")
    return out


def _load(workdirs: Sequence[Path]) -> list[dict[str, Any]]:
    if not workdirs:
        raise ValueError("A report needs at least one folder of runs, got none: give --workdir=DIR.")
    paths = {path.resolve(): path for folder in workdirs for path in results.find_runs(folder)}
    runs = results.rank([results.load_run(path) for path in paths.values()])
    names = [str(run["name"]) for run in runs]
    return [
        {**run, "label": name if names.count(name) == 1 else f"{name} ({run['path'].name})", "scores": scores}
        for run, name, scores in zip(runs, names, map(results.scores, runs), strict=True)
    ]


def _page(runs: Sequence[Mapping[str, Any]]) -> str:
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    dark = f"@media (prefers-color-scheme: dark) {{{charts.heat_css('dark')}}}"
    sections = {
        "overview": ("Overview", _overview(runs)),
        "time": ("Accuracy over time", _over_time(runs)),
        "matrices": ("Accuracy matrices", _matrices(runs)),
        "loss": ("Training loss", _losses(runs)),
        "cost": ("Wall time", _costs(runs)),
        "runs": ("Runs in detail", _details(runs)),
    }
    links = "".join(f'<a href="#{key}">{title}</a>' for key, (title, _) in sections.items())
    body = "".join(f'<section id="{k}"><h2>{title}</h2>{text}</section>' for k, (title, text) in sections.items())
    streams = list(dict.fromkeys(str(run["stream"]) for run in runs))
    title = f"Continual learning on {streams[0]}" if len(streams) == 1 else "Continual learning report"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)}</title><style>{style}{charts.heat_css('light')}{dark}</style></head>\n"
        f'<body><header><h1>{esc(title)}</h1><p class="lead">{_provenance(runs)}</p><nav>{links}</nav></header>\n'
        f"<main>{body}</main>\n"
        "<footer>Written by <code>python -m experiments.report</code> from the result.json and metrics.jsonl of each "
        "run. The page is complete in itself.</footer></body></html>\n"
    )


def _provenance(runs: Sequence[Mapping[str, Any]]) -> str:
    def each(values: Iterator[Any]) -> str:
        return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))

    open_runs = sum(_is_open(run) for run in runs)
    few, many = min(len(run["seeds"]) for run in runs), max(len(run["seeds"]) for run in runs)
    parts = [
        _count(len(runs), "run") + (f" ({open_runs} unfinished)" if open_runs else ""),
        _count(len({str(run["stream"]) for run in runs}), "stream"),
        _count(many, "seed") if few == many else f"{few} to {many} seeds",
        f"jax {each((run.get('versions') or {}).get('jax') for run in runs) or 'of unknown version'}",
        f"on {each(run.get('device') for run in runs) or 'an unknown device'}",
        f"written {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
    ]
    return " · ".join(esc(part) for part in parts)


def _overview(runs: Sequence[Mapping[str, Any]]) -> str:
    best = _best(runs)
    columns = ("Stream", "Final accuracy", "Average incremental", "Forgetting", "Learning accuracy", "Seeds")
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Run", *columns, "Wall time", "Steps/s"))
    rows = []
    for k, run in enumerate(runs):
        scores, color = run["scores"], k % charts.NUM_COLORS
        pill = '<span class="pill best">best</span>' if k in best else ""
        if _is_open(run):
            pill = f'<span class="pill open">{_progress(run)}</span>'
        final = _score(scores["final_accuracy"])
        if scores["final_accuracy"] is not None:
            width = 100 * min(max(float(scores["final_accuracy"].mean), 0.0), 1.0)
            final += f'<span class="gauge s{color}" aria-hidden="true"><i style="width:{width:.1f}%"></i></span>'
        what = " · ".join(esc(run[key]) for key in ("method", "model") if run.get(key) and run[key] != run["label"])
        cells = [
            ("stream", "Stream", esc(run["stream"]).replace("(", "(<wbr>")),
            ("main", "Final accuracy", final),
            ("", "Average incremental", _score(scores["average_incremental_accuracy"])),
            ("", "Forgetting", _score(scores["forgetting"])),
            ("", "Learning accuracy", _score(scores["learning_accuracy"])),
            ("cost", "Seeds", str(len(run["seeds"]))),
            ("cost", "Wall time", esc(_duration(run.get("seconds")))),
            ("cost", "Steps/s", esc(_rate(run.get("steps_per_second")))),
        ]
        rows.append(
            f'<tr><td><div class="run">{charts.swatch(k)}<div><a href="#run-{k}">{esc(run["label"])}</a>{pill}'
            f"<small>{what}</small></div></div></td>"
            + "".join(f'<td class="{kind}" data-label="{name}">{text}</td>' for kind, name, text in cells)
            + "</tr>"
        )
    terms = "".join(f"<div><dt>{term}</dt><dd>{meaning}</dd></div>" for term, meaning in _TERMS)
    return (
        '<p class="note">Percent; mean over seeds ± half of the 95% Student-t interval. The best of a stream is the '
        "highest mean among at least two finished runs.</p>"
        f'<table class="table"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f'<dl class="terms">{terms}</dl>'
    )


def _over_time(runs: Sequence[Mapping[str, Any]]) -> str:
    series, ends = [], []
    for k, run in enumerate(runs):
        matrix = results.matrices(run)
        joint = matrix.shape[1] == 1
        if not joint and matrix.shape[1] != matrix.shape[2]:
            continue
        values = np.asarray(metrics.final_accuracy(matrix))[:, None] if joint else metrics.seen_accuracy(matrix)
        mean, half_width, _ = metrics.mean_interval(values)
        mean, half_width = np.asarray(mean, dtype=float), np.asarray(half_width, dtype=float)
        if np.isfinite(mean).any():
            x = [float(i) for i in range(1, len(mean) + 1)]
            there = np.flatnonzero(np.isfinite(mean))
            last, dots = int(there[-1]), not joint and (len(mean) <= 15 or len(there) == 1)
            series.append(charts.Series(run["label"], k, x, list(mean), list(half_width), dots, joint))
            ends.append(f"{100 * mean[last]:.1f}" + (f" after {last + 1}" if last + 1 < len(mean) else ""))
    num = max((len(line.x) for line in series), default=0)
    if num < 2:
        return '<p class="note">No run has more than one experience, so there is nothing to follow over time.</p>'
    reach = [
        (value - half, value + half)
        for line in series
        for value, half in zip(line.y, np.nan_to_num(np.array(line.half_width)), strict=True)
        if np.isfinite(value)
    ]
    low, high = max(min(a for a, _ in reach), 0.0), min(max(b for _, b in reach), 1.0)
    every = 1 if num <= 12 else 5 * -(-num // 50)
    ticks = [(i, str(i)) for i in range(1, num + 1) if i == 1 or i % every == 0]
    x = charts.Axis(1, num, ticks, "experiences trained on")
    # Half empty or not: an axis from 0 shows sizes, a cut one shows differences.
    low = 0.0 if low < high / 2 else min(low, high - 0.05)
    y = charts.linear_axis(low, high, "accuracy over the experiences seen so far, %", scale=100)
    label = "Lines of mean accuracy over the experiences seen so far; the last values stand in the overview table."
    levels = " A dotted level is a joint run, which sees everything at once." if any(s.level for s in series) else ""
    return (
        '<p class="note">Mean over all experiences seen so far, after each experience, averaged over seeds; the band '
        f"is the 95% interval.{levels}</p>{_legend(series)}"
        + charts.line_chart(series, x, y, label=label, height=340, ends=ends)
    )


def _matrices(runs: Sequence[Mapping[str, Any]]) -> str:
    tiles = []
    for k, run in enumerate(runs):
        mean, half_width, num = metrics.mean_interval(results.matrices(run))
        label = f"Accuracy matrix of {run['label']}, mean of {num} seeds"
        picture = charts.heatmap(np.asarray(mean), np.asarray(half_width), label=label)
        value = results.score_text(run["scores"]["final_accuracy"])
        tiles.append(_tile(k, run, _progress(run) if _is_open(run) else value, f'<div class="scroll">{picture}</div>'))
    widest = max(results.matrices(run).shape[2] for run in runs)
    room = ' style="--tile:490px"' if widest > 10 else ""
    return (
        '<p class="note">Each row is a moment: percent correct on every experience after training on one more, mean '
        "over seeds. Right of the steps are experiences that were still to come.</p>"
        f'{charts.heat_scale()}<div class="tiles"{room}>{"".join(tiles)}</div>'
    )


def _losses(runs: Sequence[Mapping[str, Any]]) -> str:
    curves = {}
    for k, run in enumerate(runs):
        steps = np.array([record["step"] for record in run["train"] if record.get("loss") is not None], dtype=float)
        loss = [np.mean(np.array(r["loss"], dtype=float)) for r in run["train"] if r.get("loss") is not None]
        if len(steps) and np.isfinite(loss).any():
            curves[k] = decimate(steps, np.array(loss), _MOST_POINTS)
    if not curves:
        return '<p class="note">No run has logged a training loss.</p>'
    values = np.concatenate([loss[np.isfinite(loss)] for _, loss in curves.values()])
    low, high, far = float(values.min()), float(values.max()), max(float(steps[-1]) for steps, _ in curves.values())
    if low > 0 and high / low >= 100:
        y = charts.log_axis(max(low, high / 1e4), high, "loss, log scale")
    else:
        y = charts.linear_axis(min(low, 0.0), high, "loss", most=5)
    x = charts.linear_axis(0, far, "step", most=5, pad=False)
    tiles = []
    for k, (steps, loss) in curves.items():
        line = charts.Series(runs[k]["label"], k, list(steps), list(loss))
        label = f"Training loss of {runs[k]['label']}"
        last = loss[np.isfinite(loss)][-1]
        marks = _starts(runs[k]["train"])
        picture = charts.line_chart([line], x, y, label=label, height=120, marks=marks)
        tiles.append(_tile(k, runs[k], f"last {last:.3g}", picture))
    return (
        f'<p class="note">Mean over seeds on shared axes, at most {_MOST_POINTS} points a run: of each stretch of '
        "steps the lowest and the highest. Dashed verticals: a new experience begins.</p>"
        f'<div class="tiles">{"".join(tiles)}</div>'
    )


def _costs(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for k, run in enumerate(runs):
        if run.get("seconds") is not None:
            rate = f" · {_rate(run['steps_per_second'])} steps/s" if run.get("steps_per_second") else ""
            rows.append((run["label"], k, float(run["seconds"]), _duration(run["seconds"]) + rate))
    if not rows:
        return '<p class="note">No run has told its wall time.</p>'
    devices = " and ".join(dict.fromkeys(str(run["device"]) for run in runs if run.get("device"))) or "unknown"
    return (
        f'<p class="note">As each run reported it, all its seeds together. Device: {esc(devices)}.</p>'
        + charts.bars(rows)
    )


def _details(runs: Sequence[Mapping[str, Any]]) -> str:
    out = ['<p class="note">What it takes to run each of them again.</p>']
    for k, run in enumerate(runs):
        scores, matrix = run["scores"], results.matrices(run)
        finals = np.asarray(metrics.final_accuracy(matrix))
        facts = {
            "folder": run["path"],
            "device": run.get("device"),
            "steps": None if run.get("steps") is None else f"{run['steps']:,}",
            "experiences": f"{results.done(run)} of {matrix.shape[1]}",
            "backward transfer": results.score_text(scores["backward_transfer"]),
            "forward transfer": results.score_text(scores["forward_transfer"]),
            "unreadable lines in metrics.jsonl": run["skipped_lines"] or None,
        }
        seeds = {
            f"seed {seed}": f"{100 * value:.1f}" if np.isfinite(value) else "–"
            for seed, value in zip(run["seeds"], finals, strict=False)
        }
        blocks = [
            ("full", "Command", f"<pre>{esc(run.get('command') or 'unknown')}</pre>"),
            ("", "Config", _pairs(dict(_flatten(run.get("config") or {})))),
            ("", "Run", _pairs({key: value for key, value in facts.items() if value is not None})),
            ("", "Final accuracy by seed, percent", _pairs(seeds)),
            ("", "Versions", _pairs(run.get("versions") or {})),
        ]
        inside = "".join(f'<div class="{kind}"><h3>{title}</h3>{text}</div>' for kind, title, text in blocks)
        out.append(
            f"<details><summary><b>{esc(run['label'])}</b><span>{esc(run['stream'])}</span></summary>"
            f'<div class="inside" id="run-{k}">{inside}</div></details>'
        )
    return "".join(out)


def decimate(steps: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points of a curve: of each of `most / 2` stretches the lowest and the highest, so peaks stay.

    Args:
      steps: `[N]`, in order.
      values: `[N]`; of a stretch without a finite value the first point stands, so that the gap is seen.
      most: even, at least 2.

    Returns:
      `(steps, values)` of at most `most` points, in order.
    """
    if len(steps) <= most:
        return steps, values
    kept = []
    for stretch in np.array_split(np.arange(len(steps)), most // 2):
        finite = stretch[np.isfinite(values[stretch])]
        if len(finite):
            kept += sorted({int(finite[np.argmin(values[finite])]), int(finite[np.argmax(values[finite])])})
        else:
            kept.append(int(stretch[0]))
    return steps[kept], values[kept]


def _best(runs: Sequence[Mapping[str, Any]]) -> set[int]:
    finished: dict[str, dict[int, float]] = {}
    for k, run in enumerate(runs):
        if run["scores"]["final_accuracy"] is not None and not _is_open(run):
            finished.setdefault(str(run["stream"]), {})[k] = float(run["scores"]["final_accuracy"].mean)
    rivals = [finals for finals in finished.values() if len(finals) > 1]
    return {k for finals in rivals for k, final in finals.items() if final == max(finals.values())}


def _is_open(run: Mapping[str, Any]) -> bool:
    return not run.get("finished", True) or results.done(run) < len(run["matrices"][0])


def _progress(run: Mapping[str, Any]) -> str:
    return f"{results.done(run)} of {len(run['matrices'][0])} done"


def _starts(train: Sequence[Mapping[str, Any]]) -> list[float]:
    pairs = zip(train, train[1:], strict=False)
    return [float(b["step"]) for a, b in pairs if a.get("experience") != b.get("experience")]


def _tile(k: int, run: Mapping[str, Any], value: str, picture: str) -> str:
    return (
        f'<figure class="tile"><figcaption>{charts.swatch(k)}<b>{esc(run["label"])}</b><span>{esc(value)}</span>'
        f"</figcaption>{picture}</figure>"
    )


def _legend(series: Sequence[charts.Series]) -> str:
    items = "".join(f"<li>{charts.swatch(line.color, level=line.level)}{esc(line.label)}</li>" for line in series)
    return f'<ul class="legend">{items}</ul>'


def _score(interval: metrics.Interval | None) -> str:
    mean, _, half_width = results.score_text(interval).partition(" ± ")
    return mean + (f'<span class="pm"> ± {half_width}</span>' if half_width else "")


def _pairs(pairs: Mapping[str, Any]) -> str:
    if not pairs:
        return "<p>none</p>"
    rows = "".join(f"<tr><th>{esc(key)}</th><td>{esc(value)}</td></tr>" for key, value in pairs.items())
    return f'<table class="pairs">{rows}</table>'


def _flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, config if isinstance(config, str) else json.dumps(config)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _rate(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _count(num: int, noun: str) -> str:
    return f"{num} {noun}{'' if num == 1 else 's'}"


def define_flags() -> None:
    """The flags of the binary; not when it is imported, as flags of all binaries share their names."""
    flags.DEFINE_multi_string("workdir", [], "Folder of a run, or of runs one or two levels down; repeatable.")
    flags.DEFINE_string("out", "report.html", "The page to write.")


def main(argv: Sequence[str]) -> None:
    """The binary."""
    given = flags.FLAGS
    if argv[1:]:
        _cli.fail(f"A report takes flags only, got {' '.join(argv[1:])}: give each folder as --workdir=DIR.")
    try:
        runs = _load([Path(folder) for folder in given.workdir])
        out = _write(runs, Path(given.out))
    except ValueError as error:
        _cli.fail(str(error))
    print(f"{results.summary_table(runs)}\n\nThe report is in {out}: open it in a browser.")


if __name__ == "__main__":
    define_flags()
    _cli.run(main)
