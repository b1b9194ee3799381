"""The slope against numpy's fit, and of lines by hand."""

import numpy as np
import pytest

from ctrain_jax import metrics


def test_it_is_the_slope_of_the_fit():
    curves = np.random.default_rng(0).uniform(size=(3, 2, 11))
    fits = [[np.polyfit(np.arange(11), curve, 1)[0] for curve in row] for row in curves]
    np.testing.assert_allclose(metrics.accumulation_slope(curves), fits, rtol=1e-4, atol=1e-6)


def test_lines_by_hand():
    np.testing.assert_allclose(metrics.accumulation_slope([0.1, 0.3, 0.5]), 0.2, rtol=1e-6)
    np.testing.assert_allclose(metrics.accumulation_slope([0.5, 0.1, 0.5, 0.1, 0.5]), 0.0, atol=1e-7)
    np.testing.assert_allclose(metrics.accumulation_slope([0.9, 0.4]), -0.5, rtol=1e-6)


@pytest.mark.parametrize("shape", [(), (1,), (4, 1)])
def test_a_point_has_no_slope(shape):
    with pytest.raises(ValueError, match="at least 2 experiences"):
        metrics.accumulation_slope(np.zeros(shape))
