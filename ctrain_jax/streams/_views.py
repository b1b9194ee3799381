"""Scenarios in which all rows come back under another view: permuted or rotated.

Permuted inputs: Goodfellow et al., 2013, arXiv:1312.6211; rotated inputs: Lopez-Paz and Ranzato, 2017,
arXiv:1706.08840. Written from the descriptions in these papers; their data loaders draw other permutations and angles.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.core._base import Source, Stream
from ctrain_jax.ops import bilinear
from ctrain_jax.streams._assemble import check_source, everything


def permuted(
    source: Source,
    num_experiences: int,
    *,
    seed: int = 0,
    valid_fraction: float = 0.0,
    task_known: bool = False,
) -> Stream:
    """Every experience holds all rows, with the pixels in an order of its own; the first order is the original.

    `view` is int32 `[O, P]`, where `P` is `H * W` of images `[H, W]` or `[H, W, c]` (channels stay together) and the
    number of entries of other inputs: `view_fn(x, p)[i] = x[p[i]]` over flattened pixels. The first `T` orders of a
    seed do not depend on `num_experiences`.

    Args:
        source: a source of any kind.
        num_experiences: the number of experiences `T`.
        seed: draws the orders and the validation rows (the same rows for every experience).
        valid_fraction: see `class_incremental`.
        task_known: whether the task of a row is given when it is predicted.

    Returns:
        A `Stream` with a view.

    Raises:
        ValueError: no experience, or a fraction that does not fit.

    Example:
        >>> from ctrain_jax import streams
        >>> stream = permuted(streams.digits(), 3)
        >>> stream.origins.view.shape, stream.origins.view[0, :4].tolist(), stream.experiences["train"].size.tolist()
        ((3, 64), [0, 1, 2, 3], [1437, 1437, 1437])

    References:
        Goodfellow et al., An empirical investigation of catastrophic forgetting in gradient-based neural networks,
        2013, arXiv:1312.6211.
    """
    check_source("permuted", source, num_experiences)
    shape = source.train["inputs"].shape[1:]
    num_pixels = int(np.prod(shape[:2] if len(shape) == 3 else shape))
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(num_pixels) for _ in range(num_experiences - 1)]
    view = np.stack([np.arange(num_pixels), *orders]).astype(np.int32)
    stream = everything("permuted", source, num_experiences, seed, valid_fraction, view, _permute)
    return stream._replace(task_known=task_known)


def rotated(
    source: Source,
    num_experiences: int,
    *,
    degrees: float | Sequence[float] = 180.0,
    seed: int = 0,
    valid_fraction: float = 0.0,
    task_known: bool = False,
) -> Stream:
    """Every experience holds all images, rotated by an angle of its own.

    `view` is the angle in radians, float32 `[O]`. Images turn counter-clockwise about their centre and are interpolated
    bilinearly, with zeros outside; angle 0 is the identity exactly.

    Args:
        source: a source of images `[H, W]` or `[H, W, c]`.
        num_experiences: the number of experiences `T`.
        degrees: the last angle, from 0 in `T - 1` equal steps; or a sequence of `T` angles.
        seed: draws the validation rows (the same rows for every experience).
        valid_fraction: see `class_incremental`.
        task_known: whether the task of a row is given when it is predicted.

    Returns:
        A `Stream` with a view.

    Raises:
        ValueError: inputs that are not images, angles that do not fit, or a fraction that does not.

    Example:
        >>> from ctrain_jax import streams
        >>> stream = rotated(streams.digits(), 5)
        >>> np.degrees(stream.origins.view).round().tolist()
        [0.0, 45.0, 90.0, 135.0, 180.0]

    References:
        Lopez-Paz and Ranzato, Gradient episodic memory for continual learning, 2017, arXiv:1706.08840 (their angles are
        drawn; these are equally spaced).
    """
    check_source("rotated", source, num_experiences)
    shape = source.train["inputs"].shape[1:]
    if len(shape) not in (2, 3):
        raise ValueError(
            f"rotated: inputs must be images [H, W] or [H, W, c], got shape {shape}; reshape them or use permuted."
        )
    angles = np.asarray(degrees, np.float64)
    fits = angles.ndim == 0 or num_experiences < 1 or angles.shape == (num_experiences,)
    if not fits or not (np.abs(angles) < 1e30).all():  # finite in float32 too
        raise ValueError(
            f"rotated: degrees must be one finite angle or {num_experiences} of them, got {degrees}; give one for each "
            "experience."
        )
    if angles.ndim == 0:
        angles = np.linspace(0.0, angles, max(num_experiences, 1))
    view = np.radians(angles).astype(np.float32)
    stream = everything("rotated", source, num_experiences, seed, valid_fraction, view, _rotate)
    return stream._replace(task_known=task_known)


def _permute(inputs: jax.Array, order: jax.Array) -> jax.Array:
    """One input with its pixels taken in the order given."""
    return inputs.reshape(order.shape[0], -1)[order].reshape(inputs.shape)


def _rotate(inputs: jax.Array, angle: jax.Array) -> jax.Array:
    """One image, each pixel read where the inverse rotation about the centre puts it."""
    height, width = inputs.shape[:2]
    y, x = jnp.meshgrid(jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij")
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    where = cos * y + sin * x + (height - 1) / 2, cos * x - sin * y + (width - 1) / 2
    return bilinear(inputs.reshape(height, width, -1), *where).reshape(inputs.shape)
