"""MIR against a loop over the memory, and in chains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, streams


@functools.cache
def digits():
    return streams.class_incremental(streams.digits(), 5)


def model():
    return core.from_linen(models.MLP(10, hidden=(8,)))


def learner_of(method, steps=6):
    return core.make_learner(model(), method, optax.sgd(0.1), digits(), batch_size=16, steps=steps)


def spy(num):
    """Remembers the rows and weights of the last batch; last in a chain."""
    return core.Method(
        "spy",
        init=lambda rng, params, ctx: (jnp.zeros(num, jnp.int32), jnp.zeros(num)),
        update=lambda s, ts, ctx: ((ctx.batch["row"], ctx.batch["weights"]), ts),
    )


def losses(params, rows):
    inputs = jnp.asarray(digits().source.train["inputs"][np.asarray(rows)], jnp.float32) / 255
    logits = model().apply(core.Variables(params, {}), inputs)[0].logits
    return -jax.nn.log_softmax(logits)[jnp.arange(len(rows)), digits().source.train["labels"][np.asarray(rows)]]


def test_it_replays_the_rows_that_the_step_would_harm_most_each_once():
    """The memory of 40 is full after three steps and all of it are candidates; after one it has 16 rows for 40.

    The penalty of a neighbour is no part of the virtual step.
    """
    pull = core.Method("pull", loss=lambda s, params, ctx: (0.5 * optax.tree.norm(params, squared=True), {}))
    learner = learner_of(core.chain(continual.mir(40, lr=0.5, candidates=45, batch_size=20), pull, spy(36)))
    data, chunk = core.to_device(digits()), jax.jit(learner.chunk)
    first, _ = chunk(core.start(learner, 0), data, 0, 0, 1)
    assert first.method_state["spy"][1].tolist() == [1] * 16 + [0] * 20, "of an empty memory nothing is replayed"
    for before, i, held in ((first, 1, 16), (chunk(first, data, 0, 1, 2)[0], 3, 40)):
        rows, weights = map(np.asarray, chunk(before, data, 0, i, 1)[0].method_state["spy"])
        memory = np.asarray(before.method_state["mir"].buffer.records["row"])[:held]
        assert len(set(memory.tolist())) == held
        grads = jax.grad(lambda params, rows=rows: losses(params, rows[:16]).mean())(before.params)
        virtual = jax.tree.map(lambda p, g: p - 0.5 * g, before.params, grads)
        harm = losses(virtual, memory) - losses(before.params, memory)
        worst = sorted(range(held), key=lambda place, harm=harm: -harm[place])[:20]
        replayed = min(held, 20)
        assert weights[16:].tolist() == [1] * replayed + [0] * (20 - replayed)
        assert rows[16 : 16 + replayed].tolist() == memory[worst].tolist()


def test_the_first_step_of_an_empty_memory_is_a_plain_one():
    after = []
    for method in (core.identity(), continual.mir(40, lr=0.5)):
        learner = learner_of(method)
        after.append(jax.jit(learner.step)(core.start(learner, 0), core.to_device(digits()), 0, 0)[0].params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *after)


def test_a_neighbour_of_strength_zero_changes_no_bit():
    after = []
    for method in (continual.mir(50, lr=0.1), core.chain(continual.ewc(0.0), continual.mir(50, lr=0.1))):
        learner = learner_of(method)
        after.append(jax.jit(learner.chunk)(core.start(learner, 0), core.to_device(digits()), 0, 0, 6)[0])
    alone, both = after
    jax.tree.map(np.testing.assert_array_equal, alone.params, both.params)
    jax.tree.map(np.testing.assert_array_equal, alone.method_state["mir"], both.method_state["mir"])


def test_what_it_refuses():
    for arguments, match in (
        ({"size": 0, "lr": 0.1}, "size expects a whole number of at least 1, got 0"),
        ({"size": 5, "lr": 0.0}, "lr must be above 0"),
        ({"size": 5, "lr": 0.1, "candidates": 0}, "candidates expects a whole number of at least 1, got 0"),
        ({"size": 5, "lr": 0.1, "batch_size": 0}, "batch_size expects a whole number of at least 1, got 0"),
        ({"size": 5, "lr": 0.1, "policy": "fifo"}, "policy must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.mir(**arguments)
    with pytest.raises(ValueError, match="at least as many candidates as rows to replay, got candidates=10 for 16"):
        learner = learner_of(continual.mir(50, lr=0.1, candidates=10))
        jax.eval_shape(learner.init, jax.random.key(0))
