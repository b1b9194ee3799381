"""CTP against loops in numpy: the loss of a step, the slow network, the queue, and what is found."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, testing
from ctrain_jax.continual.representation import _ctp
from tests.losses.info_nce_test import by_hand
from tests.rehearsed import spy

MODEL = core.from_linen(models.TwoTower(4, hidden=(5,), activation=jnp.tanh))
TAU, QUEUE = 0.3, 12
OPTIONS = {"alpha": 1.5, "temperature": TAU, "momentum": 0.8, "first_momentum": 0.6, "mix": 0.25, "queue": QUEUE}


@functools.cache
def learning():
    """A learner and its compiled functions; a spy remembers the incoming rows."""
    method = core.chain(continual.ctp(3.0, **OPTIONS), spy(8))
    learner = core.make_learner(MODEL, method, optax.sgd(0.5), testing.standard_stream(), batch_size=8)
    return learner, core.to_device(learner.stream), jax.jit(learner.step), jax.jit(learner.begin)


@functools.cache
def run():
    """The states before and after each step: two of the first experience, three of the second, the last one padded."""
    learner, data, step, begin = learning()
    state, found = core.start(learner), []
    for t, steps in ((0, (0, 1)), (1, (0, 1, learner.spec.steps[1] - 1))):
        state = begin(state, data, t)
        for i in steps:
            old = state
            state, record = step(state, data, t, i)
            found.append((t, old, state, record))
    return found


def places(params, inputs):
    """Of both views [B, 2, D], in double precision."""
    towers = []
    for name, x in zip(("first", "second"), np.split(np.asarray(inputs, np.float64), 2, axis=1), strict=True):
        layers = params[name]
        h = np.tanh(x @ np.asarray(layers["dense_0"]["kernel"]) + np.asarray(layers["dense_0"]["bias"]))
        z = h @ np.asarray(layers["head"]["kernel"]) + np.asarray(layers["head"]["bias"])
        towers.append(z / np.linalg.norm(z, axis=1, keepdims=True))
    return np.stack(towers, axis=1)


def topology(now, then):
    """The mean over rows of the four divergences, halved; a row is not one of its own view's."""
    total = 0.0
    for u, v in ((0, 1), (1, 0), (0, 0), (1, 1)):
        for i in range(len(now)):
            among = [j for j in range(len(now)) if u != v or j != i]
            new, old = (np.exp([z[i, u] @ z[j, v] / TAU for j in among]) for z in (now, then))
            new, old = new / new.sum(), old / old.sum()
            total += np.sum(old * np.log(old / new)) / len(now) / 2
    return total


def test_the_loss_of_a_step_by_hand_with_a_queue_and_padding():
    learner, *_ = learning()
    queue, kept, distances = np.zeros((0, 2, 4)), [], []
    for t, old, new, record in run():
        row, weights = (np.asarray(new.method_state["spy"][name]) for name in ("row", "weights"))
        inputs = learner.stream.source.train["inputs"][row][:, np.asarray(learner.stream.origins.view)[t]]
        own = old.method_state["ctp"]
        now, keys, then = (places(p, inputs) for p in (old.params, own.slow, own.teacher))
        real = weights > 0
        now, then, real_keys = now[real], then[real], keys[real]
        expected = 0.0
        for others, alpha in ((now, 1.0), (np.concatenate([real_keys, queue]), 1.5)):
            for v in (0, 1):
                rows = by_hand(now[:, v], others[:, 1 - v], TAU, np.ones(len(others), bool))
                expected += alpha * np.mean(rows) / 2
        distances.append(topology(now, then))
        expected += 3.0 * distances[-1] if t else 0.0
        np.testing.assert_allclose(record["loss"], expected, rtol=2e-5)
        both = [now[:, 0] @ now[:, 1].T, now[:, 1] @ now[:, 0].T]
        right = np.mean([x.argmax(1) == np.arange(len(now)) for x in both])
        np.testing.assert_allclose(record["accuracy"], right, rtol=1e-6)
        # Keys of padding take a place in the queue, and count for nothing.
        kept = [(key, there) for key, there in zip(keys, real, strict=True)] + kept
        kept = kept[:QUEUE]
        queue = np.array([key for key, there in kept if there])
        after = new.method_state["ctp"]
        np.testing.assert_allclose(np.asarray(after.queue)[np.asarray(after.filled)], queue, atol=1e-5)
    # What it is held against is there: a full queue, padding, and a topology that moved.
    assert len(kept) == QUEUE and 0 < real.sum() < 8
    assert distances[2] < 1e-9 and distances[-1] > 1e-4


def test_the_slow_network_follows_the_new_one_and_later_the_old_one_too():
    for t, old, new, _ in run():
        before, after = (state.method_state["ctp"] for state in (old, new))
        m, mix = ((0.6, 0.0), (0.8, 0.25))[t]
        jax.tree.map(
            lambda s, p, o, got, m=m, mix=mix: np.testing.assert_allclose(
                got, m * s + (1 - m) * ((1 - mix) * p + mix * o), atol=1e-6
            ),
            *(jax.tree.map(np.asarray, tree) for tree in (before.slow, new.params, before.teacher, after.slow)),
        )
    first_of_second = run()[2][1]
    jax.tree.map(np.testing.assert_array_equal, first_of_second.method_state["ctp"].slow, first_of_second.params)
    jax.tree.map(np.testing.assert_array_equal, first_of_second.method_state["ctp"].teacher, first_of_second.params)


def test_what_has_not_moved_has_a_topology_of_0_without_a_gradient_and_a_rotation_is_no_move():
    rng = np.random.default_rng(0)
    now, then = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in rng.normal(size=(2, 6, 2, 4)))
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    there = jnp.arange(6) < 5

    @jax.jit
    def rows(places, before):
        return _ctp.topology_distance(places, before, TAU, there)

    np.testing.assert_allclose(rows(now, now), 0, atol=1e-6)
    np.testing.assert_allclose(
        jax.jit(jax.grad(lambda z: rows(z, jnp.asarray(now)).sum()))(jnp.asarray(now)), 0, atol=1e-6
    )
    np.testing.assert_allclose(rows(now @ turn, then), rows(now, then), rtol=1e-4)
    np.testing.assert_allclose(rows(now, then)[:5].mean(), topology(now[:5], then[:5]), rtol=1e-5)


def test_what_is_found_counts_half_for_each_direction():
    z = np.random.default_rng(0).normal(size=(6, 2, 4))
    there = np.arange(6) != 2
    found = np.zeros(6)
    for i in range(6):
        for u, v in ((0, 1), (1, 0)):
            nearest = max((j for j in range(6) if there[j]), key=lambda j, i=i, u=u, v=v: z[i, u] @ z[j, v])
            found[i] += (nearest == i) / 2
    assert {0, 0.5} <= set(found)
    np.testing.assert_array_equal(_ctp.retrieval(jnp.asarray(z), jnp.asarray(there))[there], found[there])


def test_all_networks_drop_the_same_units():
    model = core.from_linen(models.TwoTower(4, hidden=(16,), dropout=0.5))
    learner = core.make_learner(model, continual.ctp(3.0), optax.sgd(0.5), testing.standard_stream(), batch_size=8)
    data = core.to_device(learner.stream)

    @jax.jit
    def loss(lam):
        state = learner.begin(learner.init(jax.random.key(0)), data, 1)
        state = state._replace(method_state={"ctp": state.method_state["ctp"]._replace(lam=lam)})
        return learner.step(state, data, 1, 0)[1]["loss"]

    # Nothing has moved yet.
    np.testing.assert_allclose(loss(3.0), loss(0.0), rtol=1e-5)


def test_the_slow_network_of_one_in_half_precision_is_of_32_bits():
    class Half(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            return core.Outputs(nn.Dense(8, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)(inputs).reshape(-1, 2, 4))

    learner = core.make_learner(core.from_linen(Half()), continual.ctp(), optax.sgd(0.5), testing.standard_stream())
    data = core.to_device(learner.stream)
    state = jax.eval_shape(
        lambda key: learner.step(learner.begin(learner.init(key), data, 0), data, 0, 0)[0], jax.random.key(0)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.method_state["ctp"].slow)} == {jnp.dtype(jnp.float32)}


def test_what_it_refuses():
    for arguments, match in (
        ({"lam": -1.0}, "lam must be 0 or above"),
        ({"alpha": -1.0}, "alpha must be 0 or above"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"momentum": 1.5}, "momentum must be between 0 and 1"),
        ({"mix": -0.1}, "mix must be between 0 and 1"),
        ({"queue": 0}, "queue"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.ctp(**arguments)
    learner = core.make_learner(testing.standard_model(), continual.ctp(), optax.sgd(0.1), testing.standard_stream())
    with pytest.raises(ValueError, match="ctp expects where the two views of each row lie"):
        jax.eval_shape(learner.init, jax.random.key(0))
