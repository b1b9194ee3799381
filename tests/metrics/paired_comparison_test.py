"""The t test in the closed form that it has for three seeds, and Holm's correction as a closed test."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from ctrain_jax import metrics

RNG = np.random.default_rng(0)


def test_three_seeds_in_closed_form():
    # With two degrees of freedom P(|T| > t) = 1 - t / sqrt(2 + t^2).
    scores = {"naive": [0.20, 0.19, 0.24], "ewc": [0.25, 0.22, 0.26], "er": [0.70, 0.75, 0.71]}
    rows = metrics.paired_comparison(scores, "naive")
    assert [row.name for row in rows] == ["ewc", "er"]
    for row in rows:
        d = np.subtract(scores[row.name], scores["naive"])
        t = d.mean() / (d.std(ddof=1) / math.sqrt(3))
        assert row.p_value == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)
        assert float(row.difference.mean) == pytest.approx(d.mean(), rel=1e-6)
    # The smaller p value, that of er, counts twice.
    assert rows[1].p_holm == pytest.approx(2 * rows[1].p_value) and rows[1].p_value < rows[0].p_value
    assert rows[0].p_holm == rows[0].p_value


def test_it_is_paired():
    """What the seeds do to all methods alike is not noise."""
    shared = 10 * RNG.normal(size=5)
    scores = {"a": shared, "b": shared + 1 + 0.1 * RNG.normal(size=5)}
    (row,) = metrics.paired_comparison(scores, "a")
    assert row.p_value < 1e-3 < 0.5 < stats.ttest_ind(scores["a"], scores["b"]).pvalue
    (back,) = metrics.paired_comparison(scores, "b")
    assert back.p_value == pytest.approx(row.p_value)
    assert float(back.difference.mean) == pytest.approx(-float(row.difference.mean), rel=1e-5)


def test_p_is_below_5_percent_where_the_interval_leaves_out_0():
    for shift in np.linspace(0, 3, 13):
        (row,) = metrics.paired_comparison({"a": np.zeros(5), "b": RNG.normal(size=5) + shift}, "a")
        assert (row.p_value < 0.05) == bool(abs(row.difference.mean) > row.difference.half_width)


def test_chance_alone_is_found_as_often_as_the_p_value_says():
    draws = {str(k): x for k, x in enumerate(RNG.normal(size=(1000, 4)))} | {"none": np.zeros(4)}
    p = np.array([row.p_value for row in metrics.paired_comparison(draws, "none")])
    # Three standard deviations of a binomial of 1,000.
    for level in (0.05, 0.5):
        assert abs((p < level).mean() - level) < 3 * math.sqrt(level * (1 - level) / 1000)


def test_differences_without_spread():
    rows = metrics.paired_comparison({"a": [0.5, 0.25], "same": [0.5, 0.25], "more": [0.75, 0.5]}, "a")
    assert [row.p_value for row in rows] == [1.0, 0.0]


def test_holm_is_the_closed_test_of_bonferroni():
    """A hypothesis is rejected where every set that it is in is: over all sets, by brute force."""
    for p in (RNG.uniform(size=5) ** 3, np.array([0.01, 0.04, 0.03]), np.array([0.02, 0.02, 0.02, 1.0])):
        sets = [s for size in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), size)]
        want = [max(min(1.0, len(s) * min(p[list(s)])) for s in sets if i in s) for i in range(len(p))]
        np.testing.assert_allclose(metrics.holm(p), want, rtol=1e-12)
    assert metrics.holm([]).shape == (0,) and metrics.holm([0.3]).tolist() == [0.3]


def test_what_does_not_fit_is_refused():
    two = {"a": [0.1, 0.2], "b": [0.1, 0.3]}
    for scores, reference, match in (
        (two, "c", "'c' of 'a', 'b'"),
        ({"a": [0.1, 0.2]}, "a", "and another method"),
        ({"a": [0.1], "b": [0.2]}, "a", "two seeds or more"),
        ({"a": 0.1, "b": 0.2}, "a", "two seeds or more"),
        ({"a": [[0.1, 0.2]] * 2, "b": [[0.1, 0.2]] * 2}, "a", "two seeds or more"),
        (two | {"c": [0.1, 0.2, 0.3]}, "a", "c \\(3,\\): run every method with the same seeds"),
        (two | {"c": [0.1, np.nan]}, "a", "others of c"),
    ):
        with pytest.raises(ValueError, match=match):
            metrics.paired_comparison(scores, reference)
    with pytest.raises(ValueError, match="level"):
        metrics.paired_comparison(two, "a", level=1.0)
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        metrics.holm([0.1, 1.1])
