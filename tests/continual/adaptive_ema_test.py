"""The slow copy against the equations in numpy, its limit, and who answers."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, streams, testing
from tests.short import short_learner

METHODS = {
    "adaptive_ema": continual.adaptive_ema(lam=30.0, base=0.1),
    "adaptive_ema_1": continual.adaptive_ema(lam=3.0, per_block=False),
    "adaptive_ema_2": continual.adaptive_ema(lam=np.inf, base=0.2),
}


@pytest.fixture(scope="module")
def steps():
    """Before each of twelve steps: the state, the gradient of the step, and the slow copies after it."""
    learner = short_learner(core.chain(*METHODS.values()))
    data, gradient, step = core.to_device(learner.stream), jax.jit(learner.gradient), jax.jit(learner.step)
    state, seen = learner.begin(core.start(learner), data, jnp.int32(0)), []
    for i in range(12):
        grads = gradient(state, data, 0, i)[1]
        after, _ = step(state, data, 0, i)
        seen.append((state, grads, after))
        state = after
    return seen


def leaves(tree):
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize(
    ("name", "lam", "base", "blocks"), [("adaptive_ema", 30, 0.1, 1), ("adaptive_ema_1", 3, 0.01, 0)]
)
def test_norms_are_the_equation_in_numpy(steps, name, lam, base, blocks):
    slow, before = leaves(steps[0][0].params), [0.0 * leaf for leaf in leaves(steps[0][0].params)]
    statistics, chosen = leaves(steps[0][0].model_state), []
    for state, grads, after in steps:
        params, grads = leaves(state.params), leaves(grads)
        pairs = list(zip(slow, params, grads, before, strict=True))
        sums = np.array([[np.abs(a - p).sum(), np.abs(g).sum(), np.abs(g - h).sum()] for a, p, g, h in pairs])
        far, steep, bent = (sums if blocks else np.tile(sums.sum(0), (len(sums), 1))).T
        with np.errstate(divide="ignore"):
            alphas = 2 * (1 + steep) / (lam * far * bent)
        alphas = np.where(alphas < 1, alphas, base)
        slow = [(1 - alpha) * a + alpha * p for alpha, a, p in zip(alphas, slow, params, strict=True)]
        mean = np.average(alphas, weights=[p.size for p in params])
        statistics = [(1 - mean) * a + mean * b for a, b in zip(statistics, leaves(after.model_state), strict=True)]
        own = after.method_state[name]
        for found, expected in ((own.average, slow), (own.model_state, statistics)):
            for a, b in zip(leaves(found), expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
        before = grads
        chosen.extend(alphas)
    assert len({*chosen} - {base}) > 10, "the rule chose, not base alone"


def test_with_an_infinite_lam_it_is_an_average_of_fixed_decay(steps):
    slow = steps[0][0].params
    for state, _, after in steps:
        slow = optax.incremental_update(state.params, slow, 0.2)
        for a, b in zip(leaves(after.method_state["adaptive_ema_2"].average), leaves(slow), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


HESSIAN, CENTRE = np.array([0.2, 0.5, 1.0, 2.0]), np.array([1.0, -2.0, 0.5, 3.0])


@pytest.mark.parametrize("lam", [1.0, 5.0])
def test_quadratic_chooses_the_least_of_loss_and_distance_on_a_grid(lam):
    model = core.Model(
        lambda rng, x: core.Variables({"w": jnp.zeros(4)}),
        lambda v, x, **options: (core.Outputs(jnp.broadcast_to(v.params["w"], (x.shape[0], 4))), ()),
    )
    problem = core.Problem(
        lambda outputs, batch: (HESSIAN * (outputs.logits - CENTRE) ** 2).sum(-1) / 2, lambda o, b: {}
    )
    stream = streams.class_incremental(streams.arrays(*[np.ones((40, 2), np.float32), np.arange(40) % 4] * 2), 1)
    method = continual.adaptive_ema("quadratic", lam=lam)
    # Momentum overshoots: then it pays to stay behind.
    tx = optax.sgd(0.3, momentum=0.9)
    learner = core.make_learner(model, method, tx, stream, problem=problem, batch_size=4, steps=12)
    data, step, state = core.to_device(stream), jax.jit(learner.step), core.start(learner)
    chosen, grid = [], np.linspace(0, 1, 20001)[:, None]
    for i in range(12):
        now, before = (
            np.asarray(x["w"], np.float64) for x in (state.params, state.method_state["adaptive_ema"].average)
        )
        state, _ = step(state, data, 0, i)
        d = before - now
        if i > 0:  # the first has no d
            at = now + grid * d
            cost = (HESSIAN * (at - CENTRE) ** 2).sum(1) / 2 + lam / 2 * ((at - before) ** 2).sum(1)
            found = (np.asarray(state.method_state["adaptive_ema"].average["w"], np.float64) - now) @ d / (d @ d)
            np.testing.assert_allclose(found, grid[np.argmin(cost), 0], atol=1e-3)
            chosen.append(found)
    assert sum(0.05 < beta < 0.95 for beta in chosen) >= 3


def test_where_the_loss_bends_down_base_decides():
    method, edge = continual.adaptive_ema("quadratic", base=0.25), SimpleNamespace(model_state=())
    state = method.init(None, {"w": jnp.zeros(2)}, edge)
    for params, grads in ((0.0, 0.0), (1.0, -5.0)):
        ctx = SimpleNamespace(params={"w": jnp.full(2, params)}, grads={"w": jnp.full(2, grads)})
        state = method.update(state, edge, ctx)[0]
    np.testing.assert_array_equal(state.average["w"], 0.25)


def test_the_slow_copy_answers(steps):
    learner, state = short_learner(core.chain(*METHODS.values())), steps[-1][-1]
    data = core.to_device(learner.stream)
    inputs = data.source["test"]["inputs"][:9]
    answer = jax.jit(learner.predict)(state, data, 0, {"inputs": inputs, "weights": jnp.ones(9)}).logits
    own = state.method_state["adaptive_ema_2"]
    slow, fast = (
        testing.standard_model().apply(core.Variables(params, model_state), inputs)[0].logits
        for params, model_state in ((own.average, own.model_state), (state.params, state.model_state))
    )
    np.testing.assert_allclose(answer, slow, rtol=1e-5, atol=1e-6)
    assert np.abs(answer - fast).max() > 1e-2


def test_small_steps_of_weights_of_16_bits_add_up_and_the_answer_is_theirs():
    method, half = continual.adaptive_ema(lam=np.inf, base=0.01), jnp.full(3, 1.2, jnp.bfloat16)
    state = method.init(None, {"w": jnp.ones(3, jnp.bfloat16)}, SimpleNamespace(model_state=()))
    ctx = SimpleNamespace(params={"w": half}, grads={"w": half})
    for _ in range(50):
        state = method.update(state, SimpleNamespace(model_state=()), ctx)[0]
    expected = 1 + (np.float64(half) - 1) * (1 - 0.99**50)
    np.testing.assert_allclose(state.average["w"], expected, rtol=1e-5)
    asked = SimpleNamespace(
        params={"w": half}, model_state=(), batch={"inputs": None}, forward=lambda params, *_, **__: (params, ())
    )
    assert method.predict(state, asked)["w"].dtype == jnp.bfloat16


def test_a_network_may_have_more_parameters_than_32_bits_count():
    method, edge = continual.adaptive_ema(), SimpleNamespace(model_state=())

    def step(w):
        state = method.init(None, {"w": w}, edge)
        return method.update(state, edge, SimpleNamespace(params={"w": w}, grads={"w": w}))[0]

    state = jax.eval_shape(step, jax.ShapeDtypeStruct((3, 2**30), jnp.float32))
    assert state.average["w"].shape == (3, 2**30)


def test_what_it_refuses():
    for arguments, match in (
        ({"rule": "norm"}, "rule must be one of 'norms', 'quadratic', got 'norm'"),
        ({"lam": 0.0}, "lam must be above 0"),
        ({"base": 1.5}, "base must be between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.adaptive_ema(**arguments)
