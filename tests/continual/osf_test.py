"""OSF against numpy's SVD: kept singular triplets outlive AdamW, which they do not where gradients are projected."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models
from tests.short import short_learner, short_run

KEEP = 0.55
NET = core.from_linen(models.MLP(6, hidden=(12, 12)))


def learner_of(method):
    return short_learner(method, model=NET, optimizer=optax.adamw(1e-2, weight_decay=0.1))


@pytest.fixture(scope="module")
def second():
    """`run(keep) -> the states before and after the second experience`; one program for all."""
    learner = learner_of(continual.osf(KEEP))
    data, begin, chunk = core.to_device(learner.stream), jax.jit(learner.begin), jax.jit(learner.chunk)
    start = core.start(learner)

    def run(keep=KEEP):
        own = start.method_state["osf"]._replace(keep={r"kernel$": jnp.float32(keep)})
        state = begin(start._replace(method_state={"osf": own}), data, jnp.int32(0))
        state, _ = chunk(state, data, jnp.int32(0), 0, 30)
        before = begin(state, data, jnp.int32(1))
        return before, chunk(before, data, jnp.int32(1), 0, 100)[0]

    return run


def kernels(params):
    return {name: np.asarray(params[name]["kernel"], np.float64) for name in ("dense_0", "dense_1", "head")}


def test_kept_singular_triplets_are_those_of_the_kernel_after_a_hundred_steps(second):
    before, after = second()
    old, new = kernels(before.params), kernels(after.params)
    for name, kernel in old.items():
        u, values, vt = np.linalg.svd(kernel, full_matrices=False)
        k = int(KEEP * len(values))
        assert k == {"dense_0": 6, "dense_1": 6, "head": 3}[name]
        left, right = (
            np.asarray(getattr(before.method_state["osf"], side)[name]["kernel"]) for side in ("left", "right")
        )
        np.testing.assert_allclose(left @ left.T, u[:, :k] @ u[:, :k].T, atol=1e-5)
        np.testing.assert_allclose(right @ right.T, vt[:k].T @ vt[:k], atol=1e-5)
        np.testing.assert_allclose(new[name] @ vt[:k].T, u[:, :k] * values[:k], atol=1e-5)
        np.testing.assert_allclose(u[:, :k].T @ new[name], values[:k, None] * vt[:k], atol=1e-5)
        assert np.abs(new[name] - kernel).max() > 1e-2
        assert np.any(after.params[name]["bias"] != before.params[name]["bias"])


def test_before_adamw_the_projection_leaks():
    method, adamw = continual.osf(KEEP, pretrained=True), optax.adamw(1e-2)
    kernel, gradient = jax.random.normal(jax.random.key(0), (2, 8, 8))
    params, ctx = {"kernel": kernel}, SimpleNamespace(experience=SimpleNamespace(index=0))
    state, _ = method.begin(method.init(None, params, ctx), SimpleNamespace(params=params), ctx)
    u, _, vt = np.linalg.svd(np.asarray(kernel, np.float64))
    inside = []
    for tx in (method.optimizer(adamw), optax.chain(method.optimizer(optax.identity()), adamw)):
        updates, _ = tx.update({"kernel": gradient}, tx.init(params), params, method_state=state)
        step = np.asarray(updates["kernel"], np.float64)
        inside.append([np.linalg.norm(x) / np.linalg.norm(step) for x in (u[:, :4].T @ step, step @ vt[:4].T)])
    assert max(inside[0]) < 1e-5 and min(inside[1]) > 0.1


def test_none_is_plain_training_and_all_freezes_the_kernels(second):
    before, after = second(0.0)
    plain = learner_of(core.identity())
    bare = before._replace(method_state={}, opt_state=before.opt_state[0])
    expected, _ = jax.jit(plain.chunk)(bare, core.to_device(plain.stream), jnp.int32(1), 0, 100)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), after.params, expected.params)
    before, after = second(1.0)
    for name, kernel in kernels(before.params).items():
        np.testing.assert_allclose(kernels(after.params)[name], kernel, atol=2e-6)
        assert np.abs(after.params[name]["bias"] - before.params[name]["bias"]).max() > 1e-2


def test_a_trained_network_is_kept_from_the_start_each_kernel_by_its_pattern():
    shapes = {"query": (6, 2, 3), "out": (2, 3, 6), "embed": (4, 6)}
    params = {name: {"kernel": jax.random.normal(jax.random.key(0), shape)} for name, shape in shapes.items()}
    ctx = SimpleNamespace(experience=SimpleNamespace(index=0))
    for pretrained, query, out in ((True, 3, 1), (False, 0, 0)):
        method = continual.osf({"query": 0.5, "query|out": 0.3}, pretrained=pretrained)
        state, _ = method.begin(method.init(None, params, ctx), SimpleNamespace(params=params), ctx)
        left = {name: np.asarray(state.left[name]["kernel"]) for name in shapes}
        assert left["query"].shape == left["out"].shape == (6, 6) and left["embed"].size == 0, "a matrix each"
        assert [np.any(left[name] != 0, axis=0).sum() for name in ("query", "out")] == [query, out]


def test_directions_that_a_kernel_does_not_have_are_free():
    """A head that starts at 0 learns all its classes."""

    class Zero(nn.Module):
        @nn.compact
        def __call__(self, inputs, train=False):
            features = nn.relu(nn.Dense(16)(inputs))
            return core.Outputs(nn.Dense(6, kernel_init=nn.initializers.zeros, name="head")(features), features)

    method, model = continual.osf(0.5, pretrained=True), core.from_linen(Zero())
    state = short_run(method, experiences=1, model=model, optimizer=optax.adam(1e-2), steps=8)
    assert np.abs(state.params["head"]["kernel"]).max(0).min() > 1e-3


def test_what_it_refuses():
    for keep in (1.5, {"kernel": -0.1}):
        with pytest.raises(ValueError, match="keep must be between 0 and 1"):
            continual.osf(keep)
    for keep in ({"dense": 0.5, "bias": 0.5}, {"kernel": 0.5, "head": 0.5}):
        with pytest.raises(ValueError, match="finds no kernel by .*, expected some of dense_0.kernel, "):
            core.start(learner_of(continual.osf(keep)))
