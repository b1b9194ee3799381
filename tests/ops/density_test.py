"""ERK against the bisection of its scale."""

import math

import numpy as np
import pytest

from ctrain_jax.ops import erk_density

SHAPES = {"conv": (3, 3, 16, 32), "small": (3, 3, 3, 16), "dense": (784, 100), "head": (100, 10)}


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9, 1.0])
def test_one_scale_serves_all_kernels(density):
    """At 0.1 and above some are dense."""
    raw = np.array([sum(shape) / math.prod(shape) for shape in SHAPES.values()])
    size = np.array([math.prod(shape) for shape in SHAPES.values()])
    low, high = 0.0, 1 / raw.min()
    for _ in range(100):
        middle = (low + high) / 2
        enough = np.minimum(1, middle * raw) @ size >= density * size.sum()
        low, high = (low, middle) if enough else (middle, high)
    found = erk_density(SHAPES, density)
    assert list(found) == list(SHAPES)
    np.testing.assert_allclose(list(found.values()), np.minimum(1, high * raw), rtol=1e-9)
    np.testing.assert_allclose(np.array(list(found.values())) @ size, density * size.sum(), rtol=1e-9)


def test_what_it_refuses():
    for density in (0.0, 1.1):
        with pytest.raises(ValueError, match="density must be"):
            erk_density(SHAPES, density)
