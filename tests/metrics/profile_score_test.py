"""Times and profiles worked out by hand, and the integral by a sum."""

import jax
import numpy as np
import pytest

from ctrain_jax import metrics

INF = np.inf
# Fastest: 10, 20, 5, 40. Ratios: 1, 1.5, inf, 2; 2, 1, 3, 1; 5, inf, 1, inf.
TIMES = np.array([[10.0, 30.0, INF, 80.0], [20.0, 20.0, 15.0, 40.0], [50.0, INF, 5.0, INF]])
RATIOS = [1.0, 1.4, 1.5, 2.0, 3.0, 4.0, 5.0]


def test_the_profile_by_hand():
    want = np.array([[1, 1, 2, 3, 3, 3, 3], [2, 2, 2, 3, 4, 4, 4], [1, 1, 1, 1, 1, 1, 2]]) / 4
    np.testing.assert_array_equal(metrics.performance_profile(TIMES, RATIOS), want)


def test_the_score_by_hand_and_as_an_integral():
    # (4 - ratio) / 3 of each workload, averaged: (3 + 2.5 + 0 + 2) / 12, (2 + 3 + 1 + 3) / 12, 3 / 12.
    score = metrics.profile_score(TIMES)
    np.testing.assert_allclose(score, [7.5 / 12, 9 / 12, 3 / 12], rtol=1e-12)
    middles = 1 + 3 * (np.arange(3000) + 0.5) / 3000
    np.testing.assert_allclose(score, metrics.performance_profile(TIMES, middles).mean(1), atol=1e-6)
    np.testing.assert_allclose(metrics.profile_score(TIMES, 2.0), [1.5 / 4, 2 / 4, 1 / 4], rtol=1e-12)


def test_the_extremes():
    fast, slow, never = [3.0, 7.0, 9.0], [6.0, 14.0, 18.0], [INF] * 3
    np.testing.assert_allclose(metrics.profile_score([fast, slow, never]), [1, 2 / 3, 0], rtol=1e-12)
    # A workload that nobody finishes is lost for all; nan is no time either.
    np.testing.assert_allclose(metrics.profile_score([[3.0, INF], [3.0, np.nan]]), [0.5, 0.5])
    np.testing.assert_array_equal(metrics.performance_profile([never, never], [1.0, 9.0]), np.zeros((2, 2)))


def test_the_unit_of_time_does_not_matter():
    units = np.array([1e-3, 7.0, 3600.0, 1e6])
    np.testing.assert_allclose(metrics.profile_score(TIMES * units), metrics.profile_score(TIMES), rtol=1e-12)


def test_the_first_time_at_the_target_counts():
    curve = np.array([[0.1, 0.5, 0.4, 0.9], [0.1, 0.2, 0.3, 0.4], [np.nan, 0.5, np.nan, 0.6]])
    assert metrics.steps_to_target(curve, 0.5, "max").tolist() == [2, INF, 2]
    assert metrics.steps_to_target(curve, 0.3, "min", steps=[5, 10, 15, 20]).tolist() == [5, 5, INF]
    several = jax.jit(lambda c: metrics.steps_to_target(c, np.array([0.9, 0.2, 0.6]), "max"))(curve)
    assert several.tolist() == [4, 2, 4]


def test_what_does_not_fit_is_refused():
    for call, match in (
        (lambda: metrics.steps_to_target([0.1], 0.1, "up"), "mode must be one of"),
        (lambda: metrics.steps_to_target([], 0.1, "max"), "curve \\[\\.\\.\\., N\\]"),
        (lambda: metrics.steps_to_target([0.1, 0.2], 0.1, "max", steps=[1]), "steps \\[N\\]"),
        (lambda: metrics.profile_score([1.0, 2.0]), "times expects \\[S, W\\]"),
        (lambda: metrics.profile_score([[1.0, 0.0]]), "with others"),
        (lambda: metrics.profile_score([[1.0, 2.0]], r_max=1.0), "r_max must be above 1"),
        (lambda: metrics.performance_profile([[1.0]], [0.5]), "at least 1"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
