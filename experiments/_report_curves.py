"""The sections of the report that follow runs over time: accuracy, the stability gap, loss, gradient, throughput."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ctrain_jax import metrics
from experiments import _charts as charts
from experiments import _results as results
from experiments._charts import esc
from experiments._report_parts import Runs, legend, note, rate, run_tile, score, scroller, sheet, tile

_MOST_POINTS = 200  # of a curve over steps
_MOST_TRACES = 20  # experiences of a stream that get a chart of their own
_GAP_TERMS = {
    "minimum": "Minimum accuracy",
    "worst_case": "Worst case",
    "forgetting": "Largest drop",
    "plasticity": "Largest rise",
}


def over_time(runs: Runs) -> str:
    """Accuracy after each experience, and where runs have it before each batch."""
    return _after_experiences(runs) + _before_batches(runs)


def _after_experiences(runs: Runs) -> str:
    """Mean accuracy over the experiences seen so far, after each of them."""
    series, ends, asked_whole, of_concepts = [], [], "", ""
    for k, run in enumerate(runs):
        matrix = results.matrices(run)
        joint = matrix.shape[1] == 1
        if joint:
            values = np.asarray(metrics.final_accuracy(matrix))[:, None]
        elif matrix.shape[2] == 1:
            values, asked_whole = matrix[..., 0], " Where one test asks for all classes: accuracy in it."
        elif results.is_square(run):
            values = metrics.seen_accuracy(matrix)
        else:
            values, of_concepts = matrix.mean(axis=-1), " Where concepts drift: over all of them, seen or not."
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
        return note("No run has more than one experience, so there is nothing to follow over time.")
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
    said = (
        "Mean over all experiences seen so far, after each experience, averaged over seeds; the band is the 95% "
        f"interval.{asked_whole}{of_concepts}{levels}"
    )
    return note(said) + legend(series) + charts.line_chart(series, x, y, label=label, height=340, ends=ends)


def _before_batches(runs: Runs) -> str:
    """Accuracy of each batch before it was learned, of the runs with `online`."""
    found = {k: mean for k, run in enumerate(runs) if (mean := results.prequential(run)) is not None}
    curves = _drawable(_told(runs, "online_accuracy"))
    drawn = [k for k in found if k in curves]
    if not drawn:
        return ""
    series = [
        charts.Series(
            runs[k]["label"], k, *map(list, charts.decimate(*curves[k], _MOST_POINTS)), dots=len(curves[k][0]) < 16
        )
        for k in drawn
    ]
    ends = [f"{100 * float(found[k].mean):.1f}" for k in drawn]
    values = [value for line in series for value in line.y if np.isfinite(value)]
    x = charts.linear_axis(0, max(line.x[-1] for line in series), "step", most=5, pad=False)
    y = charts.linear_axis(min(0.0, *values), max(1.0, *values), "prequential accuracy, %", scale=100)
    said = (
        "Each batch is predicted before it is learned: the mean over seeds, over each stretch of steps between two "
        "lines of the log, drawn at its end. At the right, the mean over all batches."
    )
    chart = charts.line_chart(series, x, y, label="Lines of prequential accuracy over steps", height=260, ends=ends)
    return f"<h3>Prequential accuracy</h3>{note(said)}{legend(series)}{chart}"


def traces(runs: Runs) -> str:
    """Accuracy on each experience while others are learned, of the runs that were tested within experiences."""
    found = {k: trace for k, run in enumerate(runs) if (trace := results.trace(run)) is not None}
    if not found:
        return note(
            "No run was tested within its experiences: <code>--config.trace_every=50</code> does so every 50 steps."
        )
    groups = list(_groups(runs, found))
    out = [
        note(
            "Percent correct on one experience while each of them is learned, mean over seeds. Dotted verticals: a new "
            "experience begins. A stability gap is a dip just after one."
        ),
        legend([charts.Series(runs[k]["label"], k, [], []) for k in found]),
    ]
    for stream, starts, members in groups:
        if len(groups) > 1:
            out.append(f"<h3>{esc(stream)}</h3>")
        num = max(found[k].accuracy.shape[2] for k in members)
        far = max(int(found[k].step[-1]) for k in members)
        x, y = charts.linear_axis(0, far, "step", most=5, pad=False), charts.linear_axis(0, 1, "", most=3, scale=100)
        tiles = []
        for j in range(min(num, _MOST_TRACES)):
            series = [
                charts.Series(runs[k]["label"], k, *map(list, charts.decimate(found[k].step, mean, _MOST_POINTS)))
                for k in members
                if j < found[k].accuracy.shape[2]
                for mean in [found[k].accuracy[:, :, j].mean(axis=0)]
            ]
            label = f"Accuracy on experience {j + 1} over steps"
            picture = charts.line_chart(series, x, y, label=label, height=110, marks=starts)
            tiles.append(tile(f"<b>on experience {j + 1}</b>", picture))
        out.append(f'<div class="tiles close">{"".join(tiles)}</div>')
        if num > _MOST_TRACES:
            out.append(note(f"The first {_MOST_TRACES} of {num} experiences."))
    return "".join(out) + _gaps(runs, found)


def _groups(runs: Runs, found: Mapping[int, results.Trace]) -> Iterator[tuple[str, list[float], list[int]]]:
    """(stream, starts of its experiences, runs): one group where streams are the same, to the step."""
    groups: list[tuple[str, list[float], list[int]]] = []
    for k, trace in found.items():
        stream = str(runs[k]["stream"])
        new = np.flatnonzero(np.diff(trace.experience))
        starts = [float(step) for step in trace.step[new]]
        for name, others, members in groups:
            # Of an unfinished run only the first are known.
            if name == stream and all(a == b for a, b in zip(starts, others, strict=False)):
                others += starts[len(others) :]
                members.append(k)
                break
        else:
            groups.append((stream, starts, [k]))
    yield from groups


def _gaps(runs: Runs, found: Mapping[int, results.Trace]) -> str:
    rows = []
    for k, trace in found.items():
        gap = results.stability(runs[k])
        cells = [score(gap[name] if gap else None) for name in _GAP_TERMS]
        rows.append([f"{charts.swatch(k)} {esc(runs[k]['label'])}", *cells, str(len(trace.step))])
    return scroller("Stability gap", sheet(["Run", *_GAP_TERMS.values(), "Tests"], rows)) + note(
        "Percent; mean over seeds ± half of the 95% interval; a run has them at its end. Minimum accuracy: the worst "
        "on each experience since it was learned, averaged over all but the last. Worst case: the same with the final "
        "accuracy on the last one. Drop and rise: the largest within ten tests, averaged over experiences."
    )


def health(runs: Runs) -> str:
    """Training loss, norm of the gradient and steps a second."""
    loss = _logged(
        runs,
        "loss",
        "training loss",
        f"Mean over seeds on shared axes, at most {_MOST_POINTS} points a run: of each stretch of steps the lowest and "
        "the highest. Dotted verticals: a new experience begins.",
    )
    norm = _logged(
        runs,
        "gradient_norm",
        "gradient norm",
        "Of one batch after each chunk of steps, with penalties and replayed rows, before clipping and any optimizer.",
    )
    return f"<h3>Training loss</h3>{loss}<h3>Gradient norm</h3>{norm}<h3>Throughput</h3>{_throughput(runs)}"


def _logged(runs: Runs, key: str, name: str, said: str) -> str:
    """A chart for each run of what its training records say under a key."""
    curves = _drawable(_told(runs, key))
    if not curves:
        return note(f"No run has logged a {name}.")
    values = np.concatenate([some[np.isfinite(some)] for _, some in curves.values()])
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low >= 100:
        y = charts.log_axis(max(low, high / 1e4), high, f"{name}, log scale")
    else:
        y = charts.linear_axis(min(low, 0.0), high, name, most=5)
    ends = {k: f"last {some[np.isfinite(some)][-1]:.3g}" for k, (_, some) in curves.items()}
    return note(said) + _small(runs, curves, ends, y, f"{name.capitalize()} of")


def _throughput(runs: Runs) -> str:
    curves = {}
    for k, run in enumerate(runs):
        told = [record for record in run["train"] if record.get("seconds") is not None]
        step = np.array([0.0, *(record["step"] for record in told)])
        seconds = np.diff(np.array([0.0, *(record["seconds"] for record in told)], dtype=float))
        # Time that does not pass is no rate: the clock was set back, or a log was mended by hand.
        speed = np.diff(step) * len(run["seeds"]) / np.where(seconds > 0, seconds, np.nan)
        curves[k] = step[1:], speed
    curves = _drawable(curves)
    if not curves:
        return note("No run has told when it took its steps.")
    high = max(float(np.nanmax(speed)) for _, speed in curves.values())
    ends = {k: f"median {rate(float(np.nanmedian(speed)))}" for k, (_, speed) in curves.items()}
    said = (
        "Steps a second of all seeds together, over the chunks that the log tells of. Compilation (the first chunk), "
        "tests and checkpoints count as time."
    )
    y = charts.linear_axis(0, high, "steps/s", most=5)
    return note(said) + _small(runs, curves, ends, y, "Steps a second of")


Curves = Mapping[int, tuple[np.ndarray, np.ndarray]]


def _told(runs: Runs, key: str) -> Curves:
    """What the training records of each run say under a key, as the mean over seeds."""
    curves = {}
    for k, run in enumerate(runs):
        told = [record for record in run["train"] if record.get(key) is not None]
        told = [(record["step"], values.mean()) for record in told if (values := np.array(record[key], float)).size]
        curves[k] = np.array([step for step, _ in told], float), np.array([mean for _, mean in told])
    return curves


def _drawable(curves: Curves) -> Curves:
    return {k: (steps, values) for k, (steps, values) in curves.items() if np.isfinite(values).any()}


def _small(runs: Runs, curves: Curves, ends: Mapping[int, str], y: charts.Axis, label: str) -> str:
    """A chart for each run, on shared axes."""
    far = max(float(steps[-1]) for steps, _ in curves.values())
    x = charts.linear_axis(0, far, "step", most=5, pad=False)
    tiles = []
    for k, (steps, values) in curves.items():
        name = runs[k]["label"]
        line = charts.Series(name, k, *map(list, charts.decimate(steps, values, _MOST_POINTS)))
        picture = charts.line_chart([line], x, y, label=f"{label} {name}", height=120, marks=_starts(runs[k]))
        tiles.append(run_tile(k, runs[k], ends[k], picture))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _starts(run: Mapping[str, Any]) -> Sequence[float]:
    """The steps after which another experience began: those of its tests, but the last."""
    last = run["train"][-1]["step"]
    return list(dict.fromkeys(float(record["step"]) for record in run["eval"] if record["step"] < last))
