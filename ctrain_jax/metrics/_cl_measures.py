"""The measures that a survey of continual learning agrees on, of one run at once.

Wang, Zhang, Su and Zhu, "A Comprehensive Survey of Continual Learning: Theory, Method and Application", 2023, arXiv
2302.00487, section 2.3. The definitions are those of the ledger of the project; the paper was not opened.

Where we differ: the paper has the intransigence of each experience, here it is their mean; and "forward transfer" of
the survey is `forward_transfer_over_scratch`, as `forward_transfer` is that of Lopez-Paz and Ranzato.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ctrain_jax.metrics import _matrix


class ClMeasures(NamedTuple):
    """The numbers of a whole run, each `[...]`, named like the functions that give them; nan: no reference given."""

    final_accuracy: jax.Array  # AA
    average_incremental_accuracy: jax.Array  # AIA
    forgetting: jax.Array  # FM, lower is better
    backward_transfer: jax.Array  # BWT
    intransigence: jax.Array  # IM, lower is better; needs `joint`
    forward_transfer_over_scratch: jax.Array  # FWT of the survey; needs `scratch`
    forward_transfer: jax.Array  # FWT of GEM, zero-shot; needs `baseline`


def cl_measures(
    matrix: ArrayLike,
    *,
    joint: ArrayLike | None = None,
    scratch: ArrayLike | None = None,
    baseline: ArrayLike | None = None,
) -> ClMeasures:
    """Overall performance, memory stability and learning plasticity of a run.

    `forgetting >= -backward_transfer`, with equality where each experience peaks right after it was trained on.

    Args:
      matrix: `[..., T, T]` with `T >= 2`: accuracy in [0, 1] on experience `j` after training on experience `i`. What
        lies above the diagonal is read where there is a `baseline`.
      joint: `[..., T]`, accuracy on experience `k` of a learner that was trained on experiences 0 to `k` together.
      scratch: `[..., T]`, accuracy of a learner of each experience alone.
      baseline: `[..., T]`, accuracy of the untrained learner.

    Returns:
      Seven numbers, each `[...]`.

    Raises:
      ValueError: if the matrix is not square or has one experience, or a reference has another length.

    Example:
      >>> from ctrain_jax import metrics
      >>> R = [[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.7, 0.5, 0.9]]
      >>> run = metrics.cl_measures(R, joint=[0.9, 0.95, 0.85], scratch=[0.9, 0.9, 0.7])
      >>> print(*(f"{x:.3f}" for x in run))
      0.700 0.767 0.250 -0.250 0.033 0.050 nan

    References:
      arXiv 2302.00487, 2023, section 2.3.
    """
    first = (
        _matrix.final_accuracy(matrix),
        _matrix.average_incremental_accuracy(matrix),
        _matrix.forgetting(matrix),
        _matrix.backward_transfer(matrix),
    )
    compared = (
        (_matrix.intransigence, joint),
        (_matrix.forward_transfer_over_scratch, scratch),
        (_matrix.forward_transfer, baseline),
    )
    unknown = jnp.full_like(first[0], jnp.nan)
    return ClMeasures(*first, *(unknown if x is None else measure(matrix, x) for measure, x in compared))
