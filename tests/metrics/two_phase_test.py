"""Settings are chosen by one stream, and judged by another that was not asked before."""

import numpy as np
import pytest

from ctrain_jax import metrics


def test_the_choice_is_made_by_tuning_alone():
    rng = np.random.default_rng(0)
    table = {(m, h, place): rng.random(3) for m in "ab" for h in range(4) for place in ("tuning", "evaluation")}
    asked = []

    def run(name, setting, place):
        asked.append((name, place))
        return table[name, setting, place]

    found = metrics.two_phase(run, {"a": range(4), "b": range(4)}, tuning="tuning", evaluation="evaluation")
    for row, name in zip(found, "ab", strict=True):
        best = max(range(4), key=lambda h: table[name, h, "tuning"].sum())
        assert (row.name, row.setting) == (name, best)
        np.testing.assert_array_equal(row.tuning, table[name, best, "tuning"])
        np.testing.assert_array_equal(row.evaluation, table[name, best, "evaluation"])
    assert asked[-2:] == [("a", "evaluation"), ("b", "evaluation")]
    assert all(place == "tuning" for _, place in asked[:-2]) and len(asked) == 10


def test_a_setting_that_diverged_is_not_chosen_and_the_first_of_equals_is():
    scores = {0: [np.nan, 1.0], 1: [0.5, 0.5], 2: [0.6, 0.4]}
    (found,) = metrics.two_phase(lambda name, h, _: scores[h], {"a": (0, 1, 2)}, tuning=None, evaluation=None)
    assert found.setting == 1
    with pytest.raises(ValueError, match="a setting of a whose scores are finite, got 1 without"):
        metrics.two_phase(lambda name, h, _: scores[0], {"a": (0,)}, tuning=None, evaluation=None)
    with pytest.raises(ValueError, match=r"expects scores \[S\] of the seeds of a, got the shape \(\)"):
        metrics.two_phase(lambda name, h, _: 0.5, {"a": (0,)}, tuning=None, evaluation=None)
