"""A mixture of adapters: one row at a time in numpy, when a layer grows, what stays and what it refuses."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import core, ops, peft, testing
from ctrain_jax.peft import _sema
from tests.short import bits, short_learner

STREAM, MODEL = testing.standard_stream(), testing.standard_model()
TRAIN = STREAM.experiences["train"]
LAYER = "Dense_1"


def rows_of(t):
    """All inputs of an experience, as the network sees them."""
    inputs = np.asarray(STREAM.source.train["inputs"])[TRAIN.rows[t][: TRAIN.size[t]]]
    return inputs[:, np.asarray(STREAM.origins.view)[t]]


def grown(**options):
    return peft.sema(LAYER, **{"max_modules": 3, "bottleneck": 4, "code": 5, "train": "^head", **options})


def with_threshold(state, threshold):
    own = state.method_state["sema"]._replace(threshold=jnp.float32(threshold))
    return state._replace(method_state={"sema": own})


@functools.cache
def parts():
    """The data, where a run starts, and what it is made of."""
    learner = short_learner(grown())
    hooks = map(jax.jit, (learner.begin, learner.chunk, learner.end))
    return core.to_device(STREAM), core.start(learner), *hooks, jax.jit(grown().model(MODEL).apply)


def learned(threshold, experiences=3):
    """States at the start of experiences, after their steps and when they are over."""
    data, start, begin, chunk, end, _ = parts()
    state, states = with_threshold(start, threshold), []
    for t in range(experiences):
        first = begin(state, data, t)
        last, _ = chunk(first, data, t, 0, 12)
        state = end(last, data, t)
        states.append((first, last, state))
    return states


@pytest.fixture(scope="module")
def growing():
    """Each experience grows."""
    return learned(1e-3)


def test_a_row_is_given_the_mixture_of_the_modules_that_are_there():
    """Two of three slots alive, tokens of a sequence: one row at a time."""
    rng = np.random.default_rng(0)
    shapes = {"down": (5, 2), "down_bias": (2,), "up": (2, 4), "up_bias": (4,), "router": (5,), "router_bias": ()}
    modules = {name: rng.normal(size=(3, *shape)) for name, shape in shapes.items()}
    x, alive = rng.normal(size=(6, 7, 5)), np.array([True, False, True])
    found = _sema.mixture(jax.tree.map(jnp.asarray, modules), jnp.asarray(x), jnp.asarray(alive))
    for row, answer in zip(x, found, strict=True):
        logits = np.array([row.mean(0) @ modules["router"][k] + modules["router_bias"][k] for k in (0, 2)])
        weights = np.exp(logits) / np.exp(logits).sum()
        wanted = sum(
            weight * (np.maximum(row @ modules["down"][k] + modules["down_bias"][k], 0) @ modules["up"][k])
            + weight * modules["up_bias"][k]
            for weight, k in zip(weights, (0, 2), strict=True)
        )
        np.testing.assert_allclose(answer, wanted, atol=1e-4)


class Whole(nn.Module):
    """A layer that is given whole numbers."""

    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(4, use_bias=False, name="layer")((inputs > 0).astype(jnp.int8))


def test_whole_numbers_are_given_the_module_as_well():
    whole, x = peft.sema("layer", code=2, bottleneck=3).model(core.from_linen(Whole())), np.eye(5)
    before, apply = jax.jit(whole.init)(jax.random.key(0), x), jax.jit(whole.apply)
    new = jax.tree.map(lambda leaf: leaf + 0.3, before.params["new"]["layer"])
    after = before._replace(params={"new": {"layer": new}, "base": {}})
    after = after._replace(frozen=before.frozen | {"open": {"layer": jnp.bool_(True)}})
    found = apply(after, x)[0].logits - apply(before, x)[0].logits
    added = np.maximum(x @ new["down"] + new["down_bias"], 0) @ new["up"] + new["up_bias"]
    np.testing.assert_allclose(found, added, rtol=1e-5)


def test_slots_that_are_not_there_have_no_gradient():
    """One of three is there, and a module is trained or is not."""
    _, start, *_, apply = parts()
    own, bank = (jax.tree.map(lambda x: x + 0.3, x[LAYER]) for x in (start.params["new"], start.frozen["bank"]))

    @jax.jit
    @jax.grad
    def slopes(modules, opened):
        bank, own = modules
        frozen = start.frozen | {"bank": {LAYER: bank}, "count": {LAYER: jnp.int32(1)}, "open": {LAYER: opened}}
        params = start.params | {"new": {LAYER: own}}
        return apply(core.Variables(params, start.model_state, frozen), rows_of(0))[0].logits.sum()

    for opened in (False, True):
        kept, trained = slopes((bank, own), jnp.bool_(opened))
        for name, leaf in kept.items():
            assert np.all(leaf[1:] == 0) and np.any(leaf[0] != 0) == (opened or "router" not in name)
        assert all(np.any(leaf != 0) == opened for leaf in trained.values())


def test_a_layer_grows_where_the_errors_of_all_descriptors_are_unusual(growing):
    """Against principal components of half of what the layer was given, and their errors on the rest, by numpy."""
    end = growing[0][2]
    given = nn.relu(
        nn.BatchNorm(use_running_average=True).apply(
            {
                "params": end.frozen["params"]["BatchNorm_0"],
                "batch_stats": end.model_state["batch_stats"]["BatchNorm_0"],
            },
            np.concatenate([rows_of(0), rows_of(1)]) @ end.frozen["params"]["Dense_0"]["kernel"],
        )
    )
    old, new = np.split(np.asarray(given, np.float64), [TRAIN.size[0]])
    rng = core.tag(core.tag(core.tag(jax.random.fold_in(end.rng, 0), "end"), "sema"), "end")
    other = np.asarray(ops.permute_index(rng, jnp.arange(len(old)), len(old))) % 2 == 1
    centre = old[~other].mean(0)
    plane = np.linalg.svd(old[~other] - centre)[2][:5]
    errors = [np.mean((x - centre - (x - centre) @ plane.T @ plane) ** 2, 1) for x in (old[other], new)]
    unusual = np.mean(np.abs(errors[1] - errors[0].mean()) / errors[0].std())
    descriptor = end.method_state["sema"].descriptors[LAYER]
    np.testing.assert_allclose([descriptor.mean[0], 1 / descriptor.scale[0]], [errors[0].mean(), errors[0].std()], 1e-3)
    data, _, begin, *_ = parts()
    for threshold, grows in ((0.999 * unusual, True), (1.001 * unusual, False)):
        began = begin(with_threshold(end, threshold), data, 1)
        assert began.frozen["open"][LAYER] == grows
        fresh = not np.array_equal(began.params["new"][LAYER]["down"], end.params["new"][LAYER]["down"])
        assert fresh == grows and optax.tree.get(began.opt_state, "count") == 0
    # Rows that the second of two descriptors knows are no news, whatever the first one says.
    began = begin(with_threshold(growing[1][2], 1.5), data, 1)
    assert began.frozen["count"][LAYER] == 2 and not began.frozen["open"][LAYER]


def test_modules_of_earlier_experiences_stay_and_a_full_layer_grows_no_more(growing):
    for t, (first, last, over) in enumerate(growing):
        assert first.frozen["count"][LAYER] == t and first.frozen["open"][LAYER] and not over.frozen["open"][LAYER]
        assert over.frozen["count"][LAYER] == t + 1
        own = last.params["new"][LAYER]
        assert np.abs(own["up"]).max() > 0
        jax.tree.map(
            lambda bank, leaf, t=t: np.testing.assert_array_equal(bank[t], leaf), over.frozen["bank"][LAYER], own
        )
        x = rows_of(t)
        *_, apply = parts()
        before, after = (apply(core.Variables(s.params, s.model_state, s.frozen), x)[0].logits for s in (last, over))
        np.testing.assert_array_equal(before, after, err_msg="an experience is over, and the answers are the same")
    early, late = growing[0][2], growing[2][2]
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a[:1], b[:1]),
        (early.frozen["bank"], early.method_state["sema"].descriptors),
        (late.frozen["bank"], late.method_state["sema"].descriptors),
    )
    assert bits(early.frozen["params"]) == bits(late.frozen["params"])
    data, _, begin, *_ = parts()
    again = begin(late, data, 0)
    assert again.frozen["count"][LAYER] == 3 and not again.frozen["open"][LAYER]


def test_without_a_signal_the_head_alone_is_trained():
    (*_, early), (*_, late) = learned(1e9, 2)
    assert early.frozen["count"][LAYER] == 1 and bits(early.frozen) == bits(late.frozen)
    assert bits(early.method_state) == bits(late.method_state)
    assert np.abs(early.params["base"]["head.kernel"] - late.params["base"]["head.kernel"]).max() > 0


class Odd(nn.Module):
    """A layer that a transformation hides, one that sees no rows of the batch, and one that is called twice."""

    @nn.compact
    def __call__(self, inputs):
        place = nn.Dense(4, name="place")(jnp.eye(9)).sum()
        twice = nn.Dense(8, name="twice")
        features = twice(twice(nn.remat(nn.Dense)(8, name="hidden")(inputs)))
        return core.Outputs(nn.Dense(6, name="head")(features) + place, features)


def test_what_it_refuses():
    for arguments, match in (
        ({"max_modules": 0}, "max_modules expects a whole number of at least 1, got 0"),
        ({"bottleneck": 0}, "bottleneck expects"),
        ({"code": 0}, "code expects"),
        ({"threshold": 0.0}, "threshold must be above 0"),
        ({"train": "("}, "train expects a regular expression"),
    ):
        with pytest.raises(ValueError, match=match):
            grown(**arguments)
    with pytest.raises(ValueError, match="layers expects a regular expression"):
        peft.sema("(")
    odd = core.from_linen(Odd())
    for layers, model, match in (
        ("block", MODEL, "layers='block' finds no module of a linen model: choose from Dense_0, BatchNorm_0,"),
        ("", core.Model(MODEL.init, lambda variables, inputs: (inputs, {})), "linen model: this model has none"),
        ("hidden", odd, "hidden is inside of nn.remat or nn.scan"),
        ("twice", odd, "twice is called 2 times in a pass: narrow layers"),
        (
            "place",
            odd,
            r"reaches modules that take \[B, ..., d\] to \[B, ..., k\], and place takes \[9, 9\] to \[9, 4\]",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            short_learner(peft.sema(layers, code=2), model=model)
    with pytest.raises(ValueError, match="code=128 expects to be below the width of what Dense_1 is given, 16"):
        core.start(short_learner(peft.sema(LAYER)))
    with pytest.raises(ValueError, match="sema is in the chain twice"):
        core.start(short_learner(core.chain(grown(train=None), peft.sema(LAYER, code=5))))
    outside = core.Method("outside", model=peft.lora(2, match="down$", train="up$", form="tree"))
    with pytest.raises(ValueError, match="put it first in the chain"):
        core.start(short_learner(core.chain(outside, grown())))
