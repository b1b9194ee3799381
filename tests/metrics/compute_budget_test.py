"""What a call costs, by the formula of a matrix product, and budgets that are never exceeded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import metrics


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize("m, k, n", [(3, 4, 5), (1, 100, 7), (64, 32, 16)])
def test_a_matrix_product_is_2mkn(m, k, n):
    for function in (jnp.matmul, jax.jit(jnp.matmul)):
        assert metrics.flops_of(function, shaped(m, k), shaped(k, n)) == 2 * m * k * n


def test_the_body_of_a_loop_counts_once_as_the_docstring_says():
    def loop(length):
        return lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=length)[0]

    one, ten = (metrics.flops_of(loop(length), shaped(32, 32)) for length in (1, 10))
    assert one == ten and 2 * 32**3 <= ten < 2.01 * 32**3


def test_memory_is_what_goes_in_and_out_and_between():
    # In: two matrices of 64 x 64 float32; out: one.
    matrix = 4 * 64 * 64
    assert metrics.peak_bytes_of(jnp.matmul, shaped(64, 64), shaped(64, 64)) >= 3 * matrix
    assert metrics.peak_bytes_of(lambda x: x + 1, shaped(64, 64)) == 2 * matrix
    flops = metrics.flops_of(lambda x: x + 1, shaped(64, 64))
    for factor in (0.5, 1, 4):
        found = metrics.memory_adjusted_flops(lambda x: x + 1, shaped(64, 64), reference_bytes=2 * matrix * factor)
        assert found == flops / factor


def test_a_budget_is_never_exceeded_and_hardly_left():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        step = 10 ** rng.uniform(-3, 12)
        fixed = step * rng.choice([0.0, rng.uniform(0, 30)])
        budget = fixed + step * rng.uniform(1, 500)
        num = metrics.steps_for_budget(budget, step, fixed)
        assert fixed + num * step <= budget < fixed + (num + 1) * step * (1 + 1e-9)
        assert budget < 20 * step or fixed + num * step >= 0.95 * budget * (1 - 1e-9)
    assert metrics.steps_for_budget(12.0, 3.0) == 4
    # 0.3 / 0.1 is below 3 in binary, and 3 * 0.1 is above 0.3.
    assert metrics.steps_for_budget(0.3, 0.1) == 2
    # And here the quotient is rounded up to 71, which costs more than there is.
    assert 71 * 2.6788738728803985 > 190.20004497450827
    assert metrics.steps_for_budget(190.20004497450827, 2.6788738728803985) == 70


def test_what_does_not_fit_is_refused():
    for call, match in (
        (lambda: metrics.steps_for_budget(0.0, 1.0), "budget must be above 0"),
        (lambda: metrics.steps_for_budget(1.0, 0.0), "step must be above 0"),
        (lambda: metrics.steps_for_budget(1.0, 1.0, -1.0), "fixed must be 0 or above"),
        (lambda: metrics.steps_for_budget(1.0, 2.0), "expects a budget that pays for a step"),
        (lambda: metrics.memory_adjusted_flops(jnp.sin, 1.0, reference_bytes=0), "reference_bytes must be above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
