"""Confusion matrices are scikit-learn's, and accuracies are counts of rows."""

import jax
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, recall_score

from ctrain_jax import metrics

RNG = np.random.default_rng(0)
LABELS, ANSWERS = RNG.integers(0, 5, size=(2, 3, 200))
WEIGHTS = RNG.integers(0, 4, size=(3, 200)).astype(np.float32)


def test_the_matrix_is_that_of_scikit_learn():
    got = jax.jit(metrics.confusion, static_argnums=2)(ANSWERS, LABELS, 6, WEIGHTS)
    assert got.shape == (3, 6, 6)
    for k in range(3):
        want = confusion_matrix(LABELS[k], ANSWERS[k], labels=range(6), sample_weight=WEIGHTS[k])
        np.testing.assert_array_equal(got[k], want)
    plain = metrics.confusion(ANSWERS[0], LABELS[0], 5)
    np.testing.assert_array_equal(plain, confusion_matrix(LABELS[0], ANSWERS[0]))
    recall = recall_score(LABELS[0], ANSWERS[0], average=None)
    np.testing.assert_allclose(metrics.class_accuracy(plain), recall, rtol=1e-6)
    assert np.isnan(metrics.class_accuracy(got)[:, 5]).all()


def test_padded_rows_and_rows_of_no_class_do_not_count():
    labels, answers, weights = [0, 1, 1, -1, 7, 0], [0, 1, 0, 1, 1, -1], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    np.testing.assert_array_equal(metrics.confusion(answers, labels, 2, weights), [[1, 0], [1, 1]])
    np.testing.assert_array_equal(metrics.confusion([0, 1], [0, 0], 2, [1.0, 0.0]), [[1, 0], [0, 0]])


def test_batches_add_up():
    halves = [metrics.confusion(ANSWERS[0, k::2], LABELS[0, k::2], 5) for k in range(2)]
    np.testing.assert_array_equal(sum(halves), metrics.confusion(ANSWERS[0], LABELS[0], 5))


def test_old_and_new_classes_are_rows_of_either():
    matrix = metrics.confusion(ANSWERS, LABELS, 5, WEIGHTS)
    old, new = np.arange(5) < 2, np.arange(5) == 3
    got = jax.jit(metrics.old_new_accuracy)(matrix, old, new)
    for part, mask in zip(got, (old, new), strict=True):
        rows = mask[LABELS] * WEIGHTS
        np.testing.assert_allclose(part, ((ANSWERS == LABELS) * rows).sum(1) / rows.sum(1), rtol=1e-6)
    nothing = metrics.old_new_accuracy(matrix[0], np.zeros(5, bool), np.ones(5, bool))
    assert np.isnan(nothing.old)
    np.testing.assert_allclose(nothing.new, np.average(ANSWERS[0] == LABELS[0], weights=WEIGHTS[0]), rtol=1e-6)


def test_what_does_not_fit_is_refused():
    for call, match in (
        (lambda: metrics.confusion([0.0], [0], 2), "integer predictions"),
        (lambda: metrics.confusion([0, 1], [0], 2), "all \\[\\.\\.\\., N\\]"),
        (lambda: metrics.confusion(0, 0, 2), "all \\[\\.\\.\\., N\\]"),
        (lambda: metrics.confusion([0], [0], 0), "num_classes"),
        (lambda: metrics.class_accuracy(np.zeros((2, 3))), "shape \\[\\.\\.\\., C, C\\]"),
        (lambda: metrics.old_new_accuracy(np.zeros((2, 2)), [True], [True, False]), "old expects one bool"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
