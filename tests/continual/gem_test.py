"""GEM against steps written by hand: the rows of the memories, every gradient, the quadratic program by active sets."""

import itertools

import jax
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, testing
from tests.continual.agem_test import flat, gradient, spy
from tests.short import short_run

RATE = 0.1


def learner_of(method):
    """A softmax-linear model under SGD on the standard stream."""
    model = core.from_linen(models.MLP(6, hidden=()))
    return core.make_learner(model, method, optax.sgd(RATE), testing.standard_stream(), batch_size=8)


def projected(g, references, margin):
    """The minimum of the dual problem, the best of all valid active sets."""
    best = (np.inf, g)
    for free in itertools.product((False, True), repeat=len(references)):
        free, v = np.array(free), np.full(len(references), margin)
        fixed = g + references[~free].T @ v[~free]
        v[free] = -np.linalg.solve(references[free] @ references[free].T, references[free] @ fixed)
        moved = g + references.T @ v
        if np.all(v >= margin - 1e-12) and moved @ moved < best[0]:
            best = (moved @ moved, moved)
    return best[1]


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_a_step_is_the_projection_by_hand(margin):
    """40 rows of each experience, of which the second has 37: its mean is over these."""
    learner = learner_of(core.chain(continual.gem(40, margin=margin), spy()))
    stream, data, step = learner.stream, core.to_device(learner.stream), jax.jit(learner.step)
    train, state = stream.experiences["train"], core.start(learner)
    for t in range(2):
        state = core.run_experience(learner, state, data, t)
    kept = jax.tree.map(np.asarray, state.method_state["gem"])
    assert kept.held.tolist() == [40, 37, 0]
    rows = [kept.records["row"][t][:n] for t, n in enumerate((40, 37))]
    for t in range(2):
        assert len(set(rows[t].tolist())) == len(rows[t]) and set(rows[t]) <= set(train.rows[t][: train.size[t]])
        assert np.all(kept.records["experience"][t] == t)
    conflicts = 0
    for i in range(4):
        after, _ = step(state, data, 2, i)
        g = gradient(state.params, stream, np.asarray(after.method_state["spy"]), np.full(8, 2))
        references = np.stack([gradient(state.params, stream, r, np.full(len(r), t)) for t, r in enumerate(rows)])
        if np.any(references @ g < 0):
            g, conflicts = projected(g, references, margin), conflicts + 1
        np.testing.assert_allclose(flat(after.params), flat(state.params) - RATE * g, rtol=1e-4, atol=1e-5)
        state = after
    assert conflicts, "a step of this example is projected"


def test_the_first_experience_is_plain_training():
    plain, own = (short_run(m, experiences=1).params for m in (core.identity(), continual.gem(10)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain, own)


def test_what_it_refuses():
    for arguments, match in (
        ({"per_experience": 0}, "per_experience expects a whole number of at least 1, got 0"),
        ({"per_experience": 5, "margin": -1.0}, "margin must be 0 or above"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.gem(**arguments)
