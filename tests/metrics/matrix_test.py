"""Every number here was worked out by hand from the definitions in the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import metrics

# Experience 0 peaks in the middle (0.95), so forgetting and backward transfer differ. The accuracies above the
# diagonal are high on purpose: 0.99 and 0.97 are best of their columns, and were reached before training.
R = np.array(
    [
        [0.90, 0.99, 0.30],
        [0.95, 0.80, 0.97],
        [0.60, 0.50, 0.70],
    ]
)
BASELINE = np.array([0.40, 0.10, 0.20])
SCRATCH = np.array([0.85, 0.90, 0.40])
JOINT = np.array([0.90, 0.95, 0.85])

SQUARE_ONLY = [
    metrics.seen_accuracy,
    metrics.average_incremental_accuracy,
    metrics.learning_accuracy,
    metrics.forgetting,
    metrics.backward_transfer,
    lambda matrix: metrics.forward_transfer(matrix, jnp.zeros(matrix.shape[-1])),
    lambda matrix: metrics.forward_transfer_over_scratch(matrix, jnp.zeros(matrix.shape[-1])),
    metrics.harmonic_accuracy,
]


def test_final_accuracy() -> None:
    # (0.60 + 0.50 + 0.70) / 3 = 1.80 / 3
    np.testing.assert_allclose(metrics.final_accuracy(R), 0.60, rtol=1e-6)


def test_seen_accuracy_and_its_mean() -> None:
    # 0.90; (0.95 + 0.80) / 2 = 0.875; (0.60 + 0.50 + 0.70) / 3 = 0.60
    np.testing.assert_allclose(metrics.seen_accuracy(R), [0.90, 0.875, 0.60], rtol=1e-6)
    # (0.90 + 0.875 + 0.60) / 3 = 2.375 / 3
    np.testing.assert_allclose(metrics.average_incremental_accuracy(R), 0.7916667, rtol=1e-6)


def test_harmonic_accuracy() -> None:
    # Base 0.95, new 0.80; base 0.60, new (0.50 + 0.70) / 2 = 0.60. What comes above the diagonal is not read.
    np.testing.assert_allclose(metrics.harmonic_accuracy(R), [2 * 0.95 * 0.8 / 1.75, 0.60], rtol=1e-6)
    assert metrics.harmonic_accuracy(np.array([[0.9, 0.0], [0.8, 0.0]])).tolist() == [0.0]
    assert metrics.harmonic_accuracy(np.zeros((2, 2))).tolist() == [0.0]


def test_forgetting() -> None:
    # Experience 0: max(0.90, 0.95) - 0.60 = 0.35; experience 1: 0.80 - 0.50 = 0.30 (0.99 came before training);
    # experience 2 was just learned. (0.35 + 0.30) / 2
    np.testing.assert_allclose(metrics.forgetting(R), 0.325, rtol=1e-6)


def test_forgetting_is_negative_where_the_last_experience_helped() -> None:
    # The last row may hold the maximum; the peak is still taken before it: 0.5 - 0.9 = -0.4
    np.testing.assert_allclose(metrics.forgetting([[0.5, 0.0], [0.9, 0.8]]), -0.4, rtol=1e-6)


def test_backward_transfer() -> None:
    # ((0.60 - 0.90) + (0.50 - 0.80)) / 2 = (-0.30 - 0.30) / 2
    np.testing.assert_allclose(metrics.backward_transfer(R), -0.30, rtol=1e-6)


def test_forward_transfer() -> None:
    # Experience 1 after experience 0: 0.99 - 0.10 = 0.89; experience 2 after 1: 0.97 - 0.20 = 0.77.
    # (0.89 + 0.77) / 2; the baseline of experience 0 is never read.
    np.testing.assert_allclose(metrics.forward_transfer(R, BASELINE), 0.83, rtol=1e-6)


def test_forward_transfer_over_scratch() -> None:
    # ((0.80 - 0.90) + (0.70 - 0.40)) / 2; that of experience 0 is never read.
    np.testing.assert_allclose(metrics.forward_transfer_over_scratch(R, SCRATCH), 0.10, rtol=1e-5)


def test_intransigence() -> None:
    # ((0.90 - 0.90) + (0.95 - 0.80) + (0.85 - 0.70)) / 3
    np.testing.assert_allclose(metrics.intransigence(R, JOINT), 0.10, rtol=1e-5)
    np.testing.assert_allclose(metrics.intransigence([[0.7]], [0.9]), 0.2, rtol=1e-5)


def test_learning_accuracy() -> None:
    # (0.90 + 0.80 + 0.70) / 3
    np.testing.assert_allclose(metrics.learning_accuracy(R), 0.80, rtol=1e-6)


def test_seeds_are_a_leading_axis_and_everything_jits() -> None:
    rng = np.random.default_rng(0)
    seeds = rng.uniform(size=(2, 3, 4, 4)).astype(np.float32)
    baseline = rng.uniform(size=(2, 3, 4)).astype(np.float32)
    functions = [metrics.final_accuracy, *SQUARE_ONLY[1:5]]
    for function in functions:
        got = jax.jit(function)(seeds)
        assert got.shape == (2, 3)
        want = [[function(seeds[a, b]) for b in range(3)] for a in range(2)]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert jax.jit(metrics.seen_accuracy)(seeds).shape == (2, 3, 4)
    got = jax.jit(metrics.forward_transfer)(seeds, baseline)
    want = [[metrics.forward_transfer(seeds[a, b], baseline[a, b]) for b in range(3)] for a in range(2)]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    one_baseline = metrics.forward_transfer(seeds, baseline[0, 0])
    assert one_baseline.shape == (2, 3)


def test_against_the_sums_written_as_loops() -> None:
    matrix = np.random.default_rng(1).uniform(size=(6, 6))
    num = len(matrix)
    seen = [sum(matrix[i][j] for j in range(i + 1)) / (i + 1) for i in range(num)]
    fell = [max(matrix[i][j] for i in range(j, num - 1)) - matrix[num - 1][j] for j in range(num - 1)]
    back = [matrix[num - 1][j] - matrix[j][j] for j in range(num - 1)]
    baseline = 0.1 * np.arange(num)
    ahead = [matrix[j - 1][j] - baseline[j] for j in range(1, num)]
    np.testing.assert_allclose(metrics.seen_accuracy(matrix), seen, rtol=1e-5)
    np.testing.assert_allclose(metrics.average_incremental_accuracy(matrix), sum(seen) / num, rtol=1e-5)
    np.testing.assert_allclose(metrics.forgetting(matrix), sum(fell) / (num - 1), rtol=1e-5)
    np.testing.assert_allclose(metrics.backward_transfer(matrix), sum(back) / (num - 1), rtol=1e-4)
    np.testing.assert_allclose(metrics.forward_transfer(matrix, baseline), sum(ahead) / (num - 1), rtol=1e-4)


def test_the_future_may_be_unknown() -> None:
    known = np.where(np.tri(3, dtype=bool), R, np.nan)
    for function in (metrics.final_accuracy, *SQUARE_ONLY[:5]):
        np.testing.assert_array_equal(function(known), function(R))
    assert np.isnan(metrics.forward_transfer(known, BASELINE))


def test_a_joint_run_has_a_final_accuracy_and_nothing_else() -> None:
    joint = np.array([[0.9, 0.8, 0.4]])
    np.testing.assert_allclose(metrics.final_accuracy(joint), 0.70, rtol=1e-6)
    for function in SQUARE_ONLY:
        with pytest.raises(ValueError, match="T=1 rows and E=3 columns"):
            function(joint)


def test_one_experience_was_learned_but_has_no_past() -> None:
    single = np.array([[0.9]])
    for function in (metrics.final_accuracy, metrics.average_incremental_accuracy, metrics.learning_accuracy):
        np.testing.assert_allclose(function(single), 0.9, rtol=1e-6)
    for function in SQUARE_ONLY[3:]:
        with pytest.raises(ValueError, match="at least 2 experiences"):
            function(single)


@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (3, 0)])
def test_what_is_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \[\.\.\., T, E\]"):
        metrics.final_accuracy(np.zeros(shape))


def test_a_baseline_of_another_length_is_refused() -> None:
    for function, name in (
        (metrics.forward_transfer, "baseline"),
        (metrics.forward_transfer_over_scratch, "scratch"),
        (metrics.intransigence, "joint"),
    ):
        with pytest.raises(ValueError, match=f"{name} expects one accuracy for each of the 3 experiences"):
            function(R, np.zeros(2))
