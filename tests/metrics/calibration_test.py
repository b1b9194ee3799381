"""Calibration on cases worked out by hand, in loops over bins, and by scikit-learn."""

import jax
import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from ctrain_jax import metrics

RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.normal(size=(120, 4))
PROBABILITIES = (np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)).astype(np.float32)
# Too sure where it is sure, not sure enough elsewhere: what bins keep apart would cancel.
LABELS = np.where(PROBABILITIES.max(1) > 0.7, RNG.integers(0, 4, 120), PROBABILITIES.argmax(1))
WEIGHTS = RNG.integers(0, 3, 120).astype(np.float32)


def binned(groups):
    """sum over groups of rows of share times |accuracy - confidence|."""
    error, num = 0.0, sum(len(group) for group in groups)
    for group in (g for g in groups if len(g)):
        right = np.mean(PROBABILITIES[group].argmax(1) == LABELS[group])
        error += len(group) / num * abs(right - PROBABILITIES[group].max(1).mean())
    return error


def test_by_hand():
    # Confidences 0.95, 0.85 (right, wrong) and 0.55, 0.55 (right, right). With two bins all are in the upper one:
    # |0.75 - 0.725|; with ten they are in three: (|1 - 0.95| + |0 - 0.85| + 2 |1 - 0.55|) / 4.
    p = [[0.95, 0.05], [0.15, 0.85], [0.55, 0.45], [0.45, 0.55]]
    labels = [0, 0, 0, 1]
    np.testing.assert_allclose(metrics.expected_calibration_error(p, labels, num_bins=2), 0.025, atol=1e-6)
    np.testing.assert_allclose(metrics.expected_calibration_error(p, labels, num_bins=10), 0.45, atol=1e-6)
    # Two bins of two rows: (2 |1 - 0.55| + 2 |0.5 - 0.9|) / 4.
    adaptive = metrics.expected_calibration_error(p, labels, num_bins=2, adaptive=True)
    np.testing.assert_allclose(adaptive, 0.425, atol=1e-6)
    # (2 * 0.05^2 + 2 * 0.85^2 + 2 * 0.45^2 + 2 * 0.45^2) / 4
    np.testing.assert_allclose(metrics.brier_score(p, labels), 0.565, atol=1e-6)


def test_bins_are_closed_on_the_right():
    # A confidence of exactly 2/3 belongs to the second bin of three: alone there, and right.
    p = [[2 / 3, 1 / 3], [0.1, 0.9]]
    got = metrics.expected_calibration_error(p, [0, 0], num_bins=3)
    np.testing.assert_allclose(got, (1 / 3 + 0.9) / 2, atol=1e-6)


@pytest.mark.parametrize("num_bins", [1, 7, 15])
def test_equal_width_is_the_loop_over_bins(num_bins):
    confidence, edges = PROBABILITIES.max(1), np.linspace(0, 1, num_bins + 1)
    groups = [
        np.flatnonzero((low < confidence) & (confidence <= high))
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    got = metrics.expected_calibration_error(PROBABILITIES, LABELS, num_bins=num_bins)
    np.testing.assert_allclose(got, binned(groups), rtol=1e-4)


@pytest.mark.parametrize("num_bins", [1, 8, 120])
def test_equal_mass_is_the_split_of_the_sorted_rows(num_bins):
    groups = np.split(np.argsort(PROBABILITIES.max(1), kind="stable"), num_bins)
    got = metrics.expected_calibration_error(PROBABILITIES, LABELS, num_bins=num_bins, adaptive=True)
    np.testing.assert_allclose(got, binned(groups), rtol=1e-4)


def test_weights_are_repeated_rows_and_0_is_none():
    rows = np.repeat(np.arange(120), WEIGHTS.astype(int))
    for measure in (metrics.expected_calibration_error, metrics.brier_score):
        got = jax.jit(measure)(PROBABILITIES, LABELS, WEIGHTS)
        np.testing.assert_allclose(got, measure(PROBABILITIES[rows], LABELS[rows]), rtol=1e-5)
    there = np.arange(120) < 60
    got = metrics.expected_calibration_error(PROBABILITIES, LABELS, there, num_bins=6, adaptive=True)
    half = metrics.expected_calibration_error(PROBABILITIES[:60], LABELS[:60], num_bins=6, adaptive=True)
    np.testing.assert_allclose(got, half, rtol=1e-5)


def test_who_is_sure_and_right_has_no_error_and_who_is_sure_and_wrong_all_of_it():
    sure = np.eye(3)[[0, 1, 2]]
    for labels, error, score in (([0, 1, 2], 0, 0), ([1, 2, 0], 1, 2)):
        assert metrics.expected_calibration_error(sure, labels) == error
        assert metrics.brier_score(sure, labels) == score


def test_brier_is_that_of_scikit_learn():
    want = brier_score_loss(LABELS, PROBABILITIES, sample_weight=WEIGHTS, labels=range(4), scale_by_half=False)
    np.testing.assert_allclose(metrics.brier_score(PROBABILITIES, LABELS, WEIGHTS), want, rtol=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="probabilities \\[N, C\\]"):
        metrics.brier_score([0.1, 0.9], [0, 1])
    with pytest.raises(ValueError, match="probabilities \\[N, C\\]"):
        metrics.expected_calibration_error(PROBABILITIES, LABELS, WEIGHTS[:3])
    with pytest.raises(ValueError, match="num_bins"):
        metrics.expected_calibration_error(PROBABILITIES, LABELS, num_bins=0)
