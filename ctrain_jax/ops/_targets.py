"""Fixed directions for classes: as far apart as can be, or near within a group.

Papyan, Han and Donoho, "Prevalence of neural collapse during the terminal phase of deep learning training", PNAS 2020,
arXiv 2008.08186, for the simplex. Written from the definition; no code was opened.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.ops._checks import check_fraction, check_size


def unit(x: Any, axis: int = -1) -> jax.Array:
    """Vectors of length 1 along an axis; 0 stays 0, and has a gradient of finite numbers.

    Args:
        x: floats `[..., D, ...]`.
        axis: that of a vector.

    Returns:
        Floats of the shape of `x`.

    Example:
        >>> unit(jnp.array([[3.0, 4.0], [0.0, 0.0]])).round(1).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    squares = jnp.sum(jnp.square(x), axis, keepdims=True)
    # The norm has no gradient at 0.
    return x / jnp.sqrt(jnp.where(squares > 0, squares, 1.0))


def simplex_targets(num_classes: int, dim: int) -> jax.Array:
    r"""Unit vectors that are as far from each other as can be: the corners of a simplex.

        <t_c, t_k> = -1 / (C - 1),    c != k

    Args:
        num_classes: :math:`C`, at least 2.
        dim: of a vector, at least C - 1; what is beyond is 0.

    Returns:
        float32 `[C, dim]`.

    Raises:
        ValueError: `num_classes` below 2, or `dim` below C - 1.

    Example:
        >>> targets = simplex_targets(3, 2)
        >>> (targets @ targets.T).round(2).tolist()[0]
        [1.0, -0.5, -0.5]

    References:
        Papyan et al. 2020, arXiv 2008.08186.
    """
    check_size("num_classes", num_classes)
    if num_classes < 2:
        raise ValueError(f"A simplex expects at least 2 classes, got {num_classes}.")
    return _wide(_simplex(num_classes), dim)


def hierarchical_targets(groups: Sequence[int], dim: int, *, share: float = 0.5) -> jax.Array:
    r"""Unit vectors that are near within a group of classes: a simplex of groups, and in each a simplex of its own.

        t_c = sqrt(share) s_g + sqrt(1 - share) r_c

    where the :math:`s` are the corners of a simplex of the :math:`G` groups, and the :math:`r` of a group those of a
    simplex of its :math:`n` classes, in directions of their own. Two classes of a group have the cosine
    `share - (1 - share) / (n - 1)`, two of different groups `-share / (G - 1)`. A class that is alone in its group has
    the group's direction. With groups of one size and a share of (G - 1) / (C - 1) all cosines are those of
    `simplex_targets`.

    Args:
        groups: the group of each class, `[C]`; at least two groups.
        dim: of a vector, at least C - 1; what is beyond is 0.
        share: of a vector's squared length that is its group's, in [0, 1].

    Returns:
        float32 `[C, dim]`.

    Raises:
        ValueError: fewer than two groups, a `share` outside [0, 1], or `dim` below C - 1.

    Example:
        >>> targets = hierarchical_targets((0, 0, 1, 1), 3, share=0.5)
        >>> (targets @ targets.T).round(2).tolist()[0]
        [1.0, 0.0, -0.5, -0.5]
    """
    check_fraction("share", share)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    if np.ndim(groups) != 1 or len(names) < 2:
        raise ValueError(f"groups expects the group of each class, at least two groups, got {groups!r}.")
    above = _simplex(len(names))[group]
    result = np.zeros((len(group), len(group) - 1))
    result[:, : above.shape[1]] = np.sqrt(share) * above
    start = above.shape[1]
    for g in range(len(names)):
        own = np.flatnonzero(group == g)
        if len(own) == 1:
            result[own, : above.shape[1]] = above[own]
            continue
        result[own, start : start + len(own) - 1] = np.sqrt(1 - share) * _simplex(len(own))
        start += len(own) - 1
    return _wide(result, dim)


def _simplex(num: int) -> np.ndarray:
    """float64 `[num, num - 1]`: the coordinates of the centred unit vectors in a basis of their span (Helmert's)."""
    column = np.arange(1, num)
    row = np.arange(num)[:, None]
    basis = np.where(row < column, 1.0, np.where(row == column, -column, 0.0)) / np.sqrt(column * (column + 1))
    return basis * np.sqrt(num / (num - 1))


def _wide(targets: np.ndarray, dim: int) -> jax.Array:
    check_size("dim", dim)
    needed = targets.shape[1]
    if dim < needed:
        raise ValueError(f"{len(targets)} classes expect dim of at least {needed}, got {dim}: give more dimensions.")
    return jnp.asarray(np.pad(targets, ((0, 0), (0, dim - needed))), jnp.float32)
