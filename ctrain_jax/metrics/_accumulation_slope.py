"""How fast knowledge accumulates over a long stream.

Lesort et al., "Challenging Common Assumptions about Catastrophic Forgetting and Knowledge Accumulation", 2023, arXiv
2207.04543, look at the accuracy on all classes over the tasks; the line through it is ours.
"""

import jax
import jax.numpy as jnp


def accumulation_slope(curve: jax.typing.ArrayLike) -> jax.Array:
    r"""Slope of the least-squares line through a curve: what an experience adds on average.

    .. math:: \frac{\sum_t (t - \bar t) \, a_t}{\sum_t (t - \bar t)^2}

    Above 0 where knowledge grows in spite of drops between experiences; 0 where each experience loses what it gains.

    Args:
      curve: `[..., T]` with `T >= 2`, accuracy on everything after each experience: `accuracy[..., 0]` of a stream with
        one test experience, or `seen_accuracy`.

    Returns:
      `[...]`, accuracy for each experience.

    Raises:
      ValueError: a curve of fewer than two points.

    Example:
      >>> print(f"{accumulation_slope([0.2, 0.1, 0.4, 0.3]):.3f}")  # (3 * 0.1 + 1 * 0.3) / 10
      0.060

    References:
      arXiv 2207.04543, 2023.
    """
    curve = jnp.asarray(curve)
    if curve.ndim < 1 or curve.shape[-1] < 2:
        raise ValueError(
            f"accumulation_slope expects a curve [..., T] of at least 2 experiences, got shape {curve.shape}: take "
            "accuracy[..., 0] of a longer run."
        )
    time = jnp.arange(curve.shape[-1]) - (curve.shape[-1] - 1) / 2
    return jnp.sum(time * curve, axis=-1) / jnp.sum(time**2)
