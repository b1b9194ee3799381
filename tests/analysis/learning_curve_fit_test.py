"""Power laws are found again, and a fit knows when it is done."""

import numpy as np
import pytest

from ctrain_jax import analysis

SIZES = np.geomspace(10, 1e4, 12)


@pytest.mark.parametrize("law", [(0.95, 0.9, 0.45), (0.7, 3.0, 1.5), (71.0, 40.0, 0.2), (-0.2, 2.0, 0.8)])
def test_a_curve_without_noise_is_found_again(law):
    scores = law[0] - law[1] * SIZES ** -law[2]
    np.testing.assert_allclose(analysis.fit_power(SIZES, scores), law, rtol=1e-4)
    np.testing.assert_allclose(analysis.predict_power(analysis.PowerLaw(*law), SIZES), scores, rtol=1e-12)
    np.testing.assert_allclose(analysis.fit_power(1e6 * SIZES, scores).limit, law[0], rtol=1e-4)


def test_no_other_law_has_a_smaller_error():
    scores = 0.9 - 0.5 * SIZES**-0.4 + 0.01 * np.random.default_rng(0).normal(size=12)
    best = analysis.fit_power(SIZES, scores)

    def error(law):
        return np.sum((analysis.predict_power(law, SIZES) - scores) ** 2)

    # The best limit and scale of each decay of a grid, by linear least squares.
    for decay in np.geomspace(0.02, 3, 200):
        design = np.stack([np.ones(12), -(SIZES**-decay)], axis=1)
        (limit, scale), *_ = np.linalg.lstsq(design, scores)
        assert error(best) <= error(analysis.PowerLaw(limit, scale, decay)) + 1e-9
    for part in range(3):
        for step in (-1e-3, 1e-3):
            moved = list(best)
            moved[part] *= 1 + step
            assert error(best) < error(analysis.PowerLaw(*moved))


def test_a_curve_that_does_not_rise_has_its_mean():
    law = analysis.fit_power(SIZES, np.linspace(0.9, 0.5, 12))
    assert law.scale == 0 and law.limit == pytest.approx(0.7)
    np.testing.assert_allclose(analysis.predict_power(law, 1e9), 0.7)
    assert analysis.fit_power(SIZES, np.full(12, 0.3)).limit == pytest.approx(0.3)


def test_each_level_is_the_fit_of_the_points_so_far():
    scores = 0.9 - 0.5 * SIZES**-0.4 + 0.01 * np.random.default_rng(1).normal(size=12)
    fit = analysis.learning_curve_fit(SIZES, scores, threshold=0.02)
    limits = [analysis.fit_power(SIZES[:n], scores[:n]).limit for n in range(3, 13)]
    np.testing.assert_array_equal(fit.limits, [np.nan, np.nan, *limits])
    assert fit.law == analysis.fit_power(SIZES, scores)
    first = next(n for n in range(4, 13) if limits[n - 3] < limits[n - 4])
    assert fit.working_level == first
    before = analysis.learning_curve_fit(SIZES[: first - 1], scores[: first - 1])
    assert before.working_level is None and not analysis.should_stop(before)


def test_it_stops_when_the_limit_rests_and_not_before_it_has_fallen():
    def fit(limits, level, threshold=0.01):
        return analysis.LearningCurveFit(analysis.PowerLaw(0.9, 1, 1), np.array(limits), level, threshold)

    assert not analysis.should_stop(fit([0.7, 0.9, 0.905], None))
    assert not analysis.should_stop(fit([0.7, 0.9, 0.85], 3))
    assert analysis.should_stop(fit([0.7, 0.9, 0.85, 0.845], 3))
    assert analysis.should_stop(fit([0.7, 0.9, 0.85, 0.855], 3))


def test_what_does_not_fit_is_refused():
    for call, match in (
        (lambda: analysis.fit_power([1, 2], [0.1, 0.2]), "three points or more"),
        (lambda: analysis.fit_power([1, 2, 3], [0.1, 0.2]), "three points or more"),
        (lambda: analysis.fit_power([1, 3, 2], [0.1, 0.2, 0.3]), "start above 0 and increase"),
        (lambda: analysis.fit_power([0, 1, 2], [0.1, 0.2, 0.3]), "start above 0 and increase"),
        (lambda: analysis.learning_curve_fit([1, 2, 3], [0.1, np.nan, 0.3]), "finite values"),
        (lambda: analysis.learning_curve_fit([1, 2, 3], [0.1, 0.2, 0.3], threshold=0.0), "threshold must be"),
        (lambda: analysis.predict_power(analysis.PowerLaw(1, 1, 1), [1, 0]), "sizes must be above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
