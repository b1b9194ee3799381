"""Time to result: steps to a stream's target, and who is fastest on most streams."""

import numpy as np
import pytest

from experiments import _report_targets as targets

STREAMS = ["a", "b"]


def run(method, stream, rows, steps=(10, 20, 30)):
    matrix = [[[value] * 3 for value in rows]]
    return {
        "name": method, "label": method, "method": method, "stream": stream, "seeds": [0], "matrices": matrix,
        "eval": [{"step": step} for step in steps], "finished": True,
    }  # fmt: skip


RUNS = [
    run("fast", "a", (0.5, 0.9, 0.9)), run("slow", "a", (0.5, 0.6, 0.8)), run("never", "a", (0.1, 0.2, 0.3)),
    run("fast", "b", (0.9, 0.9, 0.9)), run("slow", "b", (0.7, 0.7, 0.9)),
]  # fmt: skip


def test_the_table_has_steps_and_scores():
    text = targets.time_to_result(RUNS, targets.parsed(["80"], STREAMS))
    rows = [row.replace("</th>", "").replace("</td>", "") for row in text.split('<tr><th scope="row">')[1:]]
    # Ratios of `slow` are 30/20 and 30/10: (4 - 1.5) / 3 and (4 - 3) / 3, which is 0.58 on average.
    assert [row.split("</tr>")[0].split("<td>") for row in rows] == [
        ["fast", "1.00", "20", "10"], ["slow", "0.58", "30", "30"], ["never", "0.00", "–", "–"],
    ]  # fmt: skip


def test_steps_are_the_median_over_seeds_and_of_the_trace_where_there_is_one():
    traced = run("fast", "a", (0.5, 0.9, 0.9)) | {"matrices": [[[0.5], [0.9]]] * 3, "seeds": [0, 1, 2]}
    accuracy = [[[0.2], [0.9], [0.2]], [[0.9], [0.9], [0.2]], [[0.9], [0.9], [0.9]]]
    traced["trace"] = [
        {"step": step, "experience": 0, "accuracy": row} for step, row in zip((3, 6, 9), accuracy, strict=True)
    ]
    np.testing.assert_array_equal(targets._steps(traced, {"a": 0.8}), [6, 3, 9])
    assert targets._steps(traced, {"b": 0.8}) is None
    assert ">6<" in targets.time_to_result([traced], {"a": 0.8})


def test_targets_as_they_are_given():
    assert targets.parsed(["80"], STREAMS) == {"a": 0.8, "b": 0.8}
    assert targets.parsed(["b=90"], STREAMS) == {"b": 0.9}
    assert targets.parsed(["b=90", "80"], STREAMS) == targets.parsed(["80", "b=90"], STREAMS) == {"a": 0.8, "b": 0.9}
    assert "--target=80" in targets.time_to_result(RUNS, {})
    for text in ("many", "a=many", "0", "101", "nan"):
        with pytest.raises(ValueError, match="A target is a percentage"):
            targets.parsed([text], STREAMS)
    with pytest.raises(ValueError, match="'c' is no stream of these runs: give one of a, b"):
        targets.parsed(["c=80"], STREAMS)
