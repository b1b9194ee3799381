"""DKVB: what it fetches, learns and keeps against numpy, and a network and keys that stay."""

import jax
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, ops, testing
from ctrain_jax.continual.architecture import _dkvb
from tests.rehearsed import MODEL, answers, learner_of, rows_of, spy

STREAM = testing.standard_stream()
X = STREAM.source.train["inputs"]
SMALL = {"codebooks": 3, "keys": 5, "key_dim": 4}


def numbers(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def seen(features, projections):
    """[B, C, d]."""
    return np.stack([features @ matrix for matrix in projections], 1)


def nearest(rows, keys):
    """[B, C] from [B, C, d] and [C, K, d]."""
    return np.square(rows[:, :, None] - keys[None]).sum(-1).argmin(-1)


def test_steps_of_sgd_are_those_of_a_one_hot_product_and_move_what_was_fetched():
    learner = learner_of(continual.dkvb(**SMALL, unlabeled=X[:40]), spy(8))
    data, state = core.to_device(learner.stream), core.start(learner)
    network, projections, keys = (numbers(state.frozen[name]) for name in ("network", "projections", "keys"))
    values, step = np.zeros((3, 5, 6)), jax.jit(learner.step)
    for i in range(4):
        before = np.asarray(state.params["values"])
        state, _ = step(state, data, 0, i)
        inputs, labels = rows_of(STREAM, state.method_state["spy"])
        hot = np.eye(5)[nearest(seen(answers(network, inputs)[1], projections), keys)]
        odds = np.exp(np.einsum("bck,cky->by", hot, values) / 3)
        error = (odds / odds.sum(1, keepdims=True) - np.eye(6)[labels]) / 8
        values = values - 0.1 * np.einsum("bck,by->cky", hot, error) / 3
        np.testing.assert_allclose(state.params["values"], values, atol=1e-6)
        changed = np.any(np.asarray(state.params["values"]) != before, -1)
        np.testing.assert_array_equal(changed, hot.any(0))
    asked = {"inputs": inputs.astype(np.float32), "weights": np.ones(8)}
    answered = jax.jit(learner.predict)(state, data, 0, asked)
    np.testing.assert_allclose(answered.logits, np.einsum("bck,cky->by", hot, values) / 3, atol=1e-6)
    np.testing.assert_allclose(answered.features, answers(network, inputs)[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("number", "passes", "restarts"), [(40, 2, 0), (340, 1, 80)])
def test_keys_move_towards_the_mean_of_their_rows_and_one_without_rows_starts_again(number, passes, restarts):
    rng, rows = jax.random.key(3), 300  # two batches a pass
    features = np.random.default_rng(0).normal(size=(320, 6)).astype(np.float32)
    projections = np.random.default_rng(1).normal(size=(2, 6, 3)).astype(np.float32)
    fit = jax.jit(_dkvb.fit_keys, static_argnums=(4, 5))
    found = fit(rng, features, rows, projections, number, passes, 0.5)

    def place(key, index):
        return np.asarray(ops.permute_index(key, np.asarray(index, np.int32) % rows, np.int32(rows)))

    def seeds(key):
        return seen(features[place(key, range(number))].astype(np.float64), projections).swapaxes(0, 1)

    keys, restarted = seeds(jax.random.fold_in(rng, 0)), 0
    for p in range(passes):
        order, again = jax.random.split(jax.random.fold_in(rng, p + 1))
        used = np.zeros((2, number), bool)
        for batch in (range(256), range(256, 300)):
            there = seen(features[place(order, batch)].astype(np.float64), projections)
            chosen, before = nearest(there, keys), keys.copy()
            for c in range(2):
                for k in set(chosen[:, c]):
                    used[c, k] = True
                    keys[c, k] = (before[c, k] + there[chosen[:, c] == k, c].mean(0)) / 2
        keys, restarted = np.where(used[..., None], keys, seeds(again)), restarted + np.sum(~used)
    assert restarted == restarts  # of the 340 keys 40 start where another one does
    np.testing.assert_allclose(found, keys, atol=1e-4)


def test_nothing_moves_the_network_or_keys_once_they_are_placed():
    method, tx = continual.dkvb(**SMALL), optax.adamw(1e-2)
    learner = learner_of(method, model=testing.standard_model(), optimizer=tx, steps=3)
    data, start = core.to_device(learner.stream), core.start(learner)
    begin, chunk = jax.jit(learner.begin), jax.jit(learner.chunk)
    first = begin(start, data, 0)
    second, _ = chunk(begin(chunk(first, data, 0, 0, 3)[0], data, 1), data, 1, 0, 3)
    assert np.any(first.frozen["keys"] != start.frozen["keys"])
    assert np.any(first.params["values"] != second.params["values"])
    for a, b in ((start.frozen["network"], second.frozen["network"]), (first.frozen, second.frozen)):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    jax.tree.map(np.testing.assert_array_equal, start.model_state, second.model_state)


def test_one_key_ends_in_the_mean_of_the_first_experience_or_of_other_rows_which_need_no_boundaries():
    one = {"codebooks": 3, "keys": 1, "key_dim": 4, "passes": 80, "decay": 0.8}
    other, own = continual.dkvb(**one, unlabeled=X[:30]), continual.dkvb(**one)
    assert "boundaries" not in other.needs and "boundaries" in own.needs
    learner = learner_of(own)
    begun = jax.jit(learner.begin)(core.start(learner), core.to_device(learner.stream), 0)
    experience = STREAM.experiences["train"]
    first = rows_of(STREAM, {"row": experience.rows[0][:50], "experience": np.zeros(50, int)})[0]
    for state, inputs in ((core.start(learner_of(other)), X[:30]), (begun, first)):
        features = answers(state.frozen["network"], inputs)[1]
        middle = seen(features, numbers(state.frozen["projections"])).mean(0)[:, None]
        np.testing.assert_allclose(state.frozen["keys"], middle, atol=1e-5)


def test_distances_are_not_rounded_where_products_are():
    """Accelerators round the factors of a product unless they are asked not to."""
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((2, 6), (3, 6, 4), (3, 5, 4))]
    made = jax.make_jaxpr(lambda x, projections, keys: _dkvb.nearest(_dkvb.project(x, projections), keys))(*shapes)
    assert str(made).count("dot_general[") == str(made).count("(Precision.HIGHEST, Precision.HIGHEST)") == 2


def test_what_it_refuses():
    for arguments, match in (
        ({"codebooks": 0}, "codebooks expects a whole number of at least 1, got 0"),
        ({"keys": 0}, "keys expects a whole number"),
        ({"key_dim": 0}, "key_dim expects a whole number"),
        ({"passes": 0}, "passes expects a whole number"),
        ({"decay": 1.1}, "decay must be between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.dkvb(**arguments)
    with pytest.raises(ValueError, match=r"dkvb expects unlabeled \[N, 12\], .* got \[4, 7\]"):
        learner_of(continual.dkvb(unlabeled=np.zeros((4, 7))))
    with pytest.raises(ValueError, match="dkvb expects unlabeled as floats, .* got uint8: divide images of uint8"):
        learner_of(continual.dkvb(unlabeled=np.zeros((4, 12), np.uint8)))
    silent = MODEL._replace(apply=lambda *args, **options: (core.Outputs(MODEL.apply(*args, **options)[0].logits), {}))
    with pytest.raises(ValueError, match="dkvb needs features, which the model does not return"):
        learner_of(continual.dkvb(), model=silent)
