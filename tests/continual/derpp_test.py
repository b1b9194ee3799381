"""DER++ against one step written by hand from two draws and the stored logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, ops, testing

RATE, ALPHA, BETA = 0.1, 0.7, 0.3


def learner_of(method, *, model=None, optimizer=None, **options):
    """A softmax-linear model under SGD on the standard stream."""
    model = model or core.from_linen(models.MLP(6, hidden=()))
    stream = testing.standard_stream()
    return core.make_learner(model, method, optimizer or optax.sgd(RATE), stream, **{"batch_size": 8, **options})


@functools.cache
def watcher():
    """A compiled step that only remembers its batch, and what it takes."""

    def init(rng, params, ctx):
        return {name: jnp.zeros(field.shape, field.dtype) for name, field in ctx.spec.batch.items()}

    learner = learner_of(core.Method("spy", init=init, update=lambda s, ts, ctx: (dict(ctx.incoming), ts)))
    return jax.jit(learner.step), core.start(learner), core.to_device(learner.stream)


def incoming(t, i):
    """The batch of a step."""
    step, state, data = watcher()
    return jax.tree.map(np.asarray, step(state, data, t, i)[0].method_state["spy"])


def draw(state, t, i, name, num, capacity):
    """Rows, experiences and logits of one of the two draws of a step."""
    key = jax.random.fold_in(jax.random.fold_in(state.rng, t), i)
    rng = core.tag(core.tag(core.tag(key, "derpp"), "loss"), name)
    buffer = state.method_state["derpp"].buffer
    held = min(int(buffer.seen), capacity)
    at = np.asarray(ops.permute_index(rng, jnp.arange(num) % held, jnp.int32(held)))
    return {name: np.asarray(leaf)[at] for name, leaf in buffer.records.items()}


def viewed(stream, records):
    inputs = stream.source.train["inputs"][records["row"]]
    views = np.asarray(stream.origins.view)[records["experience"]]
    return np.take_along_axis(inputs, views, axis=1), stream.source.train["labels"][records["row"]]


def after_one_experience(learner):
    """The compiled step, the state after the seven steps of experience 0 (its edges do nothing), and the data."""
    data, state, step = core.to_device(learner.stream), core.start(learner), jax.jit(learner.step)
    for i in range(7):
        state, _ = step(state, data, 0, i)
    return step, state, data


def test_one_step_by_hand_from_two_draws_and_the_stored_logits():
    num = 5
    learner = learner_of(continual.derpp(20, alpha=ALPHA, beta=BETA, batch_size=num))
    step, state, data = after_one_experience(learner)
    for i in range(4):
        state, _ = step(state, data, 1, i)
    after, record = step(state, data, 1, 4)
    head = jax.tree.map(lambda p: np.asarray(p, np.float64), state.params["head"])

    def forward(x):
        x = np.asarray(x, np.float64)
        logits = x @ head["kernel"] + head["bias"]
        p = np.exp(logits - logits.max(1, keepdims=True))
        return x, logits, p / p.sum(1, keepdims=True)

    batch = incoming(1, 4)
    assert batch["weights"].sum() == 5, "the step of this example has padding"
    old, again = (draw(state, 1, 4, name, num, 20) for name in ("logits", "labels"))
    assert old["row"].tolist() != again["row"].tolist(), "the draws are independent"
    value, grads = 0.0, {"kernel": 0.0, "bias": 0.0}
    for x, y, weights in (
        (batch["inputs"], batch["labels"], batch["weights"] / 5),
        (*viewed(learner.stream, again), np.full(num, BETA / num)),
    ):
        x, _, p = forward(x)
        slope = (p - np.eye(6)[y]) * weights[:, None]
        value -= np.sum(weights * np.log(p[np.arange(len(y)), y]))
        grads = {"kernel": grads["kernel"] + x.T @ slope, "bias": grads["bias"] + slope.sum(0)}
    x, logits, _ = forward(viewed(learner.stream, old)[0])
    value += ALPHA * np.mean((logits - old["logits"]) ** 2)
    slope = 2 * ALPHA * (logits - old["logits"]) / logits.size
    grads = {"kernel": grads["kernel"] + x.T @ slope, "bias": grads["bias"] + slope.sum(0)}
    np.testing.assert_allclose(record["loss"], value, rtol=1e-5)
    for name, grad in grads.items():
        np.testing.assert_allclose(after.params["head"][name], head[name] - RATE * grad, rtol=1e-5, atol=1e-6)


def test_stored_logits_are_those_before_the_update_of_the_step_in_which_a_row_arrived():
    learner = learner_of(continual.derpp(20))
    data, before, step = core.to_device(learner.stream), core.start(learner), jax.jit(learner.step)
    for i in range(2):
        after, _ = step(before, data, 0, i)
        records = jax.tree.map(
            lambda x, i=i: np.asarray(x)[8 * i : 8 * (i + 1)], after.method_state["derpp"].buffer.records
        )
        batch = incoming(0, i)
        np.testing.assert_array_equal(records["row"], batch["row"])
        head = before.params["head"]
        np.testing.assert_allclose(
            records["logits"], batch["inputs"] @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5
        )
        moved = batch["inputs"] @ after.params["head"]["kernel"] + after.params["head"]["bias"]
        assert np.max(np.abs(records["logits"] - moved)) > 1e-2
        before = after


def test_batchnorm_sees_the_incoming_batch_then_the_two_draws():
    model = testing.standard_model()
    learner = learner_of(continual.derpp(20), model=model)
    step, state, data = after_one_experience(learner)
    after, _ = step(state, data, 1, 0)
    model_state = state.model_state
    batches = [incoming(1, 0)["inputs"]]
    batches += [viewed(learner.stream, draw(state, 1, 0, name, 8, 20))[0] for name in ("logits", "labels")]
    for x in batches:
        _, model_state = model.apply(core.Variables(state.params, model_state), jnp.asarray(x), train=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after.model_state, model_state)


def test_an_empty_memory_leaves_no_trace():
    after = []
    for method in (core.identity(), continual.derpp(20)):
        learner = learner_of(method, model=testing.standard_model())
        state, _ = jax.jit(learner.step)(core.start(learner), core.to_device(learner.stream), 0, 0)
        after.append((state.params, state.model_state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *after)


def test_without_weights_it_is_plain_training():
    """A net without BatchNorm: the passes of the replay would move its statistics."""
    methods = {"plain": core.identity(), "off": continual.derpp(20, alpha=0.0, beta=0.0), "on": continual.derpp(20)}
    params = {}
    for name, method in methods.items():
        learner = learner_of(method, model=core.from_linen(models.MLP(6, hidden=(16,))))
        data, state, step = core.to_device(learner.stream), core.start(learner), jax.jit(learner.step)
        for t, i in [(0, i) for i in range(7)] + [(1, i) for i in range(5)]:
            state, _ = step(state, data, t, i)
        params[name] = state.params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), params["plain"], params["off"])
    assert not np.allclose(params["plain"]["head"]["kernel"], params["on"]["head"]["kernel"], atol=1e-2)


def test_what_it_refuses():
    for arguments, match in (
        ({"size": 0}, "size expects a whole number of at least 1, got 0"),
        ({"size": 5, "alpha": -1.0}, "alpha must be 0 or above"),
        ({"size": 5, "beta": -1.0}, "beta must be 0 or above"),
        ({"size": 5, "batch_size": 0}, "batch_size expects a whole number of at least 1, got 0"),
        ({"size": 5, "policy": "fifo"}, "policy must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.derpp(**arguments)
