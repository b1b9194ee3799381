"""A recurrent hypernetwork: an LSTM in numpy writes the same networks; what is held; and units that come later."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import continual, core
from tests.masked import STREAM, Whole
from tests.rehearsed import MODEL, answers, learner_of

OPTIONS = {"hidden": 4, "chunk": 50, "dim": 3}
AGE = np.array([0, 0, 0, 0, 1, 1, 2, 2])


@functools.cache
def whole():
    return Whole(continual.recurrent_hypernetwork(3, beta=0.5, states=0.3, grow=2, **OPTIONS), model=MODEL)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def written(params, fixed, task):
    """The network of a task and the states of the LSTM."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    h = c = np.zeros(p["lstm"]["bias"].shape[1])
    states, entries = [], []
    for piece in p["pieces"]:
        x = np.concatenate([p["embeddings"][task], piece])
        gates = [x @ p["lstm"]["given"][:, i] + h @ p["lstm"]["kept"][:, i] + p["lstm"]["bias"][i] for i in range(4)]
        c = sigmoid(gates[1]) * c + sigmoid(gates[0]) * np.tanh(gates[2])
        h = sigmoid(gates[3]) * np.tanh(c)
        states.append(h)
        entries.extend(h @ p["head"]["kernel"] + p["head"]["bias"])
    network, used = {}, 0
    for layer in ("dense_0", "head"):
        network[layer] = {}
        for name in ("bias", "kernel"):
            mu, sigma = (np.asarray(fixed[part][layer][name], np.float64) for part in ("centre", "scale"))
            own = np.array(entries[used : used + mu.size]).reshape(mu.shape)
            network[layer][name], used = mu + sigma * own, used + mu.size
    return network, np.array(states)


def test_an_answer_is_that_of_the_network_that_numpy_writes():
    model, state = continual.recurrent_hypernetwork(3, grow=2, **OPTIONS).model(MODEL), whole().states[0]
    inputs = np.random.default_rng(0).normal(size=(5, 12))
    # Off the start, where biases are 0 and nothing reads the last unit.
    moved = jax.tree.map(lambda p: p + 0.3 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), state.params)
    made = core.Variables(moved, state.model_state, state.frozen)
    ask = jax.jit(lambda task: model.apply(made, jnp.asarray(inputs), task=task)[0].logits)
    expected = [answers(written(moved, made.frozen["fixed"], task)[0], inputs)[0] for task in range(2)]
    np.testing.assert_allclose([ask(task) for task in range(2)], expected, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 0.1


def test_what_is_written_starts_with_the_spread_of_the_model():
    start = whole().states[0]
    drawn = MODEL.init(jax.random.key(1), jnp.zeros((1, 12))).params
    networks = [written(start.params, start.frozen["fixed"], task)[0] for task in range(3)]
    for layer in ("dense_0", "head"):
        spread = np.sqrt(np.mean([np.square(network[layer]["kernel"]) for network in networks]))
        np.testing.assert_allclose(spread, np.std(drawn[layer]["kernel"]), rtol=0.4)
        assert not start.frozen["fixed"]["centre"][layer]["bias"].any()


@pytest.mark.parametrize("t", [1, 2])
def test_networks_and_states_of_the_tasks_learned_before_are_held(t):
    """States of the units that live by then."""
    begun = whole().begun(whole().states[t], t)
    before, fixed = whole().chunk(begun, t, 0, 3), begun.frozen["fixed"]
    state = before.method_state["recurrent_hypernetwork"]
    assert {name: float(beta) for name, beta in state.beta.items()} == {"network": 0.5, "states": np.float32(0.3)}
    free = jax.tree.map(jnp.zeros_like, state.beta)
    pairs = [[written(params, fixed, task) for params in (before.params, begun.params)] for task in range(t)]
    pairs = [[(network, states[:, t >= AGE]) for network, states in pair] for pair in pairs]
    moved = [jax.tree.map(lambda a, b: np.square(a - b).sum(), *pair) for pair in pairs]
    for part, place in (("network", 0), ("states", 1)):
        alone = state._replace(beta=free | {part: state.beta[part]})
        found, rest = (
            whole().loss(before._replace(method_state={"recurrent_hypernetwork": s}), t, 3)
            for s in (alone, state._replace(beta=free))
        )
        expected = float(state.beta[part]) * np.mean([sum(jax.tree.leaves(tree[place])) for tree in moved])
        assert expected > 1e-4
        np.testing.assert_allclose(found - rest, expected, rtol=3e-3)


def ages(leaf, path):
    """Of each entry of a parameter, the experience in which it may move first."""
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    age = {
        "lstm.given": AGE,
        "lstm.kept": np.maximum(AGE, AGE[:, None, None]),
        "lstm.bias": AGE,
        "head.kernel": AGE[:, None],
        "embeddings": np.arange(3)[:, None],
    }.get(name, 0)
    return np.broadcast_to(age, leaf.shape)


def test_units_live_from_their_experience_on_and_embeddings_in_theirs():
    for t in range(3):
        old, new = whole().states[t].params, whole().states[t + 1].params

        def check(path, before, after, t=t):
            own, changed = ages(before, path), np.asarray(before != after)
            assert not changed[own > t].any()
            if path[0].key == "embeddings":
                assert not changed[own < t].any()
            for age in range(t + 1):
                assert changed[own == age].any() or (own != age).all() or path[0].key == "embeddings"

        jax.tree_util.tree_map_with_path(check, old, new)
        assert np.any(old["embeddings"][t] != new["embeddings"][t])


def test_nothing_reads_units_that_do_not_live_yet():
    """Without them the first experience ends in the same networks."""
    small = continual.recurrent_hypernetwork(3, **OPTIONS).model(MODEL)
    ask = jax.jit(lambda variables: small.apply(variables, jnp.eye(12), task=jnp.int32(0))[0].logits)
    for state in whole().states[:2]:
        params = state.params
        lstm = {name: leaf[..., :4] for name, leaf in params["lstm"].items()}
        cut = params | {
            "lstm": lstm | {"kept": lstm["kept"][:4]},
            "head": params["head"] | {"kernel": params["head"]["kernel"][:4]},
        }
        found = ask(core.Variables(cut, state.model_state, state.frozen))
        expected = answers(written(params, state.frozen["fixed"], 0)[0], np.eye(12))[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_it_refuses():
    for options, match in (
        ({"num_tasks": 0}, "num_tasks expects a whole number of at least 1, got 0"),
        ({"chunk": 0}, "chunk expects a whole number of at least 1, got 0"),
        ({"hidden": 0}, "hidden expects a whole number of at least 1, got 0"),
        ({"dim": 0.5}, "dim expects a whole number of at least 1, got 0.5"),
        ({"grow": -1}, "grow expects a whole number of at least 0, got -1"),
        ({"beta": -1.0}, "beta must be 0 or above, got -1.0"),
        ({"states": -1.0}, "states must be 0 or above, got -1.0"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.recurrent_hypernetwork(**{"num_tasks": 3, **options})
    with pytest.raises(ValueError, match="recurrent_hypernetwork has embeddings for 2 tasks, and the stream has 3"):
        core.start(learner_of(continual.recurrent_hypernetwork(2, **OPTIONS), stream=STREAM))
