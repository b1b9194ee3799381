"""Targets of classes, by their cosines."""

import jax
import numpy as np
import pytest

from ctrain_jax.ops import hierarchical_targets, simplex_targets, unit


@pytest.mark.parametrize(("num", "dim"), [(2, 1), (5, 4), (10, 16)])
def test_all_corners_of_a_simplex_are_equally_far_apart(num, dim):
    targets = np.asarray(simplex_targets(num, dim), np.float64)
    expected = np.where(np.eye(num), 1, -1 / (num - 1))
    np.testing.assert_allclose(targets @ targets.T, expected, atol=1e-6)
    assert targets.shape == (num, dim)


def test_cosines_within_and_between_groups():
    groups, share = np.array([7, 2, 7, 7, 2, 4]), 0.6
    targets = np.asarray(hierarchical_targets(groups, 8, share=share), np.float64)
    cosines = targets @ targets.T
    for a in range(6):
        for b in range(6):
            size = np.sum(groups == groups[a])
            alone = [np.sqrt(share) if np.sum(groups == groups[c]) > 1 else 1.0 for c in (a, b)]
            within = 1.0 if a == b else share - (1 - share) / (size - 1) if size > 1 else 1.0
            expected = within if groups[a] == groups[b] else -alone[0] * alone[1] / 2
            np.testing.assert_allclose(cosines[a, b], expected, atol=1e-6)


def test_groups_of_one_size_at_the_even_share_are_a_simplex():
    even = np.asarray(hierarchical_targets((0, 0, 1, 1, 2, 2), 5, share=2 / 5))
    flat = np.asarray(simplex_targets(6, 5))
    np.testing.assert_allclose(even @ even.T, flat @ flat.T, atol=1e-6)


def test_unit_has_a_finite_gradient_at_zero():
    x = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(unit(x), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: unit(x).sum())(x)).all()


def test_what_they_refuse():
    for make, match in (
        (lambda: simplex_targets(1, 3), "at least 2 classes, got 1"),
        (lambda: simplex_targets(5, 3), "5 classes expect dim of at least 4, got 3"),
        (lambda: hierarchical_targets((0, 0, 0), 4), "at least two groups"),
        (lambda: hierarchical_targets((0, 1), 4, share=1.5), "share must be between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=match):
            make()
