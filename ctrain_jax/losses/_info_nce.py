"""InfoNCE: a row finds its key among those of all rows.

Van den Oord, Li and Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018, arXiv 1807.03748;
with a queue of keys as in He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020,
arXiv 1911.05722, and between two towers as in Radford et al. 2021 (CLIP), arXiv 2103.00020. Where we differ: nowhere.
Written from the equation; no code was opened.
"""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from ctrain_jax.ops import unit


def info_nce(
    features: jax.Array, keys: jax.Array, temperature: ArrayLike = 0.07, where: jax.Array | None = None
) -> jax.Array:
    r"""The cross-entropy of telling the key of each row from all the others.

    With :math:`z_i` and :math:`k_j` the features and the keys divided by their norms,

    .. math:: - \log \frac{\exp(z_i \cdot k_i / \tau)}{\sum_j \exp(z_i \cdot k_j / \tau)}

    Both directions of a pair are the mean of `info_nce(a, b)` and `info_nce(b, a)`.

    Args:
      features: `[B, D]`.
      keys: `[K, D]`, K at least B: the first B are those of the rows, others (of a queue, say) belong to none.
      temperature: above 0.
      where: bool `[K]`, the keys that take part; all by default.

    Returns:
      `[B]`; 0 for a row whose key takes no part.

    Raises:
      ValueError: fewer keys than rows.

    Example:
      >>> rows = jnp.array([[1.0, 0.0], [0.0, 2.0]])
      >>> [round(loss, 4) for loss in info_nce(rows, rows, 1.0).tolist()]  # log(1 + exp(-1))
      [0.3133, 0.3133]
    """
    if len(keys) < len(features):
        raise ValueError(f"info_nce expects a key for each of {len(features)} rows, got {len(keys)}: give those first.")
    there = jnp.ones(keys.shape[:1], bool) if where is None else where
    similarity = unit(features) @ unit(keys).T / temperature
    # Finite also where no key takes part: a gradient of 0 must not meet infinity.
    similarity = jnp.where(there, similarity, jnp.finfo(similarity.dtype).min / 2)
    own = jnp.arange(features.shape[0])
    return jnp.where(there[own], optax.softmax_cross_entropy_with_integer_labels(similarity, own), 0.0)
