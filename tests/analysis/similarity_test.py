"""Similarities against kernels, brute force over rotations, and scipy."""

import jax
import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes

from ctrain_jax import analysis

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)) + 3.0
Y = np.tanh(X @ RNG.normal(size=(6, 4))) + 0.1 * RNG.normal(size=(40, 4))


def scaled(x):
    x = x - x.mean(0)
    return x / np.linalg.norm(x)


def test_cka_is_the_cosine_of_centred_kernels():
    h = np.eye(40) - 1 / 40
    a, b = h @ X @ X.T @ h, h @ Y @ Y.T @ h
    want = np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))
    assert 0.1 < want < 0.9
    np.testing.assert_allclose(jax.jit(analysis.linear_cka)(X, Y), want, rtol=1e-4)


def test_procrustes_is_the_least_distance_over_rotations_and_reflections():
    x, y = scaled(X[:, :2]), scaled(Y[:, :2])
    turns = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    rotations = np.array([[np.cos(turns), -np.sin(turns)], [np.sin(turns), np.cos(turns)]]).transpose(2, 0, 1)
    turned = y @ np.concatenate([rotations, rotations * [1, -1]])
    want = ((x - turned) ** 2).sum((1, 2)).min()
    np.testing.assert_allclose(jax.jit(analysis.procrustes)(X[:, :2], Y[:, :2]), want, rtol=1e-4)


def test_procrustes_is_what_scipy_leaves():
    x, y = scaled(X[:, :4]), scaled(Y)
    turn, _ = orthogonal_procrustes(y, x)
    np.testing.assert_allclose(analysis.procrustes(X[:, :4], Y), ((x - y @ turn) ** 2).sum(), rtol=1e-4)
    wide = analysis.procrustes(X, Y)
    np.testing.assert_allclose(wide, analysis.procrustes(X, np.pad(Y, ((0, 0), (0, 2)))), rtol=1e-4)


def test_a_rotation_a_shift_and_a_scale_change_nothing():
    turn = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    same = 5 * X @ turn - 2
    np.testing.assert_allclose(analysis.linear_cka(X, same), 1, rtol=1e-5)
    np.testing.assert_allclose(analysis.procrustes(X, same), 0, atol=1e-5)
    for measure in (analysis.linear_cka, analysis.procrustes):
        np.testing.assert_allclose(measure(same, Y), measure(X, Y), rtol=1e-3)
        np.testing.assert_allclose(measure(Y, X), measure(X, Y), rtol=1e-4)
        # One unit that is louder does.
        assert abs(measure(X * [9, 1, 1, 1, 1, 1], Y) - measure(X, Y)) > 0.02


def test_representations_that_share_no_direction_of_the_rows():
    a, b = np.eye(4)[[0, 0, 1, 1]][:, :2], np.eye(4)[[0, 1, 0, 1]][:, :2]
    np.testing.assert_allclose([analysis.linear_cka(a, b), analysis.procrustes(a, b)], [0, 2], atol=1e-6)


def test_a_constant_representation_is_like_nothing():
    assert np.isnan(analysis.linear_cka(X, np.ones((40, 2)))) and np.isnan(analysis.procrustes(np.ones((40, 2)), X))


@pytest.mark.parametrize("measure", [analysis.linear_cka, analysis.procrustes])
def test_other_rows_are_refused(measure):
    for first, second in ((X, Y[:3]), (X[0], Y), (X[:1], Y[:1])):
        with pytest.raises(ValueError, match="of the same two rows or more"):
            measure(first, second)
