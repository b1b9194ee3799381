"""Which training algorithm gets there first, over several workloads.

Dahl, Schneider, Nado et al., "Benchmarking Neural Network Training Algorithms", 2023, arXiv 2306.07179 (AlgoPerf).
Performance profiles are from Dolan and Moré, "Benchmarking optimization software with performance profiles", 2002,
arXiv cs/0102001. Opened at the source: `performance_profile.py` of the authors (mlcommons/algorithmic-efficiency).

A workload is a model, a data set, a loss and a target that was set in advance; `times[s, w]` is how long algorithm `s`
took on workload `w`, infinite where it did not get there. Of several runs that differ in their hyper-parameters the
paper takes the fastest, then the median over five repetitions of that choice; an algorithm that fails a held-out
variant of a workload is given infinity on the workload.

Where we differ: the profile is integrated exactly, the authors' code with 100 points.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ctrain_jax.ops import check_choice


def steps_to_target(curve: ArrayLike, target: ArrayLike, mode: str, steps: ArrayLike | None = None) -> jax.Array:
    """When a curve first reaches a target.

    On an experience of a stream, against the same of a learner that starts anew, it is forward facilitation: what the
    past saves in steps (or examples) to a criterion, as power-law rehearsal is judged by (arXiv 2401.10393).

    Args:
      curve: `[..., N]`, measured while training; nan is no measurement.
      target: `[...]`, reached by a value that is equal.
      mode: "max" where higher is better, "min" where lower is.
      steps: `[N]`, steps or seconds at which the curve was measured; 1 to `N` by default.

    Returns:
      float `[...]`, infinite where the target is not reached.

    Raises:
      ValueError: another mode, or shapes that do not belong together.

    Example:
      >>> from ctrain_jax import metrics
      >>> print(metrics.steps_to_target([[0.2, 0.7, 0.8], [0.1, 0.2, 0.3]], 0.7, "max", steps=[10, 20, 30]))
      [20. inf]

    References:
      arXiv 2306.07179, 2023.
    """
    check_choice("mode", mode, ("max", "min"))
    curve, target = jnp.asarray(curve), jnp.asarray(target)
    num = curve.shape[-1] if curve.ndim else 0
    at = jnp.arange(1.0, num + 1) if steps is None else jnp.asarray(steps, float)
    if num == 0 or at.shape != (num,):
        raise ValueError(
            f"steps_to_target expects a curve [..., N] and steps [N], got {curve.shape} and {at.shape}: give the "
            "step of each measurement."
        )
    there = curve >= target[..., None] if mode == "max" else curve <= target[..., None]
    return jnp.where(there.any(-1), at[jnp.argmax(there, -1)], jnp.inf)


def performance_profile(times: ArrayLike, ratios: ArrayLike) -> np.ndarray:
    r"""On which share of the workloads an algorithm is within a factor of the fastest one.

    .. math:: \rho_s(r) = \frac{1}{W} \left| \left\{ w : t_{s,w} \le r \min_{s'} t_{s',w} \right\} \right|

    Args:
      times: `[S, W]`, above 0; infinite or nan where the target was not reached.
      ratios: `[R]`, factors from 1 on.

    Returns:
      float64 `[S, R]`, rising in `R`. A workload that nobody finished counts for nobody.

    Raises:
      ValueError: times that are not `[S, W]` or not above 0, ratios below 1.

    Example:
      >>> from ctrain_jax import metrics
      >>> print(metrics.performance_profile([[10.0, 30.0], [25.0, 20.0]], [1.0, 2.0, 3.0]))
      [[0.5 1.  1. ]
       [0.5 0.5 1. ]]

    References:
      arXiv 2306.07179, 2023; arXiv cs/0102001, 2002.
    """
    ratios = np.asarray(ratios, np.float64)
    if ratios.ndim != 1 or not (ratios >= 1).all():
        raise ValueError(f"ratios expects factors [R] of at least 1, got {ratios}: 1 is the fastest algorithm itself.")
    return (_ratios(times)[:, :, None] <= ratios).mean(1)


def profile_score(times: ArrayLike, r_max: float = 4.0) -> np.ndarray:
    r"""The area under the performance profile, one number for each algorithm.

    .. math:: B_s = \frac{1}{r_{\max} - 1} \int_1^{r_{\max}} \rho_s(r) \, \mathrm{d} r
                  = \frac{1}{W} \sum_w \max\left( 0, \frac{r_{\max} - r_{s,w}}{r_{\max} - 1} \right), \qquad
              r_{s,w} = \frac{t_{s,w}}{\min_{s'} t_{s',w}}

    The score depends on who else is there: adding an algorithm can change the order of two others.

    Args:
      times: `[S, W]`, above 0; infinite or nan where the target was not reached.
      r_max: above 1; 4 in the paper. Who is slower by this factor gets nothing for the workload.

    Returns:
      float64 `[S]`, in [0, 1]; 1: the fastest on each workload.

    Raises:
      ValueError: times that are not `[S, W]` or not above 0, an `r_max` that is not above 1.

    Example:
      >>> from ctrain_jax import metrics
      >>> print(metrics.profile_score([[10.0, 20.0], [25.0, 40.0]]))   # ratios 2.5 and 2: (1.5 / 3 + 2 / 3) / 2
      [1.         0.58333333]

    References:
      arXiv 2306.07179, 2023.
    """
    if not r_max > 1:
        raise ValueError(f"r_max must be above 1, got {r_max}: 4 gives nothing to who is four times slower.")
    return np.maximum(0.0, (r_max - _ratios(times)) / (r_max - 1)).mean(1)


def _ratios(times: ArrayLike) -> np.ndarray:
    """`[S, W]`, infinite where the target was not reached."""
    times = np.asarray(times, np.float64)
    if times.ndim != 2 or 0 in times.shape or (times <= 0).any():
        raise ValueError(
            f"times expects [S, W] above 0, algorithms down and workloads across, got shape {times.shape}"
            f"{' with others' if (times <= 0).any() else ''}: count from 1, and give inf where a target was missed."
        )
    there = np.isfinite(times)
    best = np.min(times, axis=0, where=there, initial=np.inf)
    return np.divide(times, best, where=there, out=np.full_like(times, np.inf))
