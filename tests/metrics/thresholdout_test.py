"""The mechanism without noise is a comparison, and with it what the paper draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ctrain_jax import metrics

KEYS = jax.random.split(jax.random.key(0), 2000)


def ask(holdout, train, held, state=None):
    """All questions in order: answers and the budget after each."""

    def step(state, question):
        answer, state = holdout.query(state, *question)
        return state, (answer, state.budget)

    state = holdout.init(jax.random.key(1)) if state is None else state
    _, told = jax.jit(lambda *questions: jax.lax.scan(step, state, questions))(train, held, KEYS[: len(train)])
    return [np.asarray(x) for x in told]


def test_without_noise_the_holdout_speaks_where_it_differs_until_the_budget_is_spent():
    train = np.array([0.5, 0.9, 0.5, 0.1, 0.9, 0.5], np.float32)
    held = np.array([0.53, 0.7, 0.45, 0.2, 0.5, 0.5], np.float32)
    answers, budget = ask(metrics.thresholdout(0.1 - 1e-6, 0.0, budget=2), train, held)
    np.testing.assert_array_equal(answers, np.float32([0.5, 0.7, 0.5, 0.2, np.nan, np.nan]))
    assert budget.tolist() == [2, 1, 1, 0, 0, 0]


def test_equal_means_are_free_as_the_noise_vanishes():
    means = np.linspace(0, 1, 500).astype(np.float32)
    for sigma in (0.0, 1e-4):
        answers, budget = ask(metrics.thresholdout(0.04, sigma, budget=3), means, means)
        np.testing.assert_array_equal(answers, means)
        assert budget[-1] == 3


def test_noise_is_that_of_the_paper():
    holdout = metrics.thresholdout(0.04, 0.01, budget=10**6)
    first = jax.vmap(holdout.init)(KEYS).threshold
    assert stats.kstest((first - 0.04) / 0.02, "laplace").pvalue > 1e-3
    far = jax.vmap(lambda rng: holdout.query(holdout.init(rng), 0.0, 5.0, jax.random.fold_in(rng, 1)))(KEYS)
    assert stats.kstest((far[0] - 5.0) / 0.01, "laplace").pvalue > 1e-3
    assert stats.kstest((far[1].threshold - 0.04) / 0.02, "laplace").pvalue > 1e-3
    # The next threshold and the answer are drawn apart: one would tell the other.
    assert abs(np.corrcoef(far[0], far[1].threshold)[0, 1]) < 0.1
    # The share of questions that the holdout answers where |b - a| is the threshold plus 0.04: P(Lap(0.04) < 0.04).
    state = metrics.ThresholdoutState(jnp.float32(0.04), jnp.int32(9))
    near = jax.vmap(lambda rng: holdout.query(state, 0.08, 0.0, rng)[1].budget == 8)(KEYS)
    assert abs(np.mean(near) - (1 - np.exp(-1) / 2)) < 3 * np.sqrt(0.15 / 2000)


def test_a_question_that_agrees_changes_nothing():
    holdout = metrics.thresholdout(0.5, 0.01, budget=5)
    state = holdout.init(jax.random.key(3))
    answer, after = holdout.query(state, 0.3, 0.31, jax.random.key(4))
    assert answer == jnp.float32(0.3) and after == state
    _, other = holdout.query(state, 0.0, 3.0, jax.random.key(4))
    assert other.budget == 4 and other.threshold != state.threshold
    dtypes = [x.dtype for x in other]
    assert dtypes == [x.dtype for x in state] == [jnp.float32, jnp.int32]


def test_what_does_not_fit_is_refused():
    for call, match in (
        (lambda: metrics.thresholdout(-0.1, budget=1), "threshold must be 0 or above"),
        (lambda: metrics.thresholdout(sigma=-0.1, budget=1), "sigma must be 0 or above"),
        (lambda: metrics.thresholdout(budget=0), "budget expects"),
        (lambda: ask(metrics.thresholdout(budget=1), np.zeros((2, 2)), np.zeros((2, 2))), "two means \\[\\]"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
