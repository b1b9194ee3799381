"""Where a learning curve will end, from its beginning.

Vilares Ferro, Darriba Bilbao and Ribadas Pena, "Modeling of learning curves with applications to POS tagging", Computer
Speech and Language 41, 2017, arXiv 2402.02515. The abstract was opened; the definitions are those of the ledger of the
project. The fits are by scipy's trust region, so everything runs on the host.

Where we differ: the working level is read off the asymptotes alone, as the first one below its predecessor; no
anchoring with an observation at infinity, whose construction is not clear from what was opened.
"""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from ctrain_jax.ops import check_positive


class PowerLaw(NamedTuple):
    """`limit - scale * size ** -decay`."""

    limit: float  # the asymptote, in units of the scores
    scale: float  # at least 0: curves rise
    decay: float  # above 0: faster where larger


class LearningCurveFit(NamedTuple):
    """What a curve promises, and since when."""

    law: PowerLaw  # fitted to all points
    limits: np.ndarray  # float64 [n], the asymptote of the first i + 1 points; nan for fewer than three
    working_level: int | None  # how many points it took until the asymptote fell; None: it has only risen
    threshold: float  # how close two asymptotes have to be


def learning_curve_fit(sizes: ArrayLike, scores: ArrayLike, threshold: float = 0.001) -> LearningCurveFit:
    """Predict the asymptote of a learning curve after each of its points.

    Early points are irregular and make the asymptote rise. From the working level on, where it begins to fall, it comes
    down towards what will be reached, and is a usable estimate that tends to be too high.

    How far it can see is a matter of noise: points over several decades of sizes tell the asymptote, points over one
    hardly more than the last score does (see the evidence).

    Args:
      sizes: `[n]`, increasing and above 0: rows, steps or epochs seen.
      scores: `[n]`, where higher is better; of an error give its negative.
      threshold: the change of the asymptote below which `should_stop` says so, in units of the scores.

    Returns:
      A `LearningCurveFit`; `predict_power(fit.law, sizes)` is the score at any size.

    Raises:
      ValueError: fewer than three points, sizes that do not increase, values that are not finite, a threshold that is
        not above 0.

    Example:
      >>> import numpy as np
      >>> from ctrain_jax import analysis
      >>> sizes = np.array([10, 20, 40, 80, 160])
      >>> fit = analysis.learning_curve_fit(sizes, 0.9 - 0.5 * sizes**-0.5)
      >>> print(f"{fit.law.limit:.3f} {fit.law.scale:.3f} {fit.law.decay:.3f}")
      0.900 0.500 0.500
      >>> print(f"{analysis.predict_power(fit.law, 2500):.3f}")   # 0.9 - 0.5 / 50
      0.890

    References:
      arXiv 2402.02515; Computer Speech and Language 41, 2017.
    """
    check_positive("threshold", threshold)
    sizes, scores = _curve(sizes, scores)
    laws = [fit_power(sizes[:num], scores[:num]) for num in range(3, len(sizes) + 1)]
    limits = np.array([np.nan, np.nan] + [law.limit for law in laws])
    falls = np.flatnonzero(np.diff(limits) < 0)
    return LearningCurveFit(laws[-1], limits, int(falls[0]) + 2 if falls.size else None, float(threshold))


def should_stop(fit: LearningCurveFit) -> bool:
    """Whether the last point has moved the asymptote by less than the threshold, after the working level.

    Args:
      fit: from `learning_curve_fit`, of the points so far.

    Returns:
      True where more data would, by the fit, not change what is known about the end.

    Example:
      >>> from ctrain_jax import analysis
      >>> fit = analysis.learning_curve_fit([1, 2, 4, 8, 16, 32], [0.3, 0.5, 0.65, 0.74, 0.79, 0.82], threshold=0.02)
      >>> print(fit.limits.round(3), fit.working_level, analysis.should_stop(fit))
      [  nan   nan 1.1   0.957 0.907 0.888] 4 True
    """
    return fit.working_level is not None and bool(abs(fit.limits[-1] - fit.limits[-2]) < fit.threshold)


def fit_power(sizes: ArrayLike, scores: ArrayLike) -> PowerLaw:
    r"""The power law with the least squared error, :math:`\min_{c, a \ge 0, b > 0} \sum_i (y_i - c + a x_i^{-b})^2`.

    Args:
      sizes: `[n]`, increasing and above 0.
      scores: `[n]`, where higher is better.

    Returns:
      `PowerLaw` of floats. Of a curve that does not rise, `scale` is 0 and `limit` the mean.

    Raises:
      ValueError: fewer than three points, sizes that do not increase, values that are not finite.

    Example:
      >>> import numpy as np
      >>> from ctrain_jax import analysis
      >>> law = analysis.fit_power(np.array([1, 4, 16, 64]), np.array([0.1, 0.5, 0.7, 0.8]))   # 0.9 - 0.8 / sqrt(x)
      >>> print(f"{law.limit:.3f} {law.scale:.3f} {law.decay:.3f}")
      0.900 0.800 0.500

    References:
      arXiv 2402.02515, 2017.
    """
    from scipy import optimize  # half a second that `import ctrain_jax` should not pay

    sizes, scores = _curve(sizes, scores)
    # Sizes in units of their geometric mean: the three parameters then have about the size of the scores.
    unit = float(np.exp(np.log(sizes).mean()))
    x = np.log(sizes / unit)

    def linear(decay: float) -> tuple[float, np.ndarray]:
        """The best limit and scale of a decay, and their squared error."""
        power = np.exp(-decay * x)
        power = power - power.mean()
        scale = max(-float(power @ scores) / float(power @ power), 0.0)
        limit = float(np.mean(scores + scale * np.exp(-decay * x)))
        return float(np.sum((scores - scores.mean() + scale * power) ** 2)), np.array([limit, scale, decay])

    _, start = min((linear(decay) for decay in np.geomspace(0.01, 5.0, 40)), key=lambda pair: pair[0])
    if start[1] == 0:
        return PowerLaw(float(scores.mean()), 0.0, float(start[2]))

    def residuals(p: np.ndarray) -> np.ndarray:
        return p[0] - p[1] * np.exp(-p[2] * x) - scores

    # A decay of 0 would be no curve at all, and its limit infinite.
    bounds = ([-np.inf, 0.0, 1e-3], [np.inf, np.inf, 20.0])
    found = optimize.least_squares(residuals, start, "3-point", bounds, x_scale="jac", xtol=1e-12, ftol=1e-12)
    limit, scale, decay = found.x.tolist()
    return PowerLaw(limit, scale * unit**decay, decay)


def predict_power(law: PowerLaw, sizes: ArrayLike) -> np.ndarray:
    """The scores that a power law gives.

    Args:
      law: from `fit_power` or `learning_curve_fit`.
      sizes: `[...]`, above 0.

    Returns:
      float64 `[...]`.

    Raises:
      ValueError: sizes that are not above 0.

    Example:
      >>> from ctrain_jax import analysis
      >>> print(analysis.predict_power(analysis.PowerLaw(0.9, 0.8, 0.5), [1, 4, 16]))
      [0.1 0.5 0.7]
    """
    check_positive("sizes", sizes)
    return law.limit - law.scale * np.asarray(sizes, np.float64) ** -law.decay


def _curve(sizes: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    sizes, scores = np.asarray(sizes, np.float64), np.asarray(scores, np.float64)
    if sizes.ndim != 1 or sizes.shape != scores.shape or len(sizes) < 3:
        raise ValueError(
            f"A learning curve expects three points or more, sizes [n] and scores [n], got {sizes.shape} and "
            f"{scores.shape}: measure more of it."
        )
    if not (np.isfinite(sizes).all() and np.isfinite(scores).all() and sizes[0] > 0 and (np.diff(sizes) > 0).all()):
        raise ValueError(
            f"A learning curve expects finite values and sizes that start above 0 and increase, got sizes {sizes} and "
            f"scores {scores}: sort them, and leave out what failed."
        )
    return sizes, scores
