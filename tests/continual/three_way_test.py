"""Three parts of a batch: how many rows of each, where they come from, and nothing added at first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import continual, core, models
from tests.short import short_learner

BATCH = 8


def watched():
    """Remembers of which experience the rows of a batch are, and their weights."""

    def init(rng, params, ctx):
        return jnp.zeros((4 * BATCH, 3), jnp.float32)

    def update(s, ts, ctx):
        columns = [ctx.batch[k].astype(jnp.float32) for k in ("experience", "row", "weights")]
        rows = jnp.stack(columns, axis=1)
        return s.at[: len(rows)].set(rows), ts

    return core.Method("watched", init=init, update=update)


def learner_of(method):
    return short_learner(method, model=core.from_linen(models.MLP(6, hidden=(8,))))


def batches(ratios):
    """(t, experience [n], row [n], weight [n]) of some steps of each experience, and the last state."""
    learner = learner_of(core.chain(continual.three_way(24, ratios=ratios), watched()))
    data, state = core.to_device(learner.stream), core.start(learner)
    step, end = map(jax.jit, (learner.step, learner.end))
    found = []
    for t in range(3):
        for i in range(4):
            state, _ = step(state, data, jnp.int32(t), jnp.int32(i))
            found.append((t, *np.asarray(state.method_state["watched"]).T))
        state = end(state, data, jnp.int32(t))
    return learner, found


@pytest.mark.parametrize("ratios, added", [((1, 1, 1), (8, 8)), ((0.5, 0.3, 0.2), (5, 3))])
def test_the_parts_are_in_their_ratios_to_within_rounding_and_all_held_rows_come(ratios, added):
    learner, found = batches(ratios)
    train, own, seen = learner.stream.experiences["train"], slice(BATCH, BATCH + sum(added)), {0: set(), 1: set()}
    for t, experience, row, weight in found:
        assert (experience[:BATCH] == t).all() and (weight[own.stop :] == 0).all()
        earlier, first = np.split(experience[own], [added[0]])
        held, held_first = np.split(weight[own], [added[0]])
        assert (held_first == (t > 0)).all() and (held == (t > 1)).all()
        assert (first == 0).all() if t > 0 else set(row[own]) <= set(row[:BATCH])
        assert t < 2 or (earlier == 1).all()
        for e, rows in seen.items():
            rows.update(row[own][(experience[own] == e) & (weight[own] > 0)].astype(int).tolist())
    # A third of 24 rows is held of each experience; far more were drawn.
    for e, rows in seen.items():
        assert 4 <= len(rows) <= 8 and rows <= set(train.rows[e].tolist())


def test_without_the_other_two_it_is_plain_training_and_so_is_the_first_experience():
    plain, none, own = map(
        learner_of, (core.identity(), continual.three_way(24, ratios=(1, 0, 0)), continual.three_way(24))
    )
    data = core.to_device(plain.stream)

    def gradient(learner, t):
        # The memory is full from here on.
        state = jax.jit(learner.end)(core.start(learner), data, jnp.int32(0))
        if t == 0:
            state = core.start(learner)
        return jax.jit(learner.gradient)(state, data, jnp.int32(t), jnp.int32(2))

    def close(a, b):
        return all(np.allclose(x, y, atol=1e-6) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    assert close(gradient(plain, 1), gradient(none, 1)) and not close(gradient(plain, 1), gradient(own, 1))
    assert close(gradient(plain, 0), gradient(own, 0))


def test_what_it_refuses():
    for arguments, match in (
        ({"size": 0}, "size expects a whole number"),
        ({"size": 9, "ratios": (1, 1)}, "give three"),
        ({"size": 9, "ratios": (0, 1, 1)}, "ratio of new rows must be above 0"),
        ({"size": 9, "ratios": (1, 1, -1)}, "ratio of pre-training rows must be 0 or above"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.three_way(**arguments)
