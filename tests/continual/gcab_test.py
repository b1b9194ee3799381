"""The block in numpy, unit by unit; what an experience leaves alone; features led back."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, streams, testing
from ctrain_jax.continual.architecture import _gated
from tests.rehearsed import Headless, rows_of, spy
from tests.short import bits, short_learner

T, SPARSE, LAM, SHARPEST = 4, 0.3, 0.7, 20.0
STREAM = testing.standard_stream()


def method():
    return continual.gcab(T, tokens=2, heads=2, hidden=6, sparse=SPARSE, lam=LAM, sharpest=SHARPEST, gamma=0.1)


@functools.cache
def states():
    """How to go on, and the states of three experiences of 5 steps: when each begins, before it ends and after it."""
    learner = short_learner(core.chain(method(), spy(8)), steps=5)
    data, begin, chunk, end = core.to_device(learner.stream), *map(jax.jit, (learner.begin, learner.chunk, learner.end))

    def go(state, t, start, number):
        return chunk(state, data, t, start, number)

    state, found = core.start(learner), []
    for t in range(3):
        first = begin(state, data, t)
        last, _ = go(first, t, 0, 5)
        state = end(last, data, t)
        found.append((first, last, state))
    return learner, data, go, found


def as64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normal(x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6)


def attended(block, gates, token, x):
    """The block for one row of tokens [L, D], with two heads."""
    wide, high, half = gates["width"], gates["hidden"], len(token) // 2

    def layer(name, v, before, after):
        return ((v * before) @ block[name]["kernel"] + block[name]["bias"]) * after

    rows = [normal(v) for v in (token, *x)]
    query = layer("query", rows[0], wide, wide)
    keys, values = ([layer(name, v, wide, wide) for v in rows] for name in ("key", "value"))
    seen = []
    for part in (slice(0, half), slice(half, None)):
        weights = np.exp([query[part] @ key[part] / np.sqrt(half) for key in keys])
        seen.append(sum(w * v[part] for w, v in zip(weights / weights.sum(), values, strict=True)))
    answer = token + layer("out", np.concatenate(seen), wide, wide)
    h = layer("up", normal(answer), wide, high)
    return answer + layer("down", 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))), high, wide)


def network(state, x, teacher=None, train=False):
    """Features [N, 2, 8] of the network below, of today or of a teacher."""
    params, model_state = (state.params, state.model_state) if teacher is None else teacher[:2]
    below = {name: leaf for name, leaf in params.items() if name != "gated"} | {"head": state.frozen["head"]}
    variables = core.Variables(below, model_state)
    outputs, _ = testing.standard_model().apply(variables, jnp.asarray(x, jnp.float32), train=train)
    return np.asarray(outputs.features).reshape(-1, 2, 8)


def test_a_gate_is_soft_and_learns_as_hard_attention_does():
    """The authors multiply the gradient of a gate by this factor."""
    e, s = np.array([-0.4, 0.05, 0.3]), 5.0
    own, slope = jax.vmap(jax.value_and_grad(_gated.soft_gate), (0, None, None))(jnp.asarray(e), s, 20.0)
    gate = sigmoid(s * e)
    factor = 20.0 / s * (np.cosh(s * e) + 1) / (np.cosh(e) + 1)
    np.testing.assert_allclose(own, gate, rtol=1e-5)
    np.testing.assert_allclose(slope, factor * s * gate * (1 - gate), rtol=1e-5)


def test_gates_sharpen_over_an_experience():
    _, _, go, found = states()
    first = found[1][0]
    assert np.isclose(first.frozen["sharpness"], 1 / SHARPEST)
    midway, _ = go(first, 1, 0, 2)
    np.testing.assert_allclose(midway.frozen["sharpness"], 1 / SHARPEST + (SHARPEST - 1 / SHARPEST) * 2 / 5, rtol=1e-6)


def test_what_later_experiences_leave_alone():
    first, last, _ = states()[-1][2]
    masks = jax.tree.map(np.asarray, last.frozen["masks"])
    taken = {name: bank[:2].any(0) for name, bank in masks.items()}
    assert all(0 < units.sum() < len(units) for units in taken.values())
    assert not any(bank[2:].any() for bank in masks.values()), "nobody wrote of an experience that is not over"
    was, now = (jax.tree.map(np.asarray, state.params["gated"]) for state in (first, last))
    for name, (before, after) in _gated.SIDES.items():
        kernel = was["block"][name]["kernel"] != now["block"][name]["kernel"]
        bias = was["block"][name]["bias"] != now["block"][name]["bias"]
        for i, j in np.ndindex(kernel.shape):
            assert not (kernel[i, j] and taken[before][i] and taken[after][j])
        assert not bias[taken[after]].any() and kernel.any() and bias.any(), name
    moved = was["tokens"] != now["tokens"]
    assert moved[2].all() and not moved[[0, 1, 3]].any()
    columns = (was["head"]["kernel"] != now["head"]["kernel"]).any(0) & (was["head"]["bias"] != now["head"]["bias"])
    np.testing.assert_array_equal(columns, np.arange(6) >= 4)


@pytest.mark.parametrize("t", [0, 2])
def test_the_loss_of_a_step(t):
    """Nothing is distilled in the first experience."""
    _, _, go, found = states()
    before, _ = go(found[t][0], t, 0, 2)
    after, record = go(before, t, 2, 1)
    seen = after.method_state["spy"]
    x, labels = rows_of(STREAM, seen)
    teacher = before.method_state["gcab"].teacher
    new, old = (part.astype(np.float64) for part in (network(before, x, train=True), network(before, x, teacher)))
    gated = as64(before.params["gated"])
    gates = {name: sigmoid(float(before.frozen["sharpness"]) * e) for name, e in gated["gates"].items()}
    rows = np.stack([attended(gated["block"], gates, gated["tokens"][t], tokens) for tokens in new])
    logits = (rows @ gated["head"]["kernel"] + gated["head"]["bias"])[:, 2 * t : 2 * t + 2]
    fit = np.log(np.exp(logits).sum(1)) - logits[np.arange(8), labels - 2 * t]
    free = {name: 1 - np.asarray(bank).any(0) for name, bank in before.frozen["masks"].items()}
    crowded = sum((gates[name] * free[name]).sum() for name in free) / sum(part.sum() for part in free.values())
    expected = fit.mean() + SPARSE * crowded + (LAM if t else 0) * ((new - old) ** 2).mean()
    assert LAM * ((new - old) ** 2).mean() > 1e-3
    np.testing.assert_allclose(record["loss"], expected, rtol=1e-4)


def test_features_are_led_back_by_ridge_regression_and_each_class_is_answered_by_its_experience():
    learner, data, _, found = states()
    _, last, over = found[1]
    train = STREAM.experiences["train"]
    rows = train.rows[1][: train.size[1]]
    x, _ = rows_of(STREAM, {"row": rows, "experience": np.full(len(rows), 1)})
    teacher = last.method_state["gcab"].teacher
    new, old = (part.reshape(-1, 8).astype(np.float64) for part in (network(last, x), network(last, x, teacher)))
    h = np.concatenate([new, np.ones((len(new), 1))], 1)
    fit = np.linalg.solve(h.T @ h + 0.1 * np.diag([1.0] * 8 + [0.0]), h.T @ (old - new))
    np.testing.assert_allclose(over.frozen["back"]["kernel"][1], np.eye(8) + fit[:-1], atol=1e-3)
    np.testing.assert_allclose(over.frozen["back"]["bias"][1], fit[-1], atol=1e-3)
    np.testing.assert_array_equal(over.frozen["back"]["kernel"][0], np.eye(8))

    gated, masks, back = as64((over.params["gated"], over.frozen["masks"], over.frozen["back"]))
    batch = {"inputs": jnp.asarray(x[:5], jnp.float32), "weights": jnp.ones(5), "row": jnp.zeros(5, jnp.int32)}
    answer = jax.jit(learner.predict)(over, data, np.int32(1), batch)
    assert np.all(answer.logits[:, 4:] < -1e30)
    for row, features in enumerate(network(over, x[:5]).astype(np.float64)):
        for t, tokens in ((1, features), (0, features @ back["kernel"][1] + back["bias"][1])):
            gates = {name: bank[t] for name, bank in masks.items()}
            logits = attended(gated["block"], gates, gated["tokens"][t], tokens) @ gated["head"]["kernel"]
            expected = (logits + gated["head"]["bias"])[2 * t : 2 * t + 2]
            np.testing.assert_allclose(answer.logits[row, 2 * t : 2 * t + 2], expected, atol=1e-4)


def test_two_affine_drifts_are_led_back_and_none_is_the_identity():
    rng = np.random.default_rng(0)
    seen = [rng.normal(size=(60, 5)).astype(np.float32)]
    for _ in range(2):
        turned = rng.normal(size=(5, 5)) * 0.3 + np.eye(5)
        seen.append((seen[-1] @ turned + rng.normal(size=5)).astype(np.float32))

    @jax.jit
    def led_back(*seen):
        pairs = ((seen[0], seen[0]), (seen[1], seen[0]), (seen[2], seen[1]))
        sums = [_gated.add_pairs(_gated.no_pairs(5), new, old, jnp.ones(60)) for new, old in pairs]
        fits = jax.vmap(_gated.drift_projection, (0, None))(jax.tree.map(lambda *p: jnp.stack(p), *sums), 1e-4)
        return fits, _gated.cascade(seen[2], fits)

    fits, led = led_back(*seen)
    np.testing.assert_array_equal(fits["kernel"][0], np.eye(5))
    assert not fits["bias"][0].any()
    for own, expected in zip(led, seen, strict=True):
        np.testing.assert_allclose(own, expected, atol=1e-3)


def test_what_an_experience_hands_on():
    """The network to lead features back to, new gates, an optimizer without a past."""
    _, _, _, found = states()
    for (_, _, over), (begun, _, _) in itertools.pairwise(found):
        teacher = over.method_state["gcab"].teacher
        below = {name: leaf for name, leaf in over.params.items() if name != "gated"}
        assert bits(teacher) == bits((below, over.model_state))
        was, now = (state.params["gated"]["gates"] for state in (over, begun))
        assert not any(np.any(was[name] == now[name]) for name in was)
        assert max(np.abs(leaf).max() for leaf in now.values()) < 0.5, "drawn"
        moments = optax.tree.get(begun.opt_state, "mu")["gated"]
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(moments))


def test_gates_alone_and_classes_that_come_again():
    stream = streams.domain_incremental(STREAM.source, 2)
    alone = continual.gcab(2, tokens=2, heads=2, hidden=6, compensate=False)
    learner = short_learner(alone, model=core.from_linen(models.MLP(3, hidden=(16,))), stream=stream, steps=5)
    data, state = core.to_device(stream), core.start(learner)
    begin, chunk, end = map(jax.jit, (learner.begin, learner.chunk, learner.end))
    for t in range(2):
        state = end(chunk(begin(state, data, t), data, t, 0, 5)[0], data, t)
        np.testing.assert_array_equal(state.frozen["owner"], np.full(3, t))
    for t in range(2):
        np.testing.assert_array_equal(state.frozen["back"]["kernel"][t], np.eye(8))
        assert not state.frozen["back"]["bias"][t].any()


def test_sums_of_a_drift_are_in_full_precision():
    """On devices whose products of matrices are coarser by default."""
    rows = jnp.ones((4, 5))
    traced = jax.make_jaxpr(_gated.add_pairs)(_gated.no_pairs(5), rows, rows, jnp.ones(4))
    found = [eqn.params["precision"] for eqn in traced.eqns if eqn.primitive.name == "dot_general"]
    assert found == [(jax.lax.Precision.HIGHEST,) * 2] * 2


def test_features_of_half_precision():
    learner = short_learner(method(), model=core.from_linen(Half()))
    data = core.to_device(STREAM)

    def run(key):
        state = learner.begin(learner.init(key), data, 0)
        state = learner.end(learner.step(state, data, 0, 0)[0], data, 0)
        return state, learner.evaluate(state, data, 0), learner.end(learner.begin(state, data, 1), data, 1)

    over, _, last = jax.eval_shape(run, jax.random.key(0))
    for state in (over, last):
        assert {leaf.dtype for leaf in jax.tree.leaves(state.frozen["back"])} == {jnp.dtype("float32")}


class Half(nn.Module):
    """Features and logits as the layers compute them; the head has no bias."""

    @nn.compact
    def __call__(self, inputs):
        hidden = nn.relu(nn.Dense(16, dtype=jnp.bfloat16)(inputs))
        return core.Outputs(nn.Dense(6, use_bias=False, dtype=jnp.bfloat16, name="head")(hidden), hidden)


def first_step(method):
    """Traced."""
    learner = short_learner(method)
    jax.eval_shape(
        lambda key, data: learner.step(learner.init(key), data, 0, 0), jax.random.key(0), core.to_device(STREAM)
    )


def test_what_it_refuses():
    for make, sentence in (
        (lambda: continual.gcab(0), "num_tasks expects a whole number of at least 1"),
        (lambda: continual.gcab(3, tokens=0), "tokens expects"),
        (lambda: continual.gcab(3, heads=0), "heads expects"),
        (lambda: continual.gcab(3, hidden=0), "hidden expects"),
        (lambda: continual.gcab(3, sharpest=0.0), "sharpest must be"),
        (lambda: continual.gcab(3, sparse=-1.0), "sparse must be"),
        (lambda: continual.gcab(3, lam=-1.0), "lam must be"),
        (lambda: continual.gcab(3, gamma=0.0), "gamma must be"),
        (lambda: short_learner(continual.gcab(3, tokens=3)), "features of 3 tokens whose width 4 heads divide, got 16"),
        (lambda: short_learner(continual.gcab(3, tokens=2, heads=3)), "whose width 3 heads divide"),
        (lambda: core.start(short_learner(continual.gcab(2))), "gates for 2 tasks, and the stream has 3 experiences"),
        (lambda: first_step(core.chain(continual.er(8), continual.gcab(3))), "another method appends rows: leave that"),
        (lambda: short_learner(continual.gcab(3), model=core.from_linen(Headless())), "expects the last layer"),
        (lambda: short_learner(continual.gcab(3), model=core.from_linen(Tokens())), r"features \[B, D\], tokens one"),
    ):
        with pytest.raises(ValueError, match=sentence):
            make()


class Tokens(nn.Module):
    """Features [B, 3, 4] under a head for each."""

    @nn.compact
    def __call__(self, inputs):
        tokens = inputs.reshape(len(inputs), 3, 4)
        return core.Outputs(nn.Dense(6, name="head")(tokens).mean(1), tokens)
