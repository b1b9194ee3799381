"""Meta-schedules against their formula: peaks on the outer curve, no jump inside of a stage."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import optim

LENS, PEAK, END = [40, 15, 60, 25], 0.3, 0.02


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25])
@pytest.mark.parametrize("outer", ["cosine", "invsqrt"])
def test_peaks_lie_on_the_outer_curve(outer, warmup):
    plan = optim.meta_schedule(LENS, PEAK, outer=outer, warmup=warmup, end_value=END)
    rates = np.asarray(jax.jit(jax.vmap(plan))(jnp.arange(sum(LENS))))
    rise = [int(np.ceil(warmup * n)) for n in LENS]
    total, first, start = sum(LENS), rise[0], 0
    for own, length in zip(rise, LENS, strict=True):
        stage, s = rates[start : start + length], start + own - first
        if outer == "cosine":
            share = 0.5 * (1 + np.cos(np.pi * s / (total - first)))
        else:
            share = (max(first, 1) / (max(first, 1) + s)) ** 0.5
        assert np.argmax(stage) == own
        np.testing.assert_allclose(stage[own], END + (PEAK - END) * share, rtol=1e-5)
        # Up by equal parts, then down as a cosine: each step by hand.
        for i in range(length):
            if i < own:
                expected = END + (stage[own] - END) * i / own
            else:
                expected = END + (stage[own] - END) * 0.5 * (1 + np.cos(np.pi * (i - own) / (length - own)))
            np.testing.assert_allclose(stage[i], expected, rtol=1e-4, atol=1e-7)
        start += length
    np.testing.assert_allclose(plan(total), END, rtol=1e-5)
    assert rates.max() == pytest.approx(PEAK)


def test_one_stage_is_a_warmed_up_cosine():
    plan = optim.meta_schedule([50], 0.1, warmup=0.2)
    other = optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 50)
    np.testing.assert_array_equal([plan(i) for i in range(50)], [other(i) for i in range(50)])


def test_what_does_not_fit_is_refused():
    for arguments, match in (
        (([], 0.1), "expects a stage"),
        (([5], 0.1, 0.2), "an end_value of at most peak_value"),
        (([0], 0.1), "Each stage of stage_lens expects"),
        (([5, 1], 0.1), "leaves no step after it in a stage of 1"),
        (([5], 0.0), "peak_value must be above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            optim.meta_schedule(*arguments[:2], end_value=arguments[2] if len(arguments) > 2 else 0.0)
    with pytest.raises(ValueError, match="outer must be one of"):
        optim.meta_schedule([5], 0.1, outer="linear")
    with pytest.raises(ValueError, match="warmup must be between 0 and 1"):
        optim.meta_schedule([5], 0.1, warmup=2.0)
