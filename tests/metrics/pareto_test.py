"""The front by hand, and by the definition in loops."""

import jax
import numpy as np
import pytest

from ctrain_jax import metrics


def test_the_front_by_hand():
    # (error, cost): the second is beaten by the first, the fifth by the fourth, which is as good for less.
    errors, flops = [0.5, 0.6, 0.4, 0.1, 0.1, 0.3], [1.0, 1.0, 2.0, 5.0, 6.0, 5.0]
    assert metrics.pareto(errors, flops).tolist() == [True, False, True, True, False, False]


def test_equal_points_both_stay_and_what_has_no_result_never_does():
    assert metrics.pareto([0.2, 0.2, np.nan, 0.1], [3, 3, 1, np.nan]).tolist() == [True, True, False, False]
    assert metrics.pareto([np.inf, 0.5], [1.0, 2.0]).tolist() == [True, True]


def test_the_definition_in_loops_compiled_and_with_leading_axes():
    points = np.random.default_rng(0).integers(0, 6, (2, 7, 20)).astype(float)
    found = jax.jit(metrics.pareto)(points[0], points[1])
    for row, (e, f) in enumerate(zip(*points, strict=True)):
        for i in range(20):
            beaten = any(e[j] <= e[i] and f[j] <= f[i] and (e[j] < e[i] or f[j] < f[i]) for j in range(20))
            assert bool(found[row, i]) is not beaten


def test_what_does_not_fit_is_refused():
    for errors, flops in (([0.1, 0.2], [1.0]), (0.1, 1.0)):
        with pytest.raises(ValueError, match="pareto expects an error and a cost"):
            metrics.pareto(errors, flops)
