"""What happens to old experiences while a new one is learned, read off a trace of tests.

De Lange, van de Ven and Tuytelaars, "Continual evaluation for lifelong learning: Identifying the stability gap", ICLR
2023, arXiv 2205.13452. Written from the definitions in the paper, which was not opened; the ledger of the project has
them.

`A[n, i]` is the accuracy on experience `i` at the `n`-th test, in [0, 1], and `experience[n]` the one that was being
learned; both as `core.trace_stream` returns them. Leading axes (seeds) of `A` are kept. The last test of an experience
is that of the finished one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


class StabilityGap(NamedTuple):
    """The numbers of a whole trace, each `[...]`, the leading axes of the accuracies."""

    minimum: jax.Array  # mean over all but the last experience of its worst accuracy since it was learned
    worst_case: jax.Array  # the accuracy on the last experience and those worst ones, averaged over experiences
    forgetting: jax.Array  # the largest drop within a window, averaged over experiences
    plasticity: jax.Array  # the largest rise within a window, averaged over experiences


def stability_gap(accuracy: ArrayLike, experience: ArrayLike, *, window: int = 10) -> StabilityGap:
    """The measures of continual evaluation when the stream is over.

    Args:
      accuracy: `[..., N, E]`, in [0, 1].
      experience: int `[N]`, ascending from 0 to `E - 1`.
      window: tests of the window of the last two.

    Returns:
      Four numbers, each `[...]`.

    Raises:
      ValueError: shapes that do not belong together, fewer than two experiences, a `window` below 2.

    Example:
      >>> gap = stability_gap([[0.9, 0.0], [0.3, 0.5], [0.8, 0.7]], [0, 1, 1], window=2)
      >>> print(*(f"{x:.2f}" for x in gap))  # forgetting: the mean of .6 and 0
      0.30 0.50 0.30 0.50

    References:
      arXiv 2205.13452, 2022, section 3.
    """
    accuracy, experience = _trace(accuracy, experience)
    return StabilityGap(
        minimum_accuracy(accuracy, experience)[..., -1],
        worst_case_accuracy(accuracy, experience)[..., -1],
        windowed_forgetting(accuracy, window).mean(-1),
        windowed_plasticity(accuracy, window).mean(-1),
    )


def minimum_accuracy(accuracy: ArrayLike, experience: ArrayLike) -> jax.Array:
    r"""The worst accuracy of each experience since it was learned, averaged, at each test (min-ACC).

    .. math:: \frac{1}{k} \sum_{i<k} \min_{n_i < m \le n} A_{m,i}, \qquad k = \mathrm{experience}[n]

    where :math:`n_i` is the last test of experience `i`, and experiences count from 0.

    Args:
      accuracy: `[..., N, E]`, in [0, 1].
      experience: int `[N]`, ascending from 0.

    Returns:
      `[..., N]`; nan during the first experience, when nothing was learned before.

    Raises:
      ValueError: shapes that do not belong together, fewer than two experiences.

    Example:
      >>> print(minimum_accuracy([[0.9, 0.0], [0.3, 0.5], [0.8, 0.7]], [0, 1, 1]))
      [nan 0.3 0.3]
    """
    accuracy, experience = _trace(accuracy, experience)
    number = jnp.arange(accuracy.shape[-1])
    over = number < experience[:, None]
    worst = jax.lax.cummin(jnp.where(over, accuracy, jnp.inf), axis=accuracy.ndim - 2)
    return jnp.sum(jnp.where(over, worst, 0.0), -1) / jnp.where(experience > 0, experience, jnp.nan)


def worst_case_accuracy(accuracy: ArrayLike, experience: ArrayLike) -> jax.Array:
    r"""How good the learner is on the experience at hand, and has been at worst on the others, at each test (WC-ACC).

    .. math:: \frac{1}{k + 1} A_{n,k} + \Big(1 - \frac{1}{k + 1}\Big) \mathrm{minACC}_n,
              \qquad k = \mathrm{experience}[n]

    Args:
      accuracy: `[..., N, E]`, in [0, 1].
      experience: int `[N]`, ascending from 0.

    Returns:
      `[..., N]`, never above the mean accuracy of the experiences seen so far.

    Raises:
      ValueError: shapes that do not belong together, fewer than two experiences.

    Example:
      >>> print(worst_case_accuracy([[0.9, 0.0], [0.3, 0.5], [0.8, 0.7]], [0, 1, 1]))
      [0.9 0.4 0.5]
    """
    accuracy, experience = _trace(accuracy, experience)
    own = jnp.take_along_axis(accuracy, jnp.broadcast_to(experience[:, None], (*accuracy.shape[:-1], 1)), -1)[..., 0]
    others = jnp.nan_to_num(minimum_accuracy(accuracy, experience))
    return (own + experience * others) / (experience + 1)


def windowed_forgetting(accuracy: ArrayLike, window: int) -> jax.Array:
    r"""The largest drop within `window` successive tests (WF): :math:`\max_{m < n,\ n - m < D} (A_m - A_n)`.

    Args:
      accuracy: `[..., N, E]`, in [0, 1].
      window: tests of the window `D`, at least 2.

    Returns:
      `[..., E]`, at least 0.

    Raises:
      ValueError: fewer than two axes, a `window` below 2.

    Example:
      >>> print((100 * windowed_forgetting([[0.9], [0.9], [0.3], [0.8], [0.9]], 2)).round(1))
      [60.]
    """
    accuracy = jnp.asarray(accuracy, jnp.float32)
    if accuracy.ndim < 2:
        raise ValueError(f"accuracy expects [..., N, E], got shape {accuracy.shape}: give a trace of tests.")
    if window < 2:
        raise ValueError(f"window expects at least 2 tests, got {window}: a drop is between two of them.")
    size = (1,) * (accuracy.ndim - 2) + (window, 1)
    padding = [(0, 0)] * (accuracy.ndim - 2) + [(window - 1, 0), (0, 0)]
    highest = jax.lax.reduce_window(accuracy, -jnp.inf, jax.lax.max, size, (1,) * accuracy.ndim, padding)
    return jnp.max(highest - accuracy, axis=-2)


def windowed_plasticity(accuracy: ArrayLike, window: int) -> jax.Array:
    r"""The largest rise within `window` successive tests (WP): :math:`\max_{m < n,\ n - m < D} (A_n - A_m)`.

    Args:
      accuracy: `[..., N, E]`, in [0, 1].
      window: tests of the window `D`, at least 2.

    Returns:
      `[..., E]`, at least 0.

    Raises:
      ValueError: fewer than two axes, a `window` below 2.

    Example:
      >>> print((100 * windowed_plasticity([[0.9], [0.9], [0.3], [0.8], [0.9]], 2)).round(1))
      [50.]
    """
    return windowed_forgetting(-jnp.asarray(accuracy, jnp.float32), window)


def _trace(accuracy: ArrayLike, experience: ArrayLike) -> tuple[jax.Array, jax.Array]:
    accuracy, experience = jnp.asarray(accuracy, jnp.float32), jnp.asarray(experience, jnp.int32)
    if accuracy.ndim < 2 or experience.shape != accuracy.shape[-2:-1]:
        raise ValueError(
            f"A trace expects accuracies [..., N, E] and experiences [N], got {accuracy.shape} and {experience.shape}: "
            "give both as core.trace_stream returns them."
        )
    if accuracy.shape[-1] < 2:
        raise ValueError("A trace of one experience has nothing to forget: expected at least 2, got 1.")
    return accuracy, experience
