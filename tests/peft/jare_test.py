"""Increments that a row retrieves: row by row in numpy; whose weights tokens have, where keys are from; wrong use."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import core, models, peft, testing
from ctrain_jax.peft import _jare

STREAM, MODEL = testing.standard_stream(), testing.standard_model()
INPUTS = jax.random.normal(jax.random.key(5), (6, 12))
MLP = core.from_linen(models.MLP(5, hidden=(8,)))


def made(method, base, inputs, task=0):
    """What answers, and its variables in an experience, with increments and keys that are none of them 0."""
    model = method.model(base)
    variables = jax.jit(model.init)(jax.random.key(0), inputs)
    frozen, params = variables.frozen, variables.params
    moved = {"new": params["new"], "past": frozen["past"], "keys": frozen["keys"]}
    leaves, tree = jax.tree.flatten(moved)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    leaves = [0.4 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    moved = jax.tree.unflatten(tree, leaves)
    new, past, keys = moved["new"], moved["past"], moved["keys"]
    # As in a run: nothing is stored yet of this experience and of those to come.
    past = jax.tree.map(lambda bank: bank.at[task:].set(0), past)
    frozen = frozen | {"past": past, "keys": keys, "task": jnp.int32(task)}
    apply = jax.jit(lambda variables, inputs: model.apply(variables, inputs)[0].logits)
    return apply, variables._replace(params=params | {"new": new}, frozen=frozen)


def test_each_row_has_the_weights_that_it_retrieves():
    """Two of three experiences have come, each of two slots of rank 2, keys in two groups: one row at a time."""
    answer, variables = made(peft.jare(3, 2, slots=2, top_k=2, groups=2), MLP, INPUTS, task=1)
    base = core.Variables(variables.frozen["params"], variables.model_state)
    features = jax.jit(MLP.apply)(base, INPUTS)[0].features  # each row is nearest to the key that it is itself
    variables = variables._replace(frozen=variables.frozen | {"keys": features.reshape(3, 2, 8)})
    layers, new, past, keys = jax.tree.map(
        lambda x: np.asarray(x, np.float64),
        (variables.frozen["params"], variables.params["new"], variables.frozen["past"], variables.frozen["keys"]),
    )
    names = ("dense_0", "head")

    def forward(x, kernels):
        for name in names:
            features, x = x, x @ kernels[name] + layers[name]["bias"]
            x = x if name == "head" else np.maximum(x, 0)
        return x, features

    taken = set()
    for x, logits in zip(np.asarray(INPUTS, np.float64), answer(variables, INPUTS), strict=True):
        kernels = {name: layers[name]["kernel"].copy() for name in names}
        _, query = forward(x, kernels)
        cosines = {}
        for t in range(2):
            for s in range(2):
                halves = [(query[:4], keys[t, s, :4]), (query[4:], keys[t, s, 4:])]
                cosines[t, s] = np.mean([q @ k / np.linalg.norm(q) / np.linalg.norm(k) for q, k in halves])
        best = {slot: max(cosines[slot], 1e-6) for slot in sorted(cosines, key=cosines.get)[2:]}
        for (t, s), cosine in best.items():
            for name in names:
                pair = new[f"{name}.kernel"] if t == 1 else {k: v[0] for k, v in past[f"{name}.kernel"].items()}
                own = slice(2 * s, 2 * s + 2)
                kernels[name] += cosine / sum(best.values()) * pair["a"][:, own] @ pair["b"][own]
        taken |= {tuple(best)}
        np.testing.assert_allclose(logits, forward(x, kernels)[0], atol=2e-5)
    assert len(taken) > 3  # the rows differ in what they take


class Tokens(nn.Module):
    """A dense layer that sees tokens, and one that sees rows."""

    @nn.compact
    def __call__(self, inputs):
        features = nn.relu(nn.Dense(6)(inputs)).mean(1)
        return core.Outputs(nn.Dense(2)(features), features)


def test_tokens_have_the_weights_of_their_row():
    """As many rows as tokens: on another axis the weights would fit as well."""
    rows = jax.random.normal(jax.random.key(1), (3, 3, 4))
    method = peft.jare(2, 2, slots=2, top_k=1, encoder=lambda x: x.mean(1))
    answer, variables = made(method, core.from_linen(Tokens()), rows, task=1)
    before, after = answer(variables, rows), answer(variables, rows.at[0].multiply(-1))
    np.testing.assert_allclose(before[1:], after[1:], atol=1e-6)
    assert np.abs(before[0] - after[0]).min() > 1e-3


def test_weights_are_shares_of_the_nearest_of_those_so_far():
    queries = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    keys = jnp.array([[[1.0, 0.0], [1.0, 1.0]], [[0.0, 2.0], [1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]])
    alive = jnp.array([True, True, False])
    retrieve = jax.jit(_jare.retrieve, static_argnums=3)
    weights = retrieve(queries, keys, alive, 2)
    half, steep = np.sqrt(0.5), 2 / np.sqrt(5)
    expected = [
        [[1 / (1 + half), half / (1 + half)], [0, 0], [0, 0]],
        [[0, 0], [1 / (1 + steep), steep / (1 + steep)], [0, 0]],
        [[0.5, 0], [0.5, 0], [0, 0]],  # all cosines are negative: the two nearest, by halves
    ]
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    everything = retrieve(queries, keys, alive, 9)
    np.testing.assert_allclose(everything.sum((1, 2)), 1, atol=1e-6)
    np.testing.assert_array_equal(everything[:, 2], 0)
    assert (everything[:, :2] > 0).all()


def test_keys_are_means_in_the_space_of_what_does_not_move():
    method = peft.jare(3, 2, slots=3, top_k=2, train="^head")
    run = core.make_learner(MODEL, method, optax.adamw(1e-2, weight_decay=0.1), STREAM, batch_size=16)
    data, state = core.to_device(STREAM), core.start(run)
    base = core.Variables(*jax.tree.map(np.array, (state.frozen["params"], state.model_state)))
    for t in range(2):
        state = core.run_experience(run, state, data, t)
    assert not np.array_equal(*(jax.tree.leaves(s)[0] for s in (state.model_state, base.model_state)))
    order = STREAM.origins.view[1]
    rows = STREAM.experiences["train"].rows[1][:37]
    seen = jnp.asarray(STREAM.source.train["inputs"])[rows][:, order]
    seen = jax.jit(MODEL.apply)(base, seen)[0].features
    expected = [np.asarray(seen, np.float64)[s::3].mean(0) for s in range(3)]
    np.testing.assert_allclose(state.frozen["keys"][1], expected, atol=1e-5)
    np.testing.assert_array_equal(state.frozen["keys"][2], 0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: peft.jare(2, 2, slots=0), "slots expects a whole number of at least 1, got 0"),
        (lambda: peft.jare(2, 2, top_k=0), "top_k expects a whole number of at least 1, got 0"),
        (lambda: peft.jare(2, 2, groups=3), r"a vector that 3 groups divide, and gets \[6, 8\]"),
        (lambda: peft.jare(2, 2, encoder=lambda x: x.sum(-1)), r"a vector that 1 groups divide, and gets \[6\]"),
        (lambda: peft.jare(2, 2, encoder=lambda x: x[:4]), "the layer of dense_0.kernel sees 6 on its first axis"),
    ],
)
def test_wrong_use_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        model = make().model(MLP)
        jax.eval_shape(lambda: model.apply(model.init(jax.random.key(0), INPUTS), INPUTS)[0])
