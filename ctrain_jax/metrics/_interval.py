"""A mean over seeds and how far it can be trusted."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Interval(NamedTuple):
    """`mean - half_width` to `mean + half_width`."""

    mean: jax.Array  # float [...]
    half_width: jax.Array  # float [...], nan where there is one value
    num: int  # how many values were averaged


def mean_interval(values: jax.typing.ArrayLike, *, level: float = 0.95, axis: int = 0) -> Interval:
    r"""Mean with a two-sided Student-t confidence interval.

    .. math:: \bar x \pm t_{n-1,\,(1 + \mathrm{level}) / 2} \; s / \sqrt{n}, \qquad
              s^2 = \frac{1}{n-1} \sum_{k=1}^{n} (x_k - \bar x)^2

    The seeds of one run are few (3 to 10), so the normal quantile would be too narrow: with five seeds it is 1.96
    where Student's is 2.78.

    Args:
      values: `[..., n, ...]`, one value for each seed along `axis`.
      level: coverage, between 0 and 1.
      axis: the axis of the seeds.

    Returns:
      `Interval` whose fields have the shape of `values` without `axis`. The half width of one value is nan: one seed
      says nothing about the spread.

    Raises:
      ValueError: if there is no value along `axis`, or `level` lies outside (0, 1).

    Example:
      >>> from ctrain_jax import metrics
      >>> interval = metrics.mean_interval([0.70, 0.72, 0.74])
      >>> print(f"{interval.mean:.4f} {interval.half_width:.4f} {interval.num}")   # 4.3027 * 0.02 / sqrt(3)
      0.7200 0.0497 3
      >>> metrics.format_interval(interval)
      '72.0 ± 5.0'

    References:
      Student, "The Probable Error of a Mean", Biometrika 6(1), 1908.
    """
    values = jnp.asarray(values)
    num = values.shape[axis] if values.ndim else 0
    if num == 0:
        raise ValueError(
            f"mean_interval needs at least one value along axis {axis}, got an array of shape {values.shape}: give "
            "one value for each seed."
        )
    if not 0 < level < 1:
        raise ValueError(f"The level of an interval lies between 0 and 1, got {level}: use 0.95 for 95 percent.")
    mean = jnp.mean(values, axis=axis)
    if num == 1:
        return Interval(mean, jnp.full_like(mean, jnp.nan), num)
    from scipy import stats  # half a second that `import ctrain_jax` should not pay

    quantile = float(stats.t.ppf((1 + level) / 2, num - 1))
    return Interval(mean, quantile * jnp.std(values, axis=axis, ddof=1) / math.sqrt(num), num)


def format_interval(interval: Interval, percent: bool = True) -> str:
    """One interval as text.

    Args:
      interval: of scalars.
      percent: one decimal of 100 times the value; otherwise three decimals of the value itself.

    Returns:
      `"71.3 ± 0.8"`; `"71.3"` where the half width is nan (one seed); `"–"` where the mean is nan.

    Raises:
      ValueError: if the interval holds more than one mean.

    Example:
      >>> from ctrain_jax import metrics
      >>> metrics.format_interval(metrics.mean_interval([0.713]))
      '71.3'
      >>> metrics.format_interval(metrics.mean_interval([0.70, 0.72, 0.74]), percent=False)
      '0.720 ± 0.050'
    """
    if jnp.size(interval.mean) != 1:
        raise ValueError(
            f"format_interval writes one interval, got means of shape {jnp.shape(interval.mean)}: index the fields "
            "and format them one by one."
        )
    scale, decimals = (100, 1) if percent else (1, 3)
    mean, half_width = (float(jnp.squeeze(jnp.asarray(x))) * scale for x in (interval.mean, interval.half_width))
    if math.isnan(mean):
        return "–"
    # Adding 0.0 turns the -0.0 that rounding leaves behind into 0.0.
    text = f"{round(mean, decimals) + 0.0:.{decimals}f}"
    return text if math.isnan(half_width) else f"{text} ± {half_width:.{decimals}f}"
