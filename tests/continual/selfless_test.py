"""The penalty and the importance of units against loops over units and rows."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import continual, core, models, testing
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


class Twice(nn.Module):
    """A layer that is called twice."""

    @nn.compact
    def __call__(self, inputs):
        layer = nn.Dense(12, name="again")
        return core.Outputs(nn.Dense(6, name="head")(layer(layer(inputs))))


class Tokens(nn.Module):
    """Dense layers over two tokens."""

    @nn.compact
    def __call__(self, inputs):
        return core.Outputs(nn.Dense(6, name="head")(nn.Dense(5, name="low")(inputs.reshape(-1, 2, 6))).mean(1))


def test_what_it_refuses():
    for arguments, match in (
        ({"lam": -1.0}, "lam must be 0 or above"),
        ({"sigma": 0.0}, "sigma must be above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.selfless(**arguments)
    for module, match in (
        (models.MLP(6, hidden=()), "between dense layers of a linen model, got none: use an MLP"),
        (Twice(), "again is called twice in one pass and has no units of its own: give each call a layer"),
        (Tokens(), r"got head with \(8, 2, 5\): use an MLP"),
    ):
        with pytest.raises(ValueError, match=match):
            core.start(short_learner(continual.selfless(), model=core.from_linen(module)))
