"""A Gaussian for each class of features: mean and covariance, gathered batch by batch, and samples of them.

Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979, for the
merge. Written from the equations; no code was opened.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.ops._checks import check_choice, check_size


class ClassGaussians(NamedTuple):
    """What is known of each class: 0 where it has no row."""

    means: jax.Array  # float32 [C, D]
    covariances: jax.Array  # float32 [C, D, D], over the number of rows; [C, D] variances where they are diagonal
    counts: jax.Array  # float32 [C], the sum of weights


def class_gaussians(num_classes: int, width: int, covariance: str = "full") -> ClassGaussians:
    """Classes that have no row yet.

    Args:
      num_classes: C.
      width: D, of the features.
      covariance: "full", `[C, D, D]`, or "diagonal", `[C, D]`.

    Returns:
      Zeros.

    Raises:
      ValueError: a size below 1, an unknown `covariance`.
    """
    check_size("num_classes", num_classes)
    check_size("width", width)
    check_choice("covariance", covariance, ("full", "diagonal"))
    shape = (num_classes, width) + (width,) * (covariance == "full")
    return ClassGaussians(jnp.zeros((num_classes, width)), jnp.zeros(shape), jnp.zeros(num_classes))


def add_to_gaussians(
    gaussians: ClassGaussians, features: jax.Array, labels: jax.Array, weights: jax.Array
) -> ClassGaussians:
    r"""The Gaussians of all rows so far, and of these.

    With :math:`a` of a class so far and :math:`b` in the batch, :math:`n = n_a + n_b`, :math:`\delta = \mu_b - \mu_a`:

    .. math::
      \mu = \mu_a + \frac{n_b}{n} \delta, \quad
      \Sigma = \frac{n_a \Sigma_a + n_b \Sigma_b}{n} + \frac{n_a n_b}{n^2} \delta \delta^\top

    so that no large sums are subtracted from each other, and the order of batches is of rounding only.

    Args:
      gaussians: of the rows so far.
      features: floats `[B, D]`.
      labels: int `[B]`.
      weights: floats `[B]`, 0 or above: a row of weight 0 is none, one of weight 2 is two.

    Returns:
      Those of all.
    """
    rows = jax.nn.one_hot(labels, len(gaussians.counts)) * weights[:, None]
    features = features.astype(jnp.float32)
    arriving = rows.sum(0)
    counts = gaussians.counts + arriving
    # Far from 0 a mean in low precision would be missed by more than the features are apart.
    with jax.default_matmul_precision("highest"):
        delta = rows.T @ features / jnp.maximum(arriving, 1e-30)[:, None] - gaussians.means
        centred = features - (gaussians.means + delta)[labels]
        if gaussians.covariances.ndim == 2:
            scatter, outer = rows.T @ jnp.square(centred), jnp.square(delta)
        else:
            scatter = jnp.einsum("bc,bd,be->cde", rows, centred, centred)
            outer = delta[:, :, None] * delta[:, None, :]
    total = jnp.maximum(counts, 1e-30)
    share = arriving / total
    wide = (slice(None),) + (None,) * (gaussians.covariances.ndim - 1)
    covariances = (1 - share)[wide] * gaussians.covariances + scatter / total[wide]
    covariances = covariances + (share * (1 - share))[wide] * outer
    return ClassGaussians(gaussians.means + share[:, None] * delta, covariances, counts)


def gaussian_sampler(gaussians: ClassGaussians, jitter: float = 1e-3) -> Callable[[jax.Array, int], jax.Array]:
    r"""Samples :math:`\mu_c + L_c z` of every class, with :math:`L_c L_c^\top = \Sigma_c + \epsilon \bar\sigma_c^2 I`.

    Args:
      gaussians: of the classes; what is drawn for a class without a row means nothing.
      jitter: :math:`\epsilon`, in the mean variance of a feature of the class. A covariance of fewer rows than features
        has no Cholesky factor without it.

    Returns:
      `draw(rng, num) -> [C, num, D]`. The factors are computed once, here.

    Example:
      >>> draw = gaussian_sampler(class_gaussians(3, 2))
      >>> draw(jax.random.key(0), 5).shape
      (3, 5, 2)
    """
    means, covariances, _ = gaussians
    diagonal = covariances.ndim == 2
    variances = covariances if diagonal else jnp.diagonal(covariances, axis1=1, axis2=2)
    # The floor is for a class whose rows are all the same.
    added = jitter * variances.mean(1) + 1e-10
    if diagonal:
        factors = jnp.sqrt(covariances + added[:, None])
    else:
        factors = jnp.linalg.cholesky(covariances + added[:, None, None] * jnp.eye(means.shape[1]))

    def draw(rng: jax.Array, num: int) -> jax.Array:
        noise = jax.random.normal(rng, (means.shape[0], num, means.shape[1]))
        moved = noise * factors[:, None] if diagonal else jnp.einsum("cnd,ced->cne", noise, factors)
        return means[:, None] + moved

    return draw
