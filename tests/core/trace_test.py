"""A run that is tested on its way is the run that is not, and its tests are those of the states on its way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import continual, core
from tests.short import short_learner


@pytest.fixture(scope="module")
def learner():
    return short_learner(continual.er(10), steps=5)


def test_the_tests_are_of_the_states_between_the_steps(learner):
    state, trace = core.trace_stream(learner, 3, every=2, rows=20)
    assert trace.step.tolist() == [2, 4, 5, 7, 9, 10, 12, 14, 15]
    assert trace.experience.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    data = core.to_device(learner.stream)
    test = data.experiences["test"]
    few = data._replace(experiences=data.experiences | {"test": test._replace(size=jnp.full(3, 20))})
    evaluate, expected, lengths = jax.jit(learner.evaluate), [], iter([2, 2, 1] * 3)
    begin, chunk, end = (jax.jit(f) for f in (learner.begin, learner.chunk, learner.end))
    other = core.start(learner, 3)
    for t in range(3):
        other, at = begin(other, data, t), 0
        for _ in range(3):
            length = next(lengths)
            other, _ = chunk(other, data, t, at, length)
            at += length
            expected.append(evaluate(other, few, t)["accuracy"])
        other = end(other, data, t)
    np.testing.assert_allclose(trace.accuracy, np.stack(expected), atol=1e-6)
    assert np.ptp(np.stack(expected)) > 0.3
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_seeds_are_a_leading_axis(learner):
    state, trace = core.trace_stream(learner, [3, 4], every=5)
    assert trace.accuracy.shape == (2, 3, 3) and state.step.tolist() == [15, 15]
    _, one = core.trace_stream(learner, 4, every=5)
    np.testing.assert_allclose(trace.accuracy[1], one.accuracy, atol=1e-6)


def test_what_it_refuses(learner):
    for options, match in (({"every": 0}, "every expects"), ({"rows": 0}, "rows expects")):
        with pytest.raises(ValueError, match=match):
            core.trace_stream(learner, **options)
