"""Which classes are told apart, and how well the old and the new ones are known.

A confusion matrix is what all of it can be read off. That of scikit-learn is not traced; this one is, and may be summed
over batches. Stehman, "Selecting and interpreting measures of thematic classification accuracy", Remote Sensing of
Environment 62(1), 1997, doi 10.1016/S0034-4257(97)00083-7 (cited for the words, not opened).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ctrain_jax.ops import check_size


class OldNewAccuracy(NamedTuple):
    """Accuracies on the rows of two groups of classes."""

    old: jax.Array  # [...], nan where there is no row of the group
    new: jax.Array  # [...]


def confusion(
    predictions: ArrayLike, labels: ArrayLike, num_classes: int, weights: ArrayLike | None = None
) -> jax.Array:
    r"""How much weight the rows of class `i` that were answered with `j` have.

    .. math:: M_{ij} = \sum_n w_n \, [y_n = i] \, [\hat y_n = j]

    Matrices of batches add up to that of all of them.

    Args:
      predictions: int `[..., N]`, the classes that were answered.
      labels: int `[..., N]`, the true ones. A row whose label or answer is not in 0 to `num_classes - 1` counts
        nowhere.
      num_classes: static.
      weights: `[..., N]`, 0 for padding; 1 by default.

    Returns:
      `[..., C, C]`, float32: true classes down, answers across, as in scikit-learn.

    Raises:
      ValueError: shapes that do not belong together, predictions or labels that are not integers.

    Example:
      >>> from ctrain_jax import metrics
      >>> print(metrics.confusion([0, 1, 1, 0], [0, 1, 0, 0], 2, weights=[1, 1, 1, 0]))
      [[1. 1.]
       [0. 1.]]
    """
    check_size("num_classes", num_classes)
    predictions, labels = jnp.asarray(predictions), jnp.asarray(labels)
    counts = jnp.ones(labels.shape) if weights is None else jnp.asarray(weights, jnp.float32)
    shapes = predictions.shape, labels.shape, counts.shape
    whole = all(jnp.issubdtype(x.dtype, jnp.integer) for x in (predictions, labels))
    if not whole or len({shape[-1:] for shape in shapes} - {()}) != 1 or () in shapes:
        raise ValueError(
            f"confusion expects integer predictions and labels and weights, all [..., N], got {predictions.dtype}, "
            f"{labels.dtype} and shapes {shapes}: give one of each for every row, logits after argmax."
        )

    def one(predictions: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
        # Negative indices would count from the end.
        cell = [jnp.where(x < 0, num_classes, x) for x in (labels, predictions)]
        return jnp.zeros((num_classes, num_classes)).at[tuple(cell)].add(weights, mode="drop")

    return jnp.vectorize(one, signature="(n),(n),(n)->(c,c)")(predictions, labels, counts)


def class_accuracy(matrix: ArrayLike) -> jax.Array:
    r"""Accuracy on the rows of each class, also called recall: :math:`M_{ii} / \sum_j M_{ij}`.

    Args:
      matrix: `[..., C, C]`, from `confusion`.

    Returns:
      `[..., C]`; nan for a class without a row.

    Raises:
      ValueError: a matrix that is not square.

    Example:
      >>> from ctrain_jax import metrics
      >>> print(metrics.class_accuracy([[3.0, 1.0], [0.0, 2.0]]))
      [0.75 1.  ]
    """
    matrix = _square(matrix)
    return jnp.diagonal(matrix, axis1=-2, axis2=-1) / _positive(matrix.sum(-1))


def old_new_accuracy(matrix: ArrayLike, old: ArrayLike, new: ArrayLike) -> OldNewAccuracy:
    r"""Accuracy on the rows of the classes known before, and on those of the classes just learned.

    .. math:: a_G = \frac{\sum_{i \in G} M_{ii}}{\sum_{i \in G} \sum_j M_{ij}}

    The two tell stability from plasticity where their mean does not. The answers are those among all classes: an old
    row that is taken for a new class is an error of the old ones.

    Args:
      matrix: `[..., C, C]`, from `confusion`.
      old: bool `[..., C]`, the classes of earlier experiences.
      new: bool `[..., C]`, those of the last one. Classes in neither do not count.

    Returns:
      `OldNewAccuracy` of `[...]`.

    Raises:
      ValueError: a matrix that is not square, masks of another length.

    Example:
      >>> from ctrain_jax import metrics
      >>> matrix = [[1.0, 0.0, 3.0], [0.0, 3.0, 1.0], [0.0, 0.0, 4.0]]
      >>> accuracy = metrics.old_new_accuracy(matrix, old=[True, True, False], new=[False, False, True])
      >>> print(accuracy.old, accuracy.new)   # 4 of 8, 4 of 4
      0.5 1.0
    """
    matrix = _square(matrix)
    right, rows = jnp.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(-1)
    masks = []
    for name, mask in (("old", old), ("new", new)):
        mask = jnp.asarray(mask, bool)
        if mask.shape[-1:] != matrix.shape[-1:]:
            raise ValueError(
                f"{name} expects one bool for each of {matrix.shape[-1]} classes, got shape {mask.shape}: give a mask."
            )
        masks.append(mask)
    return OldNewAccuracy(*((right * mask).sum(-1) / _positive((rows * mask).sum(-1)) for mask in masks))


def _square(matrix: ArrayLike) -> jax.Array:
    matrix = jnp.asarray(matrix)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"A confusion matrix has shape [..., C, C], got {matrix.shape}: make one with confusion.")
    return matrix


def _positive(weight: jax.Array) -> jax.Array:
    return jnp.where(weight == 0, jnp.nan, weight)
