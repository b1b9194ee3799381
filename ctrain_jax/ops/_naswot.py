"""A score of an architecture without training."""

import jax
import jax.numpy as jnp


def naswot(codes: jax.Array, ridge: float = 0.0) -> jax.Array:
    r"""How well an untrained network tells the rows of a batch apart by which of its units are active.

    The logarithm of the determinant, in size, of

    .. math:: K_{ij} = A - d(c_i, c_j) + \mathrm{ridge} \, [i = j]

    with the Hamming distance d between codes of A units. It grows with A: compare networks of as many units.

    Args:
      codes: bool `[N, A]`, whether each unit (of all layers, one after another) is above 0 for a row.
      ridge: above 0 two rows of the same code cost much, not all: networks can still be compared.

    Returns:
      float32 `[]`; minus infinity where two rows have the same code and `ridge` is 0.

    Example:
      >>> print(naswot(jnp.array([[True, False, True], [True, True, False]])).round(3))  # |3 1; 1 3| = 8
      2.079
    """
    on = codes.astype(jnp.float32)
    return jnp.linalg.slogdet(on @ on.T + (1 - on) @ (1 - on).T + ridge * jnp.eye(len(on))).logabsdet
