"""Which learners are worth their cost: those that no other one beats in both error and compute.

The front of error against cumulative training FLOPs is the result of NEVIS'22: Bornschein, Galashov, Hemsley,
Rannen-Triki et al., 2022, arXiv 2211.11747. The definition is Pareto's; no code was opened.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def pareto(errors: ArrayLike, flops: ArrayLike) -> jax.Array:
    r"""The points that no other point dominates.

    Point :math:`j` dominates :math:`i` where :math:`e_j \le e_i` and :math:`f_j \le f_i`, and one of them is less.
    Equal points do not dominate each other: both stay.

    Args:
      errors: `[..., N]`, less is better; nan is a learner without a result, which never stays.
      flops: `[..., N]`, its cost in any unit, less is better.

    Returns:
      bool `[..., N]`.

    Raises:
      ValueError: shapes that are not equal, or no axis.

    Example:
      >>> from ctrain_jax import metrics
      >>> print(metrics.pareto([0.3, 0.2, 0.25, 0.2], [1.0, 2.0, 3.0, 4.0]))
      [ True  True False False]

    References:
      arXiv 2211.11747, 2022.
    """
    error, cost = jnp.asarray(errors), jnp.asarray(flops)
    if error.shape != cost.shape or error.ndim == 0:
        raise ValueError(
            f"pareto expects an error and a cost [..., N] for each point, got shapes {error.shape} and {cost.shape}: "
            "give arrays of one shape."
        )
    # [..., i, j]: does j dominate i?
    no_worse = (error[..., None, :] <= error[..., None]) & (cost[..., None, :] <= cost[..., None])
    better = (error[..., None, :] < error[..., None]) | (cost[..., None, :] < cost[..., None])
    return ~(no_worse & better).any(-1) & ~jnp.isnan(error) & ~jnp.isnan(cost)
