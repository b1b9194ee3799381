"""Generative replay: the cost of the generator in numpy, the rows that it makes up, and their labels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, streams, testing
from tests.short import short_learner, short_run

SMALL = {"latent": 3, "hidden": (5,)}


def unit_stream(heads="all"):
    """The standard stream with inputs in [0, 1]."""
    stream = testing.standard_stream(task_known=heads == "task")
    inputs = stream.source.train["inputs"]
    scaled = ((inputs - inputs.min()) / np.ptp(inputs)).astype(np.float32)
    source = streams.arrays(scaled, stream.source.train["labels"], scaled, stream.source.test["labels"])
    return stream._replace(source=source, heads=heads)


def spy():
    """The rows of a step, its key, and the generator after it."""

    def init(rng, params, ctx):
        shapes = {k: (16, *v.shape[1:]) for k, v in ctx.spec.batch.items()}
        seen = {k: jnp.zeros(shape, ctx.spec.batch[k].dtype) for k, shape in shapes.items()}
        return seen, jax.random.key_data(rng)

    def update(s, ts, ctx):
        own = ctx.replace(name="generative_replay")
        return ({k: ctx.batch[k] for k in s[0]}, jax.random.key_data(own.rng)), ts

    return core.Method("spy", init=init, update=update)


def dense(params, x):
    hidden = np.maximum(x @ params["dense_0"]["kernel"] + params["dense_0"]["bias"], 0)
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def cost(generator, x, weights, noise):
    """Reconstruction and distance from the prior, written out."""
    code = dense(generator["encoder"], x)
    mean, variance = code[:, :3], np.exp(code[:, 3:])
    p = 1 / (1 + np.exp(-dense(generator["decoder"], mean + np.sqrt(variance) * noise)))
    fit = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum(1)
    divergence = 0.5 * (mean**2 + variance - np.log(variance) - 1).sum(1)
    return ((fit + divergence) * weights).sum() / weights.sum()


def test_the_generator_goes_down_the_cost_written_out():
    """What Adam holds after one step is a tenth of the gradient: against differences of the cost in float64."""
    learner = short_learner(core.chain(continual.generative_replay(**SMALL), spy()), stream=unit_stream(), steps=2)
    data, state = core.to_device(learner.stream), core.start(learner)
    before = jax.tree.map(np.float64, state.method_state["generative_replay"].generator)
    state, _ = jax.jit(learner.step)(jax.jit(learner.begin)(state, data, 0), data, 0, 0)
    batch, key = state.method_state["spy"]
    rng = jax.random.wrap_key_data(key)
    noise = np.asarray(jax.random.normal(rng, (16, 3)), np.float64)
    x, weights = (np.asarray(batch[k], np.float64) for k in ("inputs", "weights"))
    held = state.method_state["generative_replay"].opt_state[0].mu
    for part, layer, name, at in (
        ("encoder", "dense_0", "kernel", (2, 3)),
        ("encoder", "head", "bias", (1,)),
        ("encoder", "head", "bias", (4,)),
        ("decoder", "dense_0", "kernel", (0, 2)),
        ("decoder", "head", "kernel", (1, 7)),
    ):
        leaf, values = before[part][layer][name], []
        for h in (1e-5, -2e-5):
            leaf[at] += h
            values.append(cost(before, x, weights, noise))
        leaf[at] += 1e-5
        expected = (values[0] - values[1]) / 2e-5
        np.testing.assert_allclose(held[part][layer][name][at] / 0.1, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("heads", ["all", "seen", "task"])
def test_generated_rows_are_labelled_by_the_old_network_among_classes_seen_before(heads):
    method = continual.generative_replay(**SMALL)
    learner = short_learner(core.chain(method, spy()), stream=unit_stream(heads), steps=4)
    events = core.iterate(learner, core.to_device(learner.stream), core.start(learner))
    for t, event in enumerate(events):
        own = jax.tree.map(np.asarray, event.state.method_state["generative_replay"])
        batch = jax.tree.map(np.asarray, event.state.method_state["spy"][0])
        made = {k: v[8:] for k, v in batch.items()}
        assert made["weights"].tolist() == [float(t)] * 8
        if t == 0:
            np.testing.assert_array_equal(made["inputs"], batch["inputs"][:8])
            continue
        assert np.all(made["labels"] < 2 * t) and made["inputs"].min() > 0 and made["inputs"].max() < 1
        known = made["classes"] if heads == "task" else np.broadcast_to(np.arange(6) < 2 * t, (8, 6))
        answer = testing.standard_model().apply(core.Variables(*own.teacher[:2]), made["inputs"])[0].logits
        np.testing.assert_array_equal(np.where(known, answer, -np.inf).argmax(1), made["labels"])
        if heads == "task":
            assert np.all(made["task"] < t) and np.all(known.argmax(1) == 2 * made["task"])


def test_the_first_experience_is_plain_training():
    made, plain = (
        short_run(method, optimizer=optax.sgd(0.05), stream=unit_stream(), steps=6, experiences=1)
        for method in (continual.generative_replay(**SMALL), core.identity())
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        (made.params, made.model_state),
        (plain.params, plain.model_state),
    )


def test_what_it_refuses():
    for arguments, match in (
        ({"latent": 0}, "latent expects"),
        ({"hidden": (4, 0)}, "Each width in hidden expects"),
        ({"learning_rate": 0.0}, "learning_rate must be"),
        ({"weighting": "classes"}, "weighting must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.generative_replay(**arguments)
