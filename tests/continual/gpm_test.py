"""GPM against bases found by numpy's SVD, and the promise: what old inputs see does not move."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, testing
from ctrain_jax.continual.optimization._bases import layer_inputs
from tests.short import short_learner, short_run

THRESHOLD = 0.9


class Small(nn.Module):
    """A convolution of each kind and a dense head."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(models.Conv(3, (2, 2), strides=2, name="ours")(x.reshape(x.shape[0], 4, 3, 1)))
        x = nn.relu(nn.Conv(5, (2, 1), padding="VALID", name="theirs")(x))
        return nn.Dense(6, name="head")(x.reshape(x.shape[0], -1))


def run(method, **options):
    """States after one and after two experiences on the convolutional model, under AdamW with decay."""
    learner = short_learner(
        method, model=core.from_linen(Small()), optimizer=optax.adamw(1e-2, weight_decay=0.1), steps=30, **options
    )
    data, state, states = core.to_device(learner.stream), core.start(learner), []
    for t in range(2):
        state = core.run_experience(learner, state, data, t)
        states.append(jax.tree.map(jnp.array, state))
    return learner, states


def test_rows_that_fill_up_devices_are_no_rows():
    model, x = core.from_linen(Small()), jnp.asarray(np.random.default_rng(0).normal(size=(8, 12)), jnp.float32)
    params = jax.jit(model.init)(jax.random.key(0), x).params

    def found(filled):
        # As core does where three devices share eight rows.
        ctx = types.SimpleNamespace(
            forward=lambda params, inputs, task: model.apply(core.Variables(params, {}), inputs[jnp.arange(filled) % 8])
        )
        return jax.jit(lambda params, x: layer_inputs(ctx, params, x))(params, x)

    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), found(9), found(8))


def inputs_of(learner, state, t):
    """`{layer: its inputs [n, d_in]}` for all rows of an experience, by a forward pass in numpy."""
    stream = learner.stream
    rows = stream.experiences["train"].rows[t][: stream.experiences["train"].size[t]]
    x = stream.source.train["inputs"][rows][:, np.asarray(stream.origins.view)[t]].astype(np.float64)
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), state.params)
    image, found = x.reshape(-1, 4, 3), {}
    # "SAME" with stride 2 pads 3 columns by one on the right.
    image = np.pad(image, ((0, 0), (0, 0), (0, 1)))
    patches = np.stack([image[:, i : i + 2, j : j + 2].reshape(-1, 4) for i in (0, 2) for j in (0, 2)], axis=1)
    found["ours"] = patches.reshape(-1, 4)
    own = params["ours"]
    hidden = np.maximum(patches @ own["kernel"].reshape(4, 3) + own["bias"], 0).reshape(-1, 2, 2, 3)
    columns = hidden.transpose(0, 2, 1, 3).reshape(-1, 2, 6)  # [row, column of the image, both pixels of it]
    found["theirs"] = columns.reshape(-1, 6)
    own = params["theirs"]
    found["head"] = np.maximum(columns @ own["kernel"].reshape(6, 5) + own["bias"], 0).reshape(len(x), -1)
    return found


@pytest.fixture(scope="module")
def states():
    return run(continual.gpm(THRESHOLD, growth=0.02, rows=100))


def used(basis):
    basis = np.asarray(basis, np.float64)
    return basis[:, np.any(basis != 0, axis=0)]


def test_the_bases_are_the_leading_singular_vectors_that_reach_the_threshold(states):
    learner, (first, second) = states
    for t, (before, after) in enumerate(((None, first), (first, second))):
        for name, a in inputs_of(learner, after, t).items():
            kept = after.method_state["gpm"].bases[name]["kernel"]
            old = (
                np.zeros((a.shape[1], 0)) if before is None else used(before.method_state["gpm"].bases[name]["kernel"])
            )
            rest = a - a @ old @ old.T
            _, values, vt = np.linalg.svd(rest, full_matrices=False)
            missing = np.sum(rest**2) - np.cumsum(np.insert(values**2, 0, 0.0))
            number = int(np.argmax(missing <= (1 - THRESHOLD - 0.02 * t) * np.sum(a**2)))
            expected = np.hstack([old, vt[:number].T])
            found = used(kept)
            assert found.shape == expected.shape, f"{name} {t}"
            np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)
            np.testing.assert_allclose(found.T @ found, np.eye(found.shape[1]), atol=1e-5)


def test_under_adamw_protected_directions_and_biases_stand_still_and_the_rest_moves(states):
    _, (first, second) = states
    for name, before in first.params.items():
        basis = used(first.method_state["gpm"].bases[name]["kernel"])
        change = np.asarray(second.params[name]["kernel"] - before["kernel"], np.float64).reshape(len(basis), -1)
        assert np.linalg.norm(basis.T @ change) < 5e-6
        np.testing.assert_array_equal(second.params[name]["bias"], before["bias"])
        assert np.any(before["bias"] != 0), "they moved in the first experience"
    assert np.linalg.norm(second.params["head"]["kernel"] - first.params["head"]["kernel"]) > 1e-2


def test_the_first_experience_is_plain_training():
    plain, own = (short_run(m, experiences=1).params for m in (core.identity(), continual.gpm()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain, own)


def test_train_frees_a_head_and_max_rank_cuts():
    _, (first, second) = run(continual.gpm(0.99, max_rank=2, train="^head"))
    bases = second.method_state["gpm"].bases
    assert jax.tree.leaves(bases["head"])[0].size == 0
    assert bases["theirs"]["kernel"].shape == (6, 2) and used(bases["theirs"]["kernel"]).shape == (6, 2)
    assert np.any(second.params["head"]["bias"] != first.params["head"]["bias"])


class Grouped(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = models.Conv(4, (2, 2), feature_group_count=2, name="grouped")(x.reshape(x.shape[0], 3, 2, 2))
        return nn.Dense(6, name="head")(x.reshape(x.shape[0], -1))


def test_what_it_refuses():
    for arguments, match in (
        ({"threshold": 1.5}, "threshold must be between 0 and 1"),
        ({"growth": -1.0}, "growth must be 0 or above"),
        ({"rows": 0}, "rows expects a whole number of at least 1, got 0"),
        ({"max_rank": 0}, "max_rank expects a whole number of at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.gpm(**arguments)
    by_hand = core.Model(
        lambda rng, x: core.Variables({"kernel": jnp.zeros((12, 6))}),
        lambda v, x, **options: (core.Outputs(x @ v.params["kernel"]), ()),
    )
    for model, method, match in (
        (by_hand, continual.gpm(), "of linen models, outside of nn.remat and nn.scan, got kernel: use a model"),
        (core.from_linen(Grouped()), continual.gpm(), "got grouped.kernel: use a model of such layers"),
        (testing.standard_model(), continual.gpm(train="Dense|head"), "got no kernel"),
        (testing.standard_model(), continual.gpm(train="heads"), "train='heads' finds no parameter"),
    ):
        with pytest.raises(ValueError, match=match):
            core.start(short_learner(method, model=model))
