"""Ranks that activate themselves: one row at a time in numpy, the limit that is LoRA, where new ranks start."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import core, models, peft, streams, testing
from ctrain_jax.peft import _mora

STREAM, MODEL = testing.standard_stream(), testing.standard_model()
INPUTS = jax.random.normal(jax.random.key(5), (6, 12))
MLP = core.from_linen(models.MLP(5, hidden=(8,)))


def made(method, task=0):
    """What answers, and its variables in an experience, with ranks that are none of them 0."""
    model = method.model(MLP)
    variables = jax.jit(model.init)(jax.random.key(0), INPUTS)
    moved = {"new": variables.params["new"], "past": variables.frozen["past"]}
    leaves, tree = jax.tree.flatten(moved)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    leaves = [0.4 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    moved = jax.tree.unflatten(tree, leaves)
    # As in a run: nothing is stored yet of this experience and of those to come.
    past = jax.tree.map(lambda bank: bank.at[task:].set(0), moved["past"])
    frozen = variables.frozen | {"past": past, "task": jnp.int32(task)}
    variables = variables._replace(params=variables.params | {"new": moved["new"]}, frozen=frozen)
    return jax.jit(lambda variables, inputs: model.apply(variables, inputs)[0].logits), variables


def test_a_row_takes_the_ranks_that_it_activates_most():
    """Two of three experiences have come, each of two ranks: one row at a time."""
    answer, variables = made(peft.mora(3, 2, budget=1, alpha=3.0, temperature=0.4, threshold=0.5), task=1)
    layers, new, past = jax.tree.map(
        lambda x: np.asarray(x, np.float64),
        (variables.frozen["params"], variables.params["new"], variables.frozen["past"]),
    )
    taken, cut = set(), 0
    for x, logits in zip(np.asarray(INPUTS, np.float64), answer(variables, INPUTS), strict=True):
        for name in ("dense_0", "head"):
            old, own = past[f"{name}.kernel"], new[f"{name}.kernel"]
            a, b = np.concatenate([old["a"][0], own["a"]], 1), np.concatenate([old["b"][0], own["b"]])
            h = x @ a
            scores = h / np.linalg.norm(h)
            weights = np.exp(scores / 0.4) / np.exp(scores / 0.4).sum()
            few = {i for i in np.argsort(scores)[3:] if scores[i] >= 0.5}
            x = x @ layers[name]["kernel"] + layers[name]["bias"] + 3 * sum(weights[i] * h[i] * b[i] for i in few)
            x = x if name == "head" else np.maximum(x, 0)
            taken |= {(name, *sorted(few))}
            cut += np.sum(scores >= 0.5) > 1
        np.testing.assert_allclose(logits, x, atol=2e-5)
    assert cut and len(taken) > 4 and {len(few) - 1 for few in taken} == {0, 1}  # budget and threshold leave out some


def test_all_ranks_at_a_high_temperature_are_lora():
    """Each of the R ranks by alpha / R, as LoRA of rank R with that alpha has it."""
    method = peft.mora(2, 2, budget=4, alpha=3.0, temperature=1e6, threshold=-1.0)
    answer, variables = made(method, task=1)
    pairs = {
        kernel: {
            "a": jnp.concatenate([variables.frozen["past"][kernel]["a"][0], own["a"]], 1),
            "b": jnp.concatenate([variables.frozen["past"][kernel]["b"][0], own["b"]]),
        }
        for kernel, own in variables.params["new"].items()
    }
    frozen = {"params": variables.frozen["params"], "frozen": ()}
    base = core.Variables({"new": pairs, "base": {}}, variables.model_state, frozen)
    expected = jax.jit(peft.lora(4, alpha=3.0, form="tree")(MLP).apply)(base, INPUTS)[0].logits
    np.testing.assert_allclose(answer(variables, INPUTS), expected, atol=1e-5)


def test_weights_of_ranks_that_are_not_activated_or_not_there():
    activations = jnp.array([[3.0, 0.0, -4.0, 9.0], [0.0, 0.0, 0.0, 9.0]])
    alive = jnp.array([True, True, True, False])
    weights = jax.jit(_mora.rank_weights, static_argnums=2)(activations, alive, 2, 0.5, 0.1)
    share = np.exp(np.array([0.6, 0.0, -0.8]) / 0.5)
    np.testing.assert_allclose(weights, [[share[0] / share.sum(), 0, 0, 0], [0, 0, 0, 0]], atol=1e-6)


def test_a_new_rank_starts_at_what_its_layer_sees():
    method = peft.mora(3, 2, budget=2, train="^head")
    run = core.make_learner(MODEL, method, optax.adam(1e-2), STREAM, batch_size=16)
    data = core.to_device(STREAM)
    state = run.begin(core.start(run), data, 1)
    rows = np.asarray(STREAM.source.train["inputs"])[STREAM.experiences["train"].rows[1][:37]]
    rows = rows[:, STREAM.origins.view[1]]
    cosines = (rows / np.linalg.norm(rows, axis=1, keepdims=True)) @ np.asarray(
        state.params["new"]["Dense_0.kernel"]["a"]
    )
    np.testing.assert_allclose(cosines.max(0), 1, atol=1e-5)
    assert len(set(cosines.argmax(0))) == 2


class Odd(nn.Module):
    """A layer whose inputs are rows, one that a transformation hides, one that sees no rows of the batch."""

    @nn.compact
    def __call__(self, inputs):
        place = nn.Dense(4, name="place")(jnp.eye(9)).sum()
        features = nn.relu(nn.remat(nn.Dense)(8, name="hidden")(nn.Dense(6, name="first")(inputs)))
        return core.Outputs(nn.Dense(2, name="head")(features) + place, features)


def test_no_two_new_ranks_start_alike_and_none_at_nothing():
    """Each of six rows that differ has a rank of its own; beside a copy of one and a row of zeros it stays drawn."""
    rows, labels = np.zeros((8, 4), np.float32), np.arange(8) % 2
    rows[:6] = np.random.default_rng(0).normal(size=(6, 4))
    rows[6] = rows[0]
    stream = streams.class_incremental(streams.arrays(rows, labels, rows, labels), 1)
    method = peft.mora(1, 8, budget=2)
    run = core.make_learner(core.from_linen(Odd()), method, optax.sgd(0.1), stream, batch_size=8)
    before = core.start(run)
    drawn = jax.tree.map(np.array, before.params["new"])
    after = run.begin(before, core.to_device(stream), 0).params["new"]
    first = np.asarray(after["first.kernel"]["a"])
    units = rows[:6] / np.linalg.norm(rows[:6], axis=1, keepdims=True)
    found = np.abs(units[:, :, None] - first).max(1) < 1e-5
    np.testing.assert_array_equal(found.sum(1), 1)
    left = ~found.any(0)
    np.testing.assert_array_equal(first[:, left], drawn["first.kernel"]["a"][:, left])
    np.testing.assert_array_equal(after["hidden.kernel"]["a"], drawn["hidden.kernel"]["a"])
    np.testing.assert_array_equal(np.sort(np.asarray(after["place.kernel"]["a"]), 0)[-1], 1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"budget": 0}, "budget expects a whole number of at least 1, got 0"),
        ({"budget": 1, "temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"budget": 1, "alpha": 0.0}, "alpha must be above 0, got 0.0"),
        ({"budget": 1, "threshold": 1.5}, "threshold must be between -1 and 1, got 1.5"),
    ],
)
def test_wrong_use_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        peft.mora(2, 2, **options)
