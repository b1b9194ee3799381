"""The penalty and the importance of units against loops over units and rows."""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import continual, core, models, testing
from ctrain_jax.continual._units import given_to_layers
from ctrain_jax.continual.regularization._selfless import slopes
from tests.rehearsed import log_softmax, rows_of, spy
from tests.short import short_learner

LAM, SIGMA = 0.3, 0.2
# Units that are silent, and units of either sign.
MODEL = core.from_linen(models.MLP(6, hidden=(8, 7), activation=lambda x: jnp.where(jnp.abs(x) > 0.3, x, 0.0)))


def passed(params, x):
    """What the layers are given, and the logits, in float64."""
    p, given = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), [x]
    for name in ("dense_0", "dense_1"):
        z = given[-1] @ p[name]["kernel"] + p[name]["bias"]
        given.append(np.where(np.abs(z) > 0.3, z, 0))
    return given[1:], given[-1] @ p["head"]["kernel"] + p["head"]["bias"]


def importance(params, x, heads):
    """Row by row: the mean of |d ||f||^2 / d h| over all rows, counted where h is not 0."""
    kernels = [np.asarray(params[name]["kernel"], np.float64) for name in ("dense_1", "head")]
    total = [np.zeros(8), np.zeros(7)]
    for row in x:
        (first, second), logits = passed(params, row)
        slope = kernels[1] @ (2 * logits * heads) * (second != 0)
        total[1] += np.abs(slope)
        total[0] += np.abs(kernels[0] @ slope) * (first != 0)
    return [t / len(x) for t in total]


def inhibited(h, alpha, weights):
    """The penalty of a layer, pair by pair."""
    total = 0.0
    for i in range(h.shape[1]):
        for j in range(h.shape[1]):
            near = np.exp(-((i - j) ** 2) / (2 * (SIGMA * h.shape[1]) ** 2)) * (i != j)
            together = abs(np.average(h[:, i] * h[:, j], weights=weights))
            total += near * np.exp(-alpha[i] - alpha[j]) * together
    return total


def test_a_step_is_the_penalty_by_the_importance_of_earlier_experiences():
    """The last batch of 37 rows, with padding; heads of two classes."""
    stream = testing.standard_stream(task_known=True)
    learner = short_learner(
        core.chain(continual.selfless(LAM, sigma=SIGMA), spy(8)), stream=stream, model=MODEL, steps=7
    )
    data, chunk, end = core.to_device(stream), jax.jit(learner.chunk), jax.jit(learner.end)
    start = end(chunk(core.start(learner), data, 0, 0, 7)[0], data, 0)
    split = stream.experiences["train"]
    rows = {"row": split.rows[0][: split.size[0]], "experience": np.zeros(split.size[0], int)}
    alphas = importance(start.params, rows_of(stream, rows)[0], np.arange(6) < 2)
    own = start.method_state["selfless"].importance
    for name, alpha in zip(("dense_1", "head"), alphas, strict=True):
        np.testing.assert_allclose(own[name], alpha, rtol=1e-4)
    after, record = chunk(start, data, 1, 4, 1)
    batch = jax.tree.map(np.asarray, after.method_state["spy"])
    assert batch["weights"].tolist() == [1] * 5 + [0] * 3
    x, y = rows_of(stream, batch)
    given, logits = passed(start.params, x)
    losses = -log_softmax(logits[:, 2:4])[np.arange(8), y - 2]
    penalty = sum(inhibited(h, alpha, batch["weights"]) for h, alpha in zip(given, alphas, strict=True))
    assert LAM * penalty > 0.01
    np.testing.assert_allclose(record["loss"], losses[:5].mean() + LAM * penalty, rtol=1e-5)
    off = start.method_state["selfless"]._replace(lam=jnp.float32(0))
    _, record = chunk(start._replace(method_state=start.method_state | {"selfless": off}), data, 1, 4, 1)
    np.testing.assert_allclose(record["loss"], losses[:5].mean(), rtol=1e-5)
    # Experiences add up.
    x, _ = rows_of(stream, {"row": split.rows[1][:37], "experience": np.ones(37, int)})
    own = end(after, data, 1).method_state["selfless"].importance
    for name, alpha, more in zip(
        ("dense_1", "head"), alphas, importance(after.params, x, np.arange(6) // 2 == 1), strict=True
    ):
        np.testing.assert_allclose(own[name], alpha + more, rtol=1e-4)


class Dropping(nn.Module):
    """Its features are what its head is given."""

    @nn.compact
    def __call__(self, inputs, train=False):
        units = nn.Dropout(0.5, deterministic=not train)(nn.relu(nn.Dense(8)(inputs)))
        return core.Outputs(nn.Dense(6, name="head")(units), units)


def test_units_that_the_network_drops_are_inhibited_by_nothing():
    seen = core.Method(
        "seen",
        init=lambda rng, params, ctx: {"units": jnp.zeros((8, 8)), "losses": jnp.zeros(8)},
        update=lambda s, ts, ctx: (
            {"units": ctx.outputs.features, "losses": ctx.problem.loss(ctx.outputs, ctx.batch)},
            ts,
        ),
    )
    method = core.chain(continual.selfless(LAM, sigma=SIGMA), seen)
    learner = short_learner(method, model=core.from_linen(Dropping()))
    state, record = jax.jit(learner.step)(core.start(learner), core.to_device(learner.stream), 0, 0)
    units, losses = (np.asarray(state.method_state["seen"][name], np.float64) for name in ("units", "losses"))
    penalty = inhibited(units, np.zeros(8), np.ones(8))
    assert LAM * penalty > 0.01
    np.testing.assert_allclose(record["loss"], losses.mean() + LAM * penalty, rtol=1e-5)


def test_rows_that_fill_up_devices_are_no_rows():
    x = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    params = jax.jit(MODEL.init)(jax.random.key(0), x).params

    @functools.partial(jax.jit, static_argnums=0)
    def found(filled):
        def forward(params, inputs, *, model_state, task):
            count = len(inputs)
            outputs = MODEL.apply(core.Variables(params, model_state), inputs[np.arange(filled) % count])[0]
            return jax.tree.map(lambda x: x[:count], outputs), model_state

        ctx = types.SimpleNamespace(forward=forward)
        given = given_to_layers(ctx, params, jnp.asarray(x), model_state={}, task=None)[1]
        batch = {"inputs": jnp.asarray(x), "weights": jnp.arange(8.0)}
        return given, slopes(ctx, params, {}, batch, ["dense_1", "head"])

    # As core does where three devices share eight rows.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), found(9), found(8))


class Inside(nn.Module):
    """A layer inside of a transform."""

    @nn.compact
    def __call__(self, inputs):
        return core.Outputs(nn.Dense(6, name="head")(nn.remat(nn.Dense)(12, name="again")(nn.Dense(5)(inputs))))


class Twice(nn.Module):
    """A layer that is called twice."""

    @nn.compact
    def __call__(self, inputs):
        layer = nn.Dense(12, name="again")
        return core.Outputs(nn.Dense(6, name="head")(layer(layer(inputs))))


class Tokens(nn.Module):
    """Dense layers over two tokens."""

    flat: bool = False

    @nn.compact
    def __call__(self, inputs):
        tokens = inputs.reshape((-1, 6) if self.flat else (-1, 2, 6))
        logits = nn.Dense(6, name="head")(nn.Dense(5, name="low")(tokens))
        return core.Outputs(logits.reshape(-1, 2, 6).mean(1))


def test_what_it_refuses():
    for arguments, match in (
        ({"lam": -1.0}, "lam must be 0 or above"),
        ({"sigma": 0.0}, "sigma must be above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.selfless(**arguments)
    for module, match in (
        (models.MLP(6, hidden=()), "between dense layers of a linen model, got none: use an MLP"),
        (Twice(), "again is called twice in one pass, or inside of nn.remat or nn.scan, and has no units to watch"),
        (Inside(), "again is called twice in one pass, or inside of nn.remat or nn.scan, and has no units to watch"),
        (Tokens(flat=True), r"got head with \(16, 5\): use an MLP"),
        (Tokens(), r"got head with \(8, 2, 5\): use an MLP"),
    ):
        with pytest.raises(ValueError, match=match):
            core.start(short_learner(continual.selfless(), model=core.from_linen(module)))
