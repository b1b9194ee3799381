"""Ridge regression from sums, so that rows may come in any order and in any number of parts."""

import jax
import jax.numpy as jnp


def ridge(gram: jax.Array, cross: jax.Array, gamma: jax.typing.ArrayLike) -> jax.Array:
    r"""Solves :math:`(H^\top H + \mathrm{diag}(\gamma)) \, W = H^\top Y` by Cholesky.

    Args:
      gram: `[D, D]`, :math:`H^\top H`.
      cross: `[D, K]`, :math:`H^\top Y`.
      gamma: above 0, a scalar or `[D]`; 0 for the entry of a constant, whose weight is an intercept that costs nothing.

    Returns:
      `[D, K]`.

    Example:
      >>> print(ridge(jnp.array([[1.0, 0.0], [0.0, 3.0]]), jnp.array([[2.0], [4.0]]), 1.0).round(3))
      [[1.]
       [1.]]
    """
    factor = jax.scipy.linalg.cho_factor(gram + gamma * jnp.eye(len(gram), dtype=gram.dtype))
    return jax.scipy.linalg.cho_solve(factor, cross)
