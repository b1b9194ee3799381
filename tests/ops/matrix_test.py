"""Where a kernel is split."""

import pytest

from ctrain_jax.ops import matrix_shape


def test_a_kernel_is_split_where_it_is_most_square():
    for shape, expected in (
        ((7, 3), (7, 3)),
        ((32, 2, 16), (32, 32)),
        ((2, 16, 32), (32, 32)),
        ((5, 5, 1, 6), (25, 6)),
        ((2, 2, 2), (4, 2)),
    ):
        assert matrix_shape(shape) == expected
    with pytest.raises(ValueError, match=r"two axes or more is a matrix, got shape \(3,\)"):
        matrix_shape((3,))
