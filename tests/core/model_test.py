"""Models from both APIs of flax and by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ctrain_jax import core
from tests.short import short_run

X = jax.random.normal(jax.random.key(1), (4, 12))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(8)(x))
        features = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        return core.Outputs(nn.Dense(6)(features), features)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(12, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(8, 6, rngs=rngs)

    def __call__(self, x):
        features = self.drop(nnx.relu(self.norm(self.first(x))))
        return self.last(features), features


MODELS = {"linen": lambda: core.from_linen(Linen()), "nnx": lambda: core.from_nnx(lambda rngs: Nnx(rngs))}


def both():
    """The two models with the same numbers in them."""
    linen, modern = (MODELS[name]() for name in ("linen", "nnx"))
    a, b = linen.init(jax.random.key(0), X), modern.init(jax.random.key(0), X)
    params = {
        "first": a.params["Dense_0"],
        "norm": a.params["BatchNorm_0"],
        "last": a.params["Dense_1"],
    }
    assert jax.tree.structure(jax.tree.map(jnp.shape, params)) == jax.tree.structure(jax.tree.map(jnp.shape, b.params))
    return (linen, a), (modern, b._replace(params=params))


def test_linen_and_nnx_are_one_model():
    (linen, a), (modern, b) = both()
    for train in (False, True):
        # Without dropout the two must agree in training as well: compare through the statistics, which come before it.
        one, stats = linen.apply(a, X, train=train, rng=jax.random.key(2))
        two, other = modern.apply(b, X, train=train, rng=jax.random.key(2))
        np.testing.assert_allclose(
            stats["batch_stats"]["BatchNorm_0"]["mean"], other["norm"]["mean"], rtol=1e-5, atol=1e-7
        )
        np.testing.assert_allclose(
            stats["batch_stats"]["BatchNorm_0"]["var"], other["norm"]["var"], rtol=1e-5, atol=1e-7
        )
        if not train:
            np.testing.assert_allclose(one.logits, two.logits, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(one.features, two.features, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_state_is_written_in_training_alone_and_dropout_follows_the_key(name):
    model = MODELS[name]()
    variables = model.init(jax.random.key(0), X)
    assert variables.frozen == ()
    _, kept = model.apply(variables, X)
    for x, y in zip(jax.tree.leaves(kept), jax.tree.leaves(variables.model_state), strict=True):
        np.testing.assert_array_equal(x, y)
    first, moved = model.apply(variables, X, train=True, rng=jax.random.key(1))
    again, _ = model.apply(variables, X, train=True, rng=jax.random.key(1))
    other, _ = model.apply(variables, X, train=True, rng=jax.random.key(2))
    np.testing.assert_array_equal(first.features, again.features)
    assert not np.array_equal(first.features, other.features)
    assert float((first.features == 0).mean()) > 0.3
    pairs = zip(jax.tree.leaves(moved), jax.tree.leaves(kept), strict=True)
    assert any(not np.array_equal(x, y) for x, y in pairs)
    assert jax.tree.structure(moved) == jax.tree.structure(variables.model_state)


@pytest.mark.parametrize("name", MODELS)
def test_models_train_in_a_run_and_map_over_seeds(name):
    state = short_run(core.identity(), model=MODELS[name](), steps=3, experiences=1)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.params, state.model_state)))
    keys = jax.random.split(jax.random.key(0), 2)
    params = jax.vmap(lambda key: MODELS[name]().init(key, X))(keys).params
    kernels = [x for x in jax.tree.leaves(params) if x.ndim == 3]
    assert len(kernels) == 2 and all(not np.array_equal(*kernel) for kernel in kernels)


class Counting(nn.Module):
    @nn.compact
    def __call__(self, x):
        calls = self.variable("counts", "calls", lambda: jnp.zeros(()))
        if not self.is_initializing() and self.is_mutable_collection("counts"):
            calls.value += 1.0
        return nn.Dense(6)(x)


def test_a_collection_may_be_written_in_training_alone():
    model = core.from_linen(Counting())
    variables = model.init(jax.random.key(0), X)
    assert model.apply(variables, X)[1]["counts"]["calls"] == 0
    assert model.apply(variables, X, train=True)[1]["counts"]["calls"] == 1


class Tasks(nn.Module):
    @nn.compact
    def __call__(self, x, task=None):
        heads = self.param("heads", nn.initializers.normal(), (3, 12, 6))
        return jnp.einsum("bi,bio->bo", x, heads[task]) if task is not None else x @ heads[0]


def test_a_model_that_names_the_task_is_given_it():
    model = core.from_linen(Tasks())
    variables = model.init(jax.random.key(0), X)
    task = jnp.array([0, 1, 2, 1])
    outputs, _ = model.apply(variables, X, task=task)
    heads = variables.params["heads"]
    for b in range(4):
        np.testing.assert_allclose(outputs.logits[b], X[b] @ heads[task[b]], rtol=1e-5)


def test_other_answers_and_other_things_are_refused():
    class Wrong(nn.Module):
        @nn.compact
        def __call__(self, x):
            return {"logits": nn.Dense(3)(x)}

    model = core.from_linen(Wrong())
    with pytest.raises(TypeError, match="returns logits, .logits, features. or core.Outputs, got dict"):
        model.apply(model.init(jax.random.key(0), X), X)
    with pytest.raises(TypeError, match="from_linen expects an instance .* call the class first"):
        core.from_linen(Linen)
    with pytest.raises(TypeError, match="from_nnx expects a function of nnx.Rngs"):
        core.from_nnx(Nnx(nnx.Rngs(0)))


def test_a_model_by_hand_is_two_functions():
    def init(rng, inputs):
        return core.Variables({"w": 0.1 * jax.random.normal(rng, (inputs.shape[-1], 6))})

    def apply(variables, inputs, *, train=False, rng=None, task=None):
        return core.Outputs(inputs @ variables.params["w"]), variables.model_state

    state = short_run(core.identity(), model=core.Model(init, apply), optimizer=optax.sgd(0.1), steps=3)
    assert np.isfinite(state.params["w"]).all()
