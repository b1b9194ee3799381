"""A code of constant length for what a hypernetwork is given.

Ortiz, Guttag and Dalca, "Magnitude Invariant Parametrizations Improve Hypernetwork Learning", ICLR 2024, arXiv
2304.07645.
"""

import jax
import jax.numpy as jnp


def mip_encode(conditions: jax.Array) -> jax.Array:
    r"""Each component as a point of the circle, so that no condition is larger than another.

    .. math:: E(\gamma) = \big[\cos(\pi \gamma / 2), \; \sin(\pi \gamma / 2)\big], \qquad \|E(\gamma)\|_2^2 = D

    Args:
        conditions: `[..., D]`; in [0, 1], where no two have the same code.

    Returns:
        `[..., 2 D]`: all cosines, then all sines.

    Example:
        >>> mip_encode(jnp.array([0.0, 1.0])).round(3).tolist()
        [1.0, -0.0, 0.0, 1.0]
    """
    angles = jnp.pi / 2 * conditions
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
