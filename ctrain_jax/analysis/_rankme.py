"""How many directions a representation uses: its effective rank.

Garrido, Balestriero, Najman and LeCun, "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised
Representations by Their Rank", ICML 2023, arXiv 2210.02885. The abstract and parts of section 3 were opened, and
implementations by others that agree on the formula; there is no code by the authors that we know of.

Where we differ: features that are all 0, for which the formula is 0 / 0, have a number. Of a stream of batches, the
singular values would have to come from the sum of Z'Z, whose condition is the square: in float32 directions below 3e-4
of the largest would be noise, so there is no such version.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ctrain_jax.ops import check_positive


def rankme(features: ArrayLike, eps: float = 1e-7) -> jax.Array:
    r"""Exponential of the entropy of the singular values, a rank without a threshold.

    .. math:: \mathrm{RankMe}(Z) = \exp\left( - \sum_k p_k \log p_k \right), \qquad
              p_k = \frac{\sigma_k(Z)}{\|\sigma(Z)\|_1} + \epsilon

    No labels are read. Among runs of one method that differ in their hyper-parameters, the largest rank promises the
    best linear probe; between methods it says little. After each experience of a stream, a falling rank is a loss of
    plasticity. Features are not centred, as in the paper.

    Args:
      features: `[N, K]`, of which the paper takes 25,600 rows of the training data, after the projector. Leave padded
        rows out, or multiply rows by weights of 0 and 1.
      eps: of the paper.

    Returns:
      `[]`, float32, in [1, min(N, K)] up to `eps`; 1 where all features are 0 as well, the worst of collapses.

    Raises:
      ValueError: features that are not `[N, K]`, an `eps` that is not above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from ctrain_jax import analysis
      >>> print(f"{analysis.rankme(jnp.eye(8)[:, :4]):.3f}")   # four equal singular values
      4.000
      >>> print(f"{analysis.rankme(jnp.ones((8, 4))):.3f}")    # one direction
      1.000

    References:
      arXiv 2210.02885, 2023, equation 1. Roy and Vetterli, "The effective rank: a measure of effective
      dimensionality", EUSIPCO 2007.
    """
    check_positive("eps", eps)
    features = jnp.asarray(features, jnp.float32)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"rankme expects features [N, K], got shape {features.shape}: flatten them, one row each.")
    sizes = jnp.linalg.svd(features, compute_uv=False)
    total = sizes.sum()
    p = sizes / jnp.where(total > 0, total, 1.0) + eps
    return jnp.exp(-jnp.sum(p * jnp.log(p)))
