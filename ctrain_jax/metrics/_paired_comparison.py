"""Is one method better than another, where both were run with the same seeds?

Runs that share a seed share the order of the data and the initial weights (common random numbers), so that what they
share cancels in the difference: Dietterich, "Approximate Statistical Tests for Comparing Supervised Classification
Learning Algorithms", Neural Computation 10(7), 1998; Student, "The Probable Error of a Mean", Biometrika 6(1), 1908;
Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6(2), 1979. Written
from the definitions. The t test is that of scipy, which has no correction of Holm's.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from ctrain_jax.metrics._interval import Interval, mean_interval


class PairedComparison(NamedTuple):
    """One method beside the reference."""

    name: str
    difference: Interval  # of the means: the method's minus the reference's
    p_value: float  # two-sided: how often chance alone gives a difference this large
    p_holm: float  # the same, corrected for all methods that were compared


def paired_comparison(
    scores: Mapping[str, ArrayLike], reference: str, *, level: float = 0.95
) -> list[PairedComparison]:
    r"""Each method against a reference, seed by seed.

    .. math:: d_s = x_s - r_s, \qquad t = \frac{\bar d}{\mathrm{std}(d) / \sqrt{S}}, \qquad
              p = 2 \, P(T_{S-1} > |t|)

    Why Student's t test: with `S` seeds an exact test that flips the signs of the differences, and Wilcoxon's, cannot
    say less than :math:`2^{1-S}`: 0.25 of 3 seeds and 0.0625 of 5, however large the difference, and Holm's correction
    multiplies that. From 3 to 10 seeds, what is needed is the assumption that differences are about normal. They are
    of accuracies, means over many test rows, that are not close to 0 or 1; outliers such as a run that diverged make
    the test careful, not bold. It is also the test that belongs to `mean_interval`: p is below `1 - level` where the
    interval leaves out 0.

    Runs on the host, in float64.

    Args:
      scores: {method: `[S]`}, one score for each seed, of the same seeds in the same order.
      reference: the method that the others are compared with.
      level: coverage of the interval, which is of one comparison and not corrected.

    Returns:
      A row for each other method, in the order of `scores`. Differences that are all the same have p 0, or 1 where
      they are 0.

    Raises:
      ValueError: an unknown reference, nothing to compare it with, scores of different lengths or of fewer than two
        seeds, or that are not finite.

    Example:
      >>> from ctrain_jax import metrics
      >>> scores = {"naive": [0.20, 0.19, 0.21], "er": [0.70, 0.72, 0.71], "twin": [0.20, 0.20, 0.21]}
      >>> for row in metrics.paired_comparison(scores, "naive"):
      ...     print(f"{row.name} {metrics.format_interval(row.difference)} {row.p_value:.4f} {row.p_holm:.4f}")
      er 51.0 ± 4.3 0.0004 0.0008
      twin 0.3 ± 1.4 0.4226 0.4226

    References:
      Holm, Scandinavian Journal of Statistics 6(2), 1979; Student, Biometrika 6(1), 1908.
    """
    if reference not in scores or len(scores) < 2:
        raise ValueError(
            f"paired_comparison expects a reference among the scores and another method, got {reference!r} of "
            f"{', '.join(map(repr, scores)) or 'none'}: name one of them."
        )
    values = {name: np.asarray(x, np.float64) for name, x in scores.items()}
    shapes = {x.shape for x in values.values()}
    if len(shapes) > 1 or min(shapes) < (2,) or len(min(shapes)) != 1:
        raise ValueError(
            "paired_comparison expects one score for each of the same two seeds or more, got shapes "
            f"{', '.join(f'{name} {x.shape}' for name, x in values.items())}: run every method with the same seeds."
        )
    wrong = [name for name, x in values.items() if not np.isfinite(x).all()]
    if wrong:
        raise ValueError(
            f"paired_comparison expects finite scores, got others of {', '.join(wrong)}: leave these methods out, or "
            "say what a run that failed is worth."
        )
    names = [name for name in scores if name != reference]
    differences = [values[name] - values[reference] for name in names]
    p_values = np.array([_p_value(d) for d in differences])
    return [
        PairedComparison(name, mean_interval(d, level=level), p, corrected)
        for name, d, p, corrected in zip(names, differences, p_values.tolist(), holm(p_values).tolist(), strict=True)
    ]


def holm(p_values: ArrayLike) -> np.ndarray:
    r"""p values of several tests, corrected so that the chance of any false discovery is what each of them says.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min\left( 1, (m - j + 1) \, p_{(j)} \right)

    for the `m` values in ascending order, counted from 1. Never larger than Bonferroni's `m p`, whatever the tests
    have to do with each other.

    Args:
      p_values: `[m]`, in [0, 1].

    Returns:
      float64 `[m]`, in the order given.

    Raises:
      ValueError: values outside [0, 1], or not `[m]`.

    Example:
      >>> from ctrain_jax import metrics
      >>> print(metrics.holm([0.01, 0.04, 0.03]))
      [0.03 0.06 0.06]

    References:
      Holm, Scandinavian Journal of Statistics 6(2), 1979.
    """
    values = np.asarray(p_values, np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"holm expects p values [m] in [0, 1], got {p_values}: give one for each test.")
    order = np.argsort(values)
    left = np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(left * values[order]))
    return corrected


def _p_value(differences: np.ndarray) -> float:
    from scipy import stats  # half a second that `import ctrain_jax` should not pay

    if (differences == differences[0]).all():
        return 1.0 if differences[0] == 0 else 0.0
    return float(np.asarray(stats.ttest_1samp(differences, 0.0))[1])
