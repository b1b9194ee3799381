"""Herding: the few rows whose mean follows the mean of all.

Rebuffi, Kolesnikov, Sperl and Lampert, "iCaRL: incremental classifier and representation learning", CVPR 2017,
arXiv 1611.07725, algorithm 4; the greedy rule is Welling, "Herding dynamical weights to learn", ICML 2009. Written
from the equations; the papers were not opened. Where we differ: the mean of the normalised features is not normalised
again, so that the greedy objective is exactly the distance between the two means.
"""

import jax
import jax.numpy as jnp

from ctrain_jax.ops._checks import check_positive


def herding(features: jax.Array, mask: jax.Array, num: int) -> jax.Array:
    """Picks rows one by one so that the mean of those picked stays closest to the mean of all.

        p_k = argmin_i || mu - (f_i + sum_{j<k} f_{p_j}) / k ||^2,    f = features / ||features||,   mu = mean of f

    over the rows not yet picked; the first of equals wins. The order is a ranking: the first `m` picks are the answer
    for `m`.

    Args:
        features: float `[N, D]`.
        mask: bool or weights `[N]`; rows of 0 are neither in the mean nor picked.
        num: number of picks.

    Returns:
        int32 `[num]`, distinct row numbers in the order of picking; -1 once all rows of the mask are used up.

    Raises:
        ValueError: `num` is not positive, or the shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> features = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [9.0, 9.0]])
        >>> herding(features, jnp.array([1, 1, 1, 0]), 4)
        Array([ 2,  0,  1, -1], dtype=int32)

    References:
        Rebuffi et al. 2017, arXiv 1611.07725.
    """
    check_positive("num", num)
    if features.ndim != 2 or mask.shape != features.shape[:1]:
        raise ValueError(
            f"herding needs features [N, D] and mask [N], got {features.shape} and {mask.shape}: flatten the features."
        )
    valid = mask > 0
    features = jnp.where(valid[:, None], features, 0).astype(jnp.float32)
    norms = jnp.linalg.norm(features, axis=1, keepdims=True)
    features = features / jnp.where(norms > 0, norms, 1)
    mean = jnp.sum(features, axis=0) / jnp.maximum(jnp.sum(valid), 1)
    squares = jnp.sum(features**2, axis=1)

    def pick(carry, k):
        total, free = carry
        # k^2 times the objective, less the part that is the same for every row
        cost = squares - 2 * jnp.dot(features, k * mean - total, precision=jax.lax.Precision.HIGHEST)
        best = jnp.argmin(jnp.where(free, cost, jnp.inf)).astype(jnp.int32)
        left = jnp.any(free)
        total = total + jnp.where(left, features[best], 0)
        return (total, free.at[best].set(False)), jnp.where(left, best, -1)

    steps = jnp.arange(1, num + 1, dtype=jnp.float32)
    return jax.lax.scan(pick, (jnp.zeros_like(mean), valid), steps)[1]
