"""The section of the report on time to result: how soon methods reach a target on each stream."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ctrain_jax import metrics
from experiments import _charts as charts
from experiments import _results as results
from experiments._charts import esc
from experiments._report_parts import Runs, legend, note, scroller, sheet

R_MAX = 4.0  # who is slower than the fastest by this factor gets nothing, as in AlgoPerf


def parsed(texts: Sequence[str], streams: Sequence[str]) -> dict[str, float]:
    """{stream: its target in [0, 1]} of "80" for all streams or "STREAM=80" for one.

    Raises:
      ValueError: no percentage, or a stream that no run has.
    """
    targets: dict[str, float] = {}
    for text in texts:
        stream, named, number = text.rpartition("=")
        try:
            value = float(number) / 100
        except ValueError:
            value = math.nan
        if not 0 < value <= 1:
            raise ValueError(f"A target is a percentage, as in --target=80 or --target=STREAM=80, got {text!r}.")
        if named and stream not in streams:
            raise ValueError(f"{stream!r} is no stream of these runs: give one of {', '.join(streams)}.")
        targets |= {stream: value} if named else {s: value for s in streams if s not in targets}
    return targets


def time_to_result(runs: Runs, targets: Mapping[str, float]) -> str:
    """Steps to each stream's target, and the performance profile of methods over streams."""
    if not targets:
        return note(
            "<code>--target=80</code>, or <code>--target=STREAM=90</code> for each stream, says when a method has "
            "learned enough, and compares how many steps it takes."
        )
    found = [(k, run, steps) for k, run in enumerate(runs) if (steps := _steps(run, targets)) is not None]
    if not found:
        return note("No run with a target was tested over time.")
    streams = [stream for stream in targets if any(str(run["stream"]) == stream for _, run, _ in found)]
    methods: dict[str, int] = {}  # {name: colour of its first run}
    for k, run, _ in found:
        methods.setdefault(_method(run), k)
    times = np.full((len(methods), len(streams)), np.inf)
    for _, run, steps in found:
        place = list(methods).index(_method(run)), streams.index(str(run["stream"]))
        times[place] = min(times[place], np.median(steps))
    scores = metrics.profile_score(times, R_MAX)
    order = np.argsort(-scores, kind="stable")
    names = list(methods)
    rows = [
        [esc(names[i]), f"{scores[i]:.2f}", *("–" if np.isinf(t) else f"{t:,.0f}" for t in times[i])] for i in order
    ]
    heads = ["Method", "Score", *(f"{stream}, {100 * targets[stream]:g}%" for stream in streams)]
    said = (
        "Steps until the mean accuracy over all experiences reaches the target, the median over seeds; a dash: not "
        f"reached. Score: the area under the profile up to {R_MAX:g} times the steps of the fastest (AlgoPerf); it "
        "depends on who else is here. A run is tested after each experience, and where it has a trace within them: "
        "compare runs that are tested equally often."
    )
    ratios = np.linspace(1.0, R_MAX, 121)
    shares = metrics.performance_profile(times, ratios)
    series = [charts.Series(names[i], methods[names[i]], ratios.tolist(), shares[i].tolist()) for i in order]
    x = charts.linear_axis(1.0, R_MAX, "times the steps of the fastest", most=5, pad=False)
    y = charts.linear_axis(0.0, 1.0, "streams on which the target is reached, %", most=6, scale=100)
    picture = charts.line_chart(
        series, x, y, label="Performance profile; the scores stand in the table above it.", height=220
    )
    return note(said) + scroller("Steps to the target", sheet(heads, rows)) + legend(series) + picture


def _method(run: Mapping) -> str:
    return str(run.get("method") or run["label"])


def _steps(run: Mapping, targets: Mapping[str, float]) -> np.ndarray | None:
    """Steps of each seed `[S]` to the target of its stream; None where there is none, or no test."""
    target = targets.get(str(run["stream"]))
    if target is None:
        return None
    trace = results.trace(run)
    if trace is not None:
        return np.asarray(metrics.steps_to_target(trace.accuracy.mean(-1), target, "max", trace.step))
    accuracy = results.matrices(run).mean(-1)
    at = [record["step"] for record in run.get("eval", ())]
    if len(at) != accuracy.shape[1]:
        total = run.get("steps")
        if not total or not run.get("finished"):
            return None
        at = np.arange(1, accuracy.shape[1] + 1) * total / accuracy.shape[1]
    return np.asarray(metrics.steps_to_target(accuracy, target, "max", at))
