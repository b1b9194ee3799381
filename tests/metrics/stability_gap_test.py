"""The measures of a trace on traces written by hand, and against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import metrics

HAND = np.array([[0.9], [0.9], [0.3], [0.8], [0.9]])


def brute_force(trace, experience):
    """min-ACC and WC-ACC at each test, from the definitions."""
    minimum, worst_case = [], []
    for n, k in enumerate(experience):
        lows = [min(trace[m, i] for m in range(n + 1) if experience[m] > i) for i in range(k)]
        minimum.append(np.mean(lows) if lows else np.nan)
        worst_case.append((trace[n, k] + sum(lows)) / (k + 1))
    return np.array(minimum), np.array(worst_case)


def random_trace(seed=0):
    return np.random.default_rng(seed).uniform(size=(30, 4)), np.sort(np.arange(30) % 4)


def test_the_trace_of_the_row_by_hand():
    assert metrics.windowed_forgetting(HAND, 2).tolist() == pytest.approx([0.6])
    assert metrics.windowed_forgetting(HAND, 5).tolist() == pytest.approx([0.6])
    assert metrics.windowed_plasticity(HAND, 2).tolist() == pytest.approx([0.5])
    assert metrics.windowed_plasticity(HAND, 3).tolist() == pytest.approx([0.6])
    both = np.concatenate([HAND, [[0.0], [0.0], [0.5], [0.6], [0.7]]], axis=1)
    gap = metrics.stability_gap(both, [0, 0, 1, 1, 1], window=5)
    assert [float(x) for x in gap] == pytest.approx([0.3, (0.7 + 0.3) / 2, 0.3, (0.6 + 0.7) / 2])


def test_minimum_and_worst_case_are_the_definitions():
    trace, experience = random_trace()
    for got, expected in zip(
        (metrics.minimum_accuracy(trace, experience), metrics.worst_case_accuracy(trace, experience)),
        brute_force(trace, experience),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("window", [2, 5, 30, 100])
def test_windows_are_brute_force(window):
    trace, _ = random_trace(1)
    pairs = [(m, n) for n in range(30) for m in range(n) if n - m < window]
    drops = np.max([trace[m] - trace[n] for m, n in pairs], axis=0)
    rises = np.max([trace[n] - trace[m] for m, n in pairs], axis=0)
    np.testing.assert_allclose(metrics.windowed_forgetting(trace, window), np.maximum(drops, 0), rtol=1e-5)
    np.testing.assert_allclose(metrics.windowed_plasticity(trace, window), np.maximum(rises, 0), rtol=1e-5)


def test_the_worst_case_is_never_above_the_accuracy_of_what_was_seen():
    for seed in range(5):
        trace, experience = random_trace(seed)
        seen = [trace[n, : k + 1].mean() for n, k in enumerate(experience)]
        worst = np.asarray(metrics.worst_case_accuracy(trace, experience))
        assert np.all(worst <= np.array(seen) + 1e-6) and np.any(worst < np.array(seen) - 0.1)


def test_seeds_are_a_leading_axis_and_it_compiles():
    traces = np.stack([random_trace(seed)[0] for seed in range(3)])
    experience = random_trace()[1]
    several = jax.jit(lambda a: metrics.stability_gap(a, experience, window=3))(jnp.asarray(traces))
    for k, trace in enumerate(traces):
        one = metrics.stability_gap(trace, experience, window=3)
        for a, b in zip(several, one, strict=True):
            np.testing.assert_allclose(a[k], b, rtol=1e-6)


def test_what_it_refuses():
    trace, experience = random_trace()
    for call, match in (
        (lambda: metrics.stability_gap(trace, experience[1:]), "A trace expects accuracies"),
        (lambda: metrics.minimum_accuracy(trace[0], experience), "A trace expects accuracies"),
        (lambda: metrics.worst_case_accuracy(trace[:, :1], experience), "nothing to forget"),
        (lambda: metrics.windowed_forgetting(trace, 1), "window expects at least 2 tests, got 1"),
        (lambda: metrics.windowed_plasticity(trace[0], 2), "accuracy expects"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
