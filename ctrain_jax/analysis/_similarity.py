"""How alike two representations of the same rows are, whatever the names of their units.

Kornblith, Norouzi, Lee and Hinton, "Similarity of Neural Network Representations Revisited", ICML 2019, arXiv
1905.00414 (linear CKA); Ding, Denain and Steinhardt, "Grounding Representation Similarity with Statistical Testing",
NeurIPS 2021, arXiv 2108.01661 (orthogonal Procrustes). Written from the definitions; the papers were not opened.

Where we differ: both representations are always centred, and for Procrustes scaled to norm 1.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def linear_cka(first: ArrayLike, second: ArrayLike) -> jax.Array:
    r"""Centred kernel alignment of linear kernels.

    .. math:: \mathrm{CKA}(X, Y) = \frac{\|Y^\top X\|_F^2}{\|X^\top X\|_F \, \|Y^\top Y\|_F}

    of centred columns. Rotations, reflections and a common scale of the units change nothing; a scale of each unit
    does. Directions of large variance decide: with few rows, or with one such direction in common, it is close to 1
    for representations that differ in all others.

    Args:
      first: `[N, K]`.
      second: `[N, L]`, of the same rows in the same order. Leave padded rows out.

    Returns:
      `[]`, float32, in [0, 1]; 1: the same but for a rotation and a scale. nan where one of them is constant.

    Raises:
      ValueError: features that are not `[N, K]` and `[N, L]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ctrain_jax import analysis
      >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
      >>> print(f"{analysis.linear_cka(x, -3 * x[:, ::-1]):.3f} {analysis.linear_cka(x, x[:, :1]):.3f}")
      1.000 0.707

    References:
      arXiv 1905.00414, 2019, equation 5.
    """
    first, second = _centred(first, second, "linear_cka")
    inner = [jnp.sum((a.T @ b) ** 2) for a, b in ((first, second), (first, first), (second, second))]
    return inner[0] / jnp.sqrt(inner[1] * inner[2])


def procrustes(first: ArrayLike, second: ArrayLike) -> jax.Array:
    r"""Squared distance that is left when one representation is turned onto the other as well as can be.

    .. math:: d(X, Y) = \min_{Q^\top Q = I} \|X - Y Q\|_F^2 = 2 - 2 \, \|X^\top Y\|_*

    of centred representations of Frobenius norm 1; :math:`\|\cdot\|_*` is the sum of singular values. Its square root
    is a metric. All directions count, where `linear_cka` hears the loudest ones.

    Args:
      first: `[N, K]`.
      second: `[N, L]`, of the same rows in the same order; the narrower one is filled up with zeros.

    Returns:
      `[]`, float32, in [0, 2]; 0: the same but for a rotation and a scale. nan where one of them is constant.

    Raises:
      ValueError: features that are not `[N, K]` and `[N, L]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ctrain_jax import analysis
      >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
      >>> print(f"{analysis.procrustes(x, x[:, :1]):.3f}")   # 2 - 2 / sqrt(2)
      0.586

    References:
      arXiv 2108.01661, 2021. Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika
      31(1), 1966.
    """
    x, y = (z / jnp.linalg.norm(z) for z in _centred(first, second, "procrustes"))
    # Rounding would leave a little below 0.
    return jnp.maximum(2 - 2 * jnp.linalg.svd(x.T @ y, compute_uv=False).sum(), 0.0)


def _centred(first: ArrayLike, second: ArrayLike, name: str) -> tuple[jax.Array, jax.Array]:
    first, second = jnp.asarray(first, jnp.float32), jnp.asarray(second, jnp.float32)
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second) or len(first) < 2:
        raise ValueError(
            f"{name} expects features [N, K] and [N, L] of the same two rows or more, got {first.shape} and "
            f"{second.shape}: flatten them, one row each."
        )
    return first - first.mean(0), second - second.mean(0)
