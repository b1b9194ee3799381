"""Reading what a run left behind, and the numbers and the plain-text table made of it.

A run is a dict: the content of its `result.json`, and from `load_run` also `path`, `train`, `eval` and `trace` (the
records of `metrics.jsonl` by kind, in order of steps) and `skipped_lines`. Everything here but `load_run` also takes
the bare content of a `result.json`, so that a binary can print its table before anything is read back.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ctrain_jax import metrics

Run = Mapping[str, Any]


class Trace(NamedTuple):
    """The tests of a run while it learned, in order of steps."""

    step: np.ndarray  # int [N]
    experience: np.ndarray  # int [N], the one that was being learned
    accuracy: np.ndarray  # float64 [S, N, E]


_REQUIRED = ("name", "stream", "seeds", "matrices")
_NUMBERS = (
    "seconds", "steps", "steps_per_second", "examples_per_second", "compile_seconds", "flops_per_step", "peak_bytes",
    "examples", "state_bytes", "method_bytes",
)  # fmt: skip
_LARGEST = 1e30  # of numbers that a page shows, which float32 holds


def find_runs(folder: Path) -> list[Path]:
    """Folders of runs: the folder itself, or those one or two levels below it that hold a `result.json`.

    Args:
      folder: the folder of one run, or of many.

    Returns:
      Folders in order of their paths, at least one.

    Raises:
      ValueError: if the folder does not exist or holds no run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"A workdir is a folder written by experiments.continual, got {folder}, which is no folder.")
    if (folder / "result.json").is_file():
        return [folder]
    files = [*folder.glob("*/result.json"), *folder.glob("*/*/result.json")]
    if files:
        return sorted(file.parent for file in files)
    raise ValueError(
        f"A workdir holds a result.json, or folders that do, up to two levels down, got {folder} without one: give a "
        "folder written by experiments.continual."
    )


def load_run(path: Path) -> dict[str, Any]:
    """One run, from the folder that it wrote.

    Args:
      path: a folder with `result.json` and, where it was written, `metrics.jsonl`.

    Returns:
      The run (see the module). Lines of `metrics.jsonl` that are no JSON object, such as the last one of a killed run,
      are left out and counted. A resumed run repeats steps; the later record counts.

    Raises:
      ValueError: if the folder holds no result of a run.
    """
    path = Path(path)
    file = path / "result.json"
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"The result of a run is a JSON object in result.json, {file} could not be read as one ({error}): give a "
            "folder written by experiments.continual."
        ) from error
    missing = [key for key in _REQUIRED if key not in run] if isinstance(run, dict) else list(_REQUIRED)
    if missing:
        raise ValueError(
            f"The result of a run has the keys {', '.join(_REQUIRED)}, {file} lacks {', '.join(missing)}: give a "
            "folder written by experiments.continual."
        )
    try:
        matrices(run)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"The matrices of a run are nested lists [seeds][T][E] of numbers or null, those of {file} are not "
            f"({error}): give a folder written by experiments.continual."
        ) from error
    if wrong := unlike_a_result(run):
        raise ValueError(
            f"The result of a run is what experiments.continual wrote, {file} has something else in "
            f"{', '.join(wrong)}: give a folder written by experiments.continual."
        )
    records, skipped = _read_lines(path / "metrics.jsonl")
    return {**run, "path": path, "skipped_lines": skipped, **records}


def unlike_a_result(run: Run) -> list[str]:
    """The keys of a run whose values are of another kind than a page or a table can show."""
    wrong = [key for key in _NUMBERS if (value := run.get(key)) is not None and not _is_number(value)]
    wrong += [] if isinstance(run.get("metric", "accuracy"), str) else ["metric"]
    wrong += [] if isinstance(run["seeds"], list) else ["seeds"]
    wrong += [] if isinstance(run.get("versions") or {}, dict) else ["versions"]
    wrong += [key for key in ("other_metrics", "prequential") if not _is_by_metric(run, key)]
    held_out = run.get("validation") or []
    wrong += [] if isinstance(held_out, list) and all(map(_is_number, held_out)) else ["validation"]
    try:
        found = matrices(run)
        if np.any(np.isfinite(found) & (np.abs(found) >= _LARGEST)):
            wrong.append("matrices")
        else:
            scores(run)
    except (TypeError, ValueError, OverflowError):
        wrong.append("baseline")
    return wrong


def matrices(run: Run) -> np.ndarray:
    """Accuracy matrices of a run.

    Args:
      run: with `matrices` `[[[T x E] per seed]`, where a number or a whole row that is not there yet is null.

    Returns:
      float64 `[S, T, E]`, nan for what is not there.

    Raises:
      ValueError: if the lists are ragged or empty.
    """
    nested = run["matrices"]
    widths = {len(row) for matrix in nested for row in matrix if row is not None}
    lengths = {len(matrix) for matrix in nested}
    # A run that has not evaluated anything yet does not say how many test experiences there are.
    width = widths.pop() if widths else max(lengths, default=0)
    if widths or len(lengths) != 1 or 0 in lengths or width == 0:
        raise ValueError("expected at least one seed, and rows of one length")
    matrix = np.array([[[np.nan] * width if row is None else row for row in rows] for rows in nested], dtype=float)
    if matrix.ndim != 3:
        raise ValueError(f"expected three levels of lists, got {matrix.ndim}")
    return matrix


def described(config: Any, stream: Any) -> dict[str, str]:
    """What the result of a config says of its stream, method and model."""
    number = config.scenario.get("num_experiences", len(stream.experiences["test"].size))
    name = f"{config.scenario.name}({stream.source.name}, {number})"
    return {
        "stream": name if config.arrival == "incremental" else f"{config.arrival}({name})",
        "method": " + ".join(config.methods) or "naive",
        "model": config.model.name,
    }


def split(run: Run) -> str:
    """The rows that the scores of a run are of: "test", or "valid" of a trial of `experiments.search`."""
    return "valid" if run.get("split") == "valid" else "test"


def done(run: Run) -> int:
    """How many experiences a run has finished on every seed, of the `T` rows of its matrices."""
    missing = np.flatnonzero(np.isnan(matrices(run)).sum(axis=(0, 2)))
    return int(missing[0]) if len(missing) else len(run["matrices"][0])


def is_square(run: Run) -> bool:
    """Whether the t-th test of a run is of its t-th experience; of a drift, tests are of concepts."""
    num, columns = matrices(run).shape[1:]
    return num == columns and "tests" not in run


def prequential(run: Run, metric: str | None = None) -> metrics.Interval | None:
    """The mean over all batches of what was predicted before it was learned; None of a run without `online`."""
    values = (run.get("prequential") or {}).get(metric or run.get("metric", "accuracy"))
    return None if values is None else metrics.mean_interval(np.array(values, dtype=float))


def finals(run: Run) -> dict[str, metrics.Interval | None]:
    """Of each metric beside the accuracy (`nats` of a language model), its mean over the tests at the end.

    These are no shares, and lower may be better: they are told as they are.
    """
    found = {}
    for name, nested in (run.get("other_metrics") or {}).items():
        final = matrices({**run, "matrices": nested})[:, -1].mean(axis=-1)
        found[name] = metrics.mean_interval(final) if np.isfinite(final).all() else None
    return found


def scores(run: Run) -> dict[str, metrics.Interval | None]:
    """The numbers of a run, each with its interval over seeds.

    Args:
      run: a run.

    Returns:
      `final_accuracy, average_incremental_accuracy, forgetting, learning_accuracy, backward_transfer,
      forward_transfer`; None where a number is not defined (a joint run has a final accuracy only) or not there yet.
    """
    matrix = matrices(run)
    num, columns = matrix.shape[1:]
    square = is_square(run)
    past = square and num > 1
    baseline = run.get("baseline")
    values = {
        "final_accuracy": metrics.final_accuracy(matrix),
        "average_incremental_accuracy": metrics.average_incremental_accuracy(matrix) if square else None,
        "forgetting": metrics.forgetting(matrix) if past else None,
        "learning_accuracy": metrics.learning_accuracy(matrix) if square else None,
        "backward_transfer": metrics.backward_transfer(matrix) if past else None,
        "forward_transfer": (
            metrics.forward_transfer(matrix, np.array(baseline, dtype=float)) if past and baseline else None
        ),
    }
    return {
        name: metrics.mean_interval(value) if value is not None and np.isfinite(value).all() else None
        for name, value in values.items()
    }


def trace(run: Run) -> Trace | None:
    """The trace of a run of `trace_every`; a record that does not fit the matrices is left out, None without any."""
    expected, name, kept = matrices(run).shape[::2], run.get("metric", "accuracy"), []
    for record in run.get("trace", ()):
        try:
            row = int(record["step"]), int(record["experience"]), np.array(record[name], dtype=float)
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if row[2].shape == expected:
            kept.append(row)
    if not kept:
        return None
    step, experience, accuracy = zip(*kept, strict=True)
    return Trace(np.array(step), np.array(experience), np.stack(accuracy, axis=1))


def stability(run: Run) -> dict[str, metrics.Interval] | None:
    """`metrics.stability_gap` of a run by name, with intervals; None before its end, and without a trace of all of it.

    Args:
      run: from `load_run`.

    Returns:
      `minimum, worst_case, forgetting, plasticity`.
    """
    found = trace(run)
    if (
        found is None
        or not is_square(run)
        or done(run) < len(run["matrices"][0])
        or not np.isfinite(found.accuracy).all()
    ):
        return None
    num = found.accuracy.shape[2]
    if num < 2 or list(dict.fromkeys(found.experience.tolist())) != list(range(num)):
        return None
    gap = metrics.stability_gap(found.accuracy, found.experience)
    return {name: metrics.mean_interval(value) for name, value in gap._asdict().items()}


def config_hash(run: Run) -> str:
    """Twelve hex digits: runs of one config have the same, whatever the order of its keys."""
    canonical = json.dumps(run.get("config"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def rank(runs: Sequence[Run]) -> list[Run]:
    """Runs from the highest final accuracy to the lowest; those without one yet come last, in the order given."""
    finals = [scores(run)["final_accuracy"] for run in runs]
    keys = [(final is None, 0.0 if final is None else -float(final.mean)) for final in finals]
    return [runs[k] for k in sorted(range(len(runs)), key=keys.__getitem__)]


def score_text(interval: metrics.Interval | None) -> str:
    """An interval in percent, or a dash where there is none."""
    return "–" if interval is None else metrics.format_interval(interval)


def number_text(interval: metrics.Interval | None) -> str:
    """An interval of numbers that are no shares, or a dash where there is none."""
    return "–" if interval is None else metrics.format_interval(interval, percent=False)


def summary_table(runs: Sequence[Run]) -> str:
    """An aligned table of runs for a terminal, the best first.

    Args:
      runs: runs; see the module.

    Returns:
      Lines joined by newlines: name, final accuracy, average incremental accuracy and forgetting in percent with
      their 95 percent intervals over seeds, and seconds; where a run has them, also its prequential accuracy and other
      metrics. An unfinished run says how far it came.

    Example:
      >>> from experiments._results import summary_table
      >>> run = {"name": "er", "seeds": [0], "matrices": [[[0.9, 0.0], [0.7, 0.8]]], "seconds": 12.3}
      >>> print(summary_table([run]))
      name  final accuracy  average incremental  forgetting  seconds
      er    75.0            82.5                 20.0           12.3
    """
    names = ["name", "final accuracy", "average incremental", "forgetting"]
    ordered = rank(runs)
    online = any(prequential(run) for run in runs)
    others = sorted({name for run in runs for name in finals(run)})
    rows = [(*names, *(["prequential"] if online else []), *(f"final {name}" for name in others), "seconds")]
    for run in ordered:
        numbers = scores(run)
        final = score_text(numbers["final_accuracy"])
        if numbers["final_accuracy"] is None:
            final = f"{done(run)} of {len(run['matrices'][0])} done"
        seconds, beside = run.get("seconds"), finals(run)
        rows.append(
            (
                "".join(c if c.isprintable() else "?" for c in str(run["name"])),
                final,
                score_text(numbers["average_incremental_accuracy"]),
                score_text(numbers["forgetting"]),
                *([score_text(prequential(run))] if online else []),
                *(number_text(beside.get(name)) for name in others),
                "–" if seconds is None else f"{seconds:.1f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        *left, right = row
        cells = [text.ljust(width) for text, width in zip(left, widths, strict=False)]
        lines.append("  ".join([*cells, right.rjust(widths[-1])]))
    return "\n".join(lines)


def final(run: Run) -> str:
    """The final score of a run, in a few words."""
    return f"final {run['metric']} {score_text(scores(run)['final_accuracy'])}"


def lists(record: Mapping[str, Any]) -> dict[str, list]:
    """A record of arrays as lists of numbers, which JSON holds."""
    return {name: np.asarray(value).astype(float).tolist() for name, value in record.items()}


def _is_by_metric(run: Run, key: str) -> bool:
    """Whether a value of a run, if it is there, holds numbers of each seed by the names of metrics."""
    values = run.get(key) or {}
    try:
        each = [matrices({"matrices": v}) if key == "other_metrics" else np.array(v, float) for v in values.values()]
    except (AttributeError, TypeError, ValueError, OverflowError, KeyError):
        return False
    shaped = all(x.ndim == (3 if key == "other_metrics" else 1) and len(x) for x in each)
    shaped &= all(name.isidentifier() for name in values)
    return shaped and all(not np.any(np.isfinite(x) & (np.abs(x) >= _LARGEST)) for x in each)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _LARGEST


def _record(line: str) -> dict[str, Any]:
    """A line of numbers, and lists of them, with a kind and a step; anything else is an error of some kind."""
    record = json.loads(line)
    for key, value in record.items():
        if key not in ("kind", "split"):
            np.array(value, dtype=float)
    if record.get("seconds") is not None:
        float(record["seconds"])
    return record | {"step": int(record["step"])}


def _read_lines(file: Path) -> tuple[dict[str, list[dict[str, Any]]], int]:
    records: dict[str, dict[tuple[int, str], dict[str, Any]]] = {"train": {}, "eval": {}, "trace": {}}
    skipped = 0
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n") if file.is_file() else []
    for line in lines:
        try:
            record = _record(line)
            records[record["kind"]][record["step"], str(record.get("split", ""))] = record
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            skipped += bool(line.strip())
    return {kind: [by_step[key] for key in sorted(by_step)] for kind, by_step in records.items()}, skipped
