"""A kernel of several axes as a matrix."""

import math
from collections.abc import Sequence


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a kernel as a matrix, split between two axes where it is most square.

    That is inputs by outputs for the kernels of Dense layers, of attention (`[D, heads, D / heads]` and
    `[heads, D / heads, D]`) and of most convolutions.

    Args:
        shape: of a kernel, two axes or more.

    Returns:
        The product of the leading axes, and that of the others.

    Raises:
        ValueError: fewer than two axes.

    Example:
        >>> matrix_shape((32, 4, 8)), matrix_shape((4, 8, 32)), matrix_shape((3, 3, 16, 32))
        ((32, 32), (32, 32), (144, 32))
    """
    if len(shape) < 2:
        raise ValueError(f"A kernel of two axes or more is a matrix, got shape {tuple(shape)}.")
    pairs = [(math.prod(shape[:k]), math.prod(shape[k:])) for k in range(len(shape) - 1, 0, -1)]
    return min(pairs, key=sum)
