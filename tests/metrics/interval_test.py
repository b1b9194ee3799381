import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ctrain_jax import metrics


def test_five_seeds_by_hand() -> None:
    # Mean 0.72; deviations -0.02, -0.01, 0, 0.01, 0.02; s^2 = 0.0010 / 4 = 0.00025, s / sqrt(5) = 0.00707107;
    # t of 4 degrees of freedom at 0.975 is 2.7764451 in any table.
    interval = metrics.mean_interval([0.70, 0.71, 0.72, 0.73, 0.74])
    np.testing.assert_allclose(interval.mean, 0.72, rtol=1e-6)
    np.testing.assert_allclose(interval.half_width, 2.7764451 * 0.00707107, rtol=1e-5)
    assert interval.num == 5


def test_agrees_with_scipy_along_any_axis_and_level() -> None:
    values = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    for axis, level in ((0, 0.95), (1, 0.9), (-1, 0.99)):
        got = metrics.mean_interval(values, level=level, axis=axis)
        num = values.shape[axis]
        low, high = stats.t.interval(level, num - 1, loc=values.mean(axis), scale=stats.sem(values, axis=axis))
        np.testing.assert_allclose(got.mean, (low + high) / 2, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(got.half_width, (high - low) / 2, rtol=1e-4)
        assert got.num == num


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    samples = np.random.default_rng(0).normal(size=(3, 20000)).astype(np.float32)
    interval = metrics.mean_interval(samples, level=0.8)
    covered = np.mean(np.abs(interval.mean) <= interval.half_width)
    # Standard error sqrt(0.8 * 0.2 / 20000) = 0.003; four of them.
    assert abs(covered - 0.8) < 0.012


def test_one_seed_has_a_mean_and_no_width() -> None:
    interval = metrics.mean_interval([[0.5, 0.6]])
    np.testing.assert_allclose(interval.mean, [0.5, 0.6], rtol=1e-6)
    assert np.isnan(interval.half_width).all()
    assert interval.num == 1


def test_jit() -> None:
    values = jnp.array([0.1, 0.2, 0.4])
    got = jax.jit(lambda x: metrics.mean_interval(x)[:2])(values)
    np.testing.assert_allclose(got, metrics.mean_interval(values)[:2], rtol=1e-6)


@pytest.mark.parametrize("values", [0.5, [], np.zeros((0, 3))])
def test_no_value_is_refused(values: object) -> None:
    with pytest.raises(ValueError, match="at least one value along axis 0"):
        metrics.mean_interval(values)


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_a_level_is_a_probability(level: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        metrics.mean_interval([0.1, 0.2], level=level)


@pytest.mark.parametrize(
    ("mean", "half_width", "percent", "text"),
    [
        (0.7134, 0.0081, True, "71.3 ± 0.8"),
        (0.7134, 0.0081, False, "0.713 ± 0.008"),
        (0.7134, np.nan, True, "71.3"),
        (-0.0001, 0.01, True, "0.0 ± 1.0"),
        (-0.123, 0.0, True, "-12.3 ± 0.0"),
        (np.nan, np.nan, True, "–"),
    ],
)
def test_text(mean: float, half_width: float, percent: bool, text: str) -> None:
    assert metrics.format_interval(metrics.Interval(mean, half_width, 3), percent=percent) == text


def test_text_of_many_intervals_is_refused() -> None:
    with pytest.raises(ValueError, match=r"means of shape \(2,\)"):
        metrics.format_interval(metrics.mean_interval(np.zeros((3, 2))))
