"""Codes of hyperdimensional computing: signs of random projections."""

import jax
import jax.numpy as jnp


def hdc_encode(features: jax.Array, projection: jax.Array) -> jax.Array:
    r"""Which side of many random planes a row lies on.

    .. math:: h(x) = \mathrm{sign}(P^\top x), \qquad E \cos(h(x), h(y)) = 1 - \frac{2 \alpha}{\pi}

    with the angle :math:`\alpha` between x and y: exactly for normal entries of P, nearly for random signs where no few
    entries of x make up most of its length. The deviation is at most one over the root of the number of planes. A sum
    of codes (a prototype) is near to each of them; a sum over layers, or an entrywise product with a code of the layer,
    holds several features of a row.

    Args:
      features: `[..., D]`.
      projection: `[D, H]`, as `jax.random.rademacher(key, (D, H), jnp.int8)`, in any dtype.

    Returns:
      1 or -1, float32 `[..., H]`; 1 on a plane.

    Example:
      >>> projection = jax.random.rademacher(jax.random.key(0), (64, 4000), jnp.int8)
      >>> codes = hdc_encode(jnp.array([[1.0] * 64, [1.0, 0.0] * 32]), projection)
      >>> print((codes[0] @ codes[1] / 4000).round(1))  # they lie 45 degrees apart
      0.5
    """
    return jnp.where(features.astype(jnp.float32) @ projection.astype(jnp.float32) >= 0, 1.0, -1.0)
