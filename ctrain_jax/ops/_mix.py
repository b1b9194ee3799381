"""Mixtures of two rows of a batch, and of what they should be answered: mixup and CutMix.

mixup: Zhang, Cisse, Dauphin and Lopez-Paz, 2017, arXiv 1710.09412. CutMix: Yun et al., 2019, arXiv 1905.04899. Opened:
train.py of facebookresearch/mixup-cifar10 and of clovaai/CutMix-PyTorch; the papers were not.

Where we differ from both codes:
  - Each row draws its own share; there the batch has one.
  - Rows form one random ring and each meets the next: every row is met once and none meets itself; there a random
    permutation, in which a row may.
  - Of the two rows the one with the larger share is taken for the row itself. Pairs are drawn alike from both sides,
    so that mixtures are distributed as before; but a row's label stays the larger part of its target, and its weight
    and its other fields stay with what they belong to.
"""

import jax
import jax.numpy as jnp

from ctrain_jax.ops._checks import check_positive


def mixup(
    rng: jax.Array,
    inputs: jax.Array,
    targets: jax.Array,
    alpha: jax.typing.ArrayLike = 1.0,
    *,
    weights: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    r"""Each row becomes a weighted mean of itself and another, and so does its target.

    .. math:: x_i' = \lambda_i x_i + (1 - \lambda_i) x_{j(i)}, \quad
              y_i' = \lambda_i y_i + (1 - \lambda_i) y_{j(i)}, \qquad
              \lambda_i = \max(\beta, 1 - \beta), \; \beta \sim \mathrm{Beta}(\alpha, \alpha)

    Rows of weight 0 are padding: they stay as they are, and no row meets them.

    Args:
      rng: a key.
      inputs: `[B, ...]`, floats in any range.
      targets: `[B, C]`, one-hot or soft.
      alpha: above 0; larger mixes more. The paper has 1 for CIFAR and 0.2 for ImageNet.
      weights: `[B]`, 0 for padding; 1 by default.

    Returns:
      Inputs and targets of the same shapes.

    Raises:
      ValueError: targets that are not `[B, C]`, an `alpha` of 0 or below.

    Example:
      >>> inputs, targets = jnp.asarray([[0.0], [1.0]]), jnp.eye(2)
      >>> mixed, answers = mixup(jax.random.key(0), inputs, targets)
      >>> bool((mixed[:, 0] == answers[:, 1]).all())   # the share of the second row, in each of both
      True

    References:
      arXiv 1710.09412, 2017, equation 1.
    """
    inputs, targets = jnp.asarray(inputs), jnp.asarray(targets)
    _check("mixup", inputs, targets, alpha)
    for_pairs, for_shares = jax.random.split(rng)
    other, alone = _ring(for_pairs, weights, inputs.shape[0])
    share = jax.random.beta(for_shares, alpha, alpha, inputs.shape[:1], inputs.dtype)
    share = jnp.where(alone, 1.0, jnp.maximum(share, 1 - share))
    return _mean(inputs, other, share), _mean(targets, other, share)


def cutmix(
    rng: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    alpha: jax.typing.ArrayLike = 1.0,
    *,
    weights: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    r"""A box of each image is cut from another image; the target is mixed by area.

    The box has sides :math:`\sqrt{1 - \beta}` of the image's, :math:`\beta \sim \mathrm{Beta}(\alpha, \alpha)`, its
    centre is uniform, and what lies outside of the image is lost. Where it is larger than half of the image, the image
    keeps the box and the rest is the other's. Rows of weight 0 are padding: they stay as they are, and no row meets
    them.

    Args:
      rng: a key.
      images: `[B, H, W, ...]`.
      targets: `[B, C]`, one-hot or soft.
      alpha: above 0; the paper has 1.
      weights: `[B]`, 0 for padding; 1 by default.

    Returns:
      Images and targets of the same shapes.

    Raises:
      ValueError: inputs that are no images, targets that are not `[B, C]`, an `alpha` of 0 or below.

    Example:
      >>> images, targets = jnp.zeros((2, 4, 4, 1)).at[1].set(1.0), jnp.eye(2)
      >>> mixed, answers = cutmix(jax.random.key(0), images, targets)
      >>> bool((mixed.mean((1, 2, 3)) == answers[:, 1]).all())   # the area of the second image, in each of both
      True

    References:
      arXiv 1905.04899, 2019, equations 1 and 2.
    """
    images, targets = jnp.asarray(images), jnp.asarray(targets)
    _check("cutmix", images, targets, alpha)
    if images.ndim < 3:
        raise ValueError(f"cutmix expects images [B, H, W, C] or [B, H, W], got shape {images.shape}: use mixup.")
    rows, *sides = images.shape[:3]
    for_pairs, for_area, *for_centre = jax.random.split(rng, 4)
    other, alone = _ring(for_pairs, weights, rows)
    cut = jnp.sqrt(1 - jax.random.beta(for_area, alpha, alpha, (rows,)))

    def within(key, side):
        """`[B, side]`, whether a place on this axis is in the box."""
        centre = jax.random.randint(key, (rows, 1), 0, side)
        half = (side * cut).astype(jnp.int32)[:, None] // 2
        place = jnp.arange(side)
        return (place >= centre - half) & (place < centre + half)

    down, right = (within(key, side) for key, side in zip(for_centre, sides, strict=True))
    own = ~(down[:, :, None] & right[:, None, :])
    own = own ^ (own.mean((1, 2), keepdims=True) < 0.5)
    own = own | alone[:, None, None]
    mask = own.reshape(own.shape + (1,) * (images.ndim - 3))
    share = own.mean((1, 2), dtype=targets.dtype)
    return jnp.where(mask, images, images[other]), _mean(targets, other, share)


def _check(name: str, inputs: jax.Array, targets: jax.Array, alpha: jax.typing.ArrayLike) -> None:
    check_positive("alpha", alpha)
    if targets.ndim != 2 or targets.shape[0] != inputs.shape[0]:
        raise ValueError(
            f"{name} expects a target [B, C] for each of {inputs.shape[0]} rows, got shape {targets.shape}: make "
            "labels one-hot."
        )


def _ring(rng: jax.Array, weights: jax.Array | None, rows: int) -> tuple[jax.Array, jax.Array]:
    """Whom each row meets, int32 `[B]`, and who meets nobody, bool `[B]`: real rows meet the next in a random order."""
    real = jnp.ones(rows, bool) if weights is None else weights > 0
    order = jnp.argsort(jnp.where(real, jax.random.uniform(rng, (rows,)), 2.0))  # real rows first
    count = jnp.maximum(real.sum(), 1)
    following = order[(jnp.arange(rows) + 1) % count]
    other = jnp.zeros(rows, order.dtype).at[order].set(following)
    other = jnp.where(real, other, jnp.arange(rows))
    return other, other == jnp.arange(rows)


def _mean(values: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
    share = share.reshape(-1, *(1,) * (values.ndim - 1)).astype(values.dtype)
    return share * values + (1 - share) * values[other]
