"""Augmentation: every training pass sees images anew; what is stored, asked and compared is as it came."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, ops, optim, streams

OFF = {"crop": 0, "flip": False}
KEY = jax.random.key(3)


def context(problem=None):
    """What the hooks of this method read of a context."""
    spec = types.SimpleNamespace(num_classes=3, outputs=core.Outputs(jax.ShapeDtypeStruct((8, 3), jnp.float32)))
    return types.SimpleNamespace(rng=KEY, spec=spec, problem=problem or core.classification())


def batch_of(shape=(6, 7), **fields):
    rng = np.random.default_rng(0)
    inputs, labels = rng.uniform(size=(8, *shape)).astype(np.float32), rng.integers(3, size=8)
    weights = np.array([1, 1, 0, 1, 1, 0, 1, 1], np.float32)
    return {"inputs": jnp.asarray(inputs), "labels": jnp.asarray(labels), "weights": jnp.asarray(weights), **fields}


def mixed(batch, **arguments):
    method, ctx = continual.augmentation(**OFF, **arguments), context()
    state = method.init(KEY, None, ctx)
    return jax.jit(lambda state, batch: method.augment(state, batch, ctx))(state, batch)


# A model that answers what it was asked.
ECHO = core.Model(lambda rng, inputs: core.Variables({}), lambda variables, inputs, **options: (inputs, options))


def seen(inputs, **arguments):
    """What a model is shown in training."""
    model = continual.augmentation(**arguments).model(ECHO)
    return jax.jit(lambda x: model.apply(None, x, train=True, rng=KEY)[0])(inputs)


def test_with_all_off_it_is_no_method_at_all_and_without_mixtures_a_batch_costs_nothing():
    nothing = core.Method("augmentation")
    assert continual.augmentation(**OFF) == nothing
    assert continual.augmentation(crop=1)._replace(model=nothing.model) == nothing
    mixture = continual.augmentation(**OFF, mixup=1.0)
    assert mixture.model is nothing.model and mixture.needs == ("classes",)


def test_a_pass_that_does_not_train_is_as_it_was_and_one_that_does_keeps_the_rng_of_the_model():
    model, inputs, task = continual.augmentation(crop=1).model(ECHO), batch_of()["inputs"], jnp.zeros(8, int)
    assert model.init is ECHO.init
    for options in ({}, {"rng": KEY}, {"train": False, "task": task}):
        answer, passed = model.apply(None, inputs, **options)
        assert answer is inputs
        assert passed == {"train": False, "rng": None, "task": None} | options
    answer, passed = model.apply(None, inputs, train=True, rng=KEY, task=task)
    assert passed == {"train": True, "rng": KEY, "task": task}, "dropout draws the same numbers"
    assert (np.abs(answer - inputs).max((1, 2)) > 0.01).sum() > 4
    with pytest.raises(ValueError, match="augmentation expects rng where train=True, got none: pass rng=ctx.rng"):
        model.apply(None, inputs, train=True)


@jax.jit
def by_ops(images):
    """All of them by their functions: of images of three channels, of grey ones, and crop and flip alone."""
    rngs = {name: core.tag(core.tag(KEY, "augmentation"), name) for name in ("crop", "flip", "rand_augment", "color")}
    moved = ops.random_flip(rngs["flip"], ops.random_crop(rngs["crop"], images, 2))
    varied = faded(rngs["rand_augment"], moved, 1, 5.0)
    strengths = {"brightness": 0.4, "contrast": 0.4}
    grey = ops.color_jitter(rngs["color"], images[..., :1], **strengths)
    return ops.color_jitter(rngs["color"], varied, **strengths, saturation=0.4, hue=0.1), grey, moved


def faded(rng, images, num_ops, magnitude):
    """In place of RandAugment, which takes long to compile; conformance has the real one."""
    return images * jax.random.uniform(rng) * num_ops * magnitude / 10


def test_each_part_is_that_of_ops_with_a_key_of_its_own(monkeypatch):
    inputs = batch_of((6, 7, 3))["inputs"]
    colours, grey, moved = by_ops(inputs)
    monkeypatch.setattr(ops, "rand_augment", faded)
    everything = seen(inputs, crop=2, rand_augment=1, magnitude=5.0, color=0.4)
    np.testing.assert_allclose(everything, colours, atol=1e-4)
    np.testing.assert_array_equal(seen(inputs, crop=2), moved)
    np.testing.assert_allclose(seen(inputs[..., 0], **OFF, color=0.4), grey[..., 0], atol=1e-6)


def test_inputs_with_a_mean_and_a_std_are_augmented_as_the_images_that_they_were():
    raw, mean, std = batch_of((6, 7, 3))["inputs"], np.float32([0.5, 0.4, 0.3]), np.float32([0.2, 0.3, 0.25])
    expected = (seen(raw, crop=2) - mean) / std
    np.testing.assert_allclose(seen((raw - mean) / std, crop=2, mean=mean, std=std), expected, atol=1e-5)


# Images without a black pixel: one that has some was moved.
MODEL_STATE = {"moved": jnp.zeros(6)}


def is_moved(inputs):
    return (inputs == 0).any((1, 2))


def recording():
    """A model that answers whether an image was moved, and writes down for each training pass how many were."""

    def apply(variables, inputs, *, train=False, rng=None, task=None):
        moved, before = is_moved(inputs), variables.model_state["moved"]
        after = jnp.roll(before, 1).at[0].set(moved.mean()) if train else before
        return core.Outputs(variables.params * moved[:, None]), {"moved": after}

    return core.Model(lambda rng, inputs: core.Variables(jnp.ones(4), MODEL_STATE), apply)


def learning(*order):
    """A learner with two passes of er_ace and derpp, and the arguments of its step."""
    parts = {
        "augmentation": continual.augmentation(crop=1, flip=False),
        "er_ace": continual.er_ace(20),
        "derpp": continual.derpp(20),
    }
    rows = np.linspace(0.5, 1.0, 40 * 25, dtype=np.float32).reshape(40, 5, 5), np.repeat(np.arange(4), 10)
    stream = streams.class_incremental(streams.arrays(*rows, *rows), 2)
    method = core.chain(*(parts[name] for name in order))
    learner = core.make_learner(recording(), method, optax.sgd(0.1), stream, batch_size=10, epochs=2)
    return learner, core.start(learner), core.to_device(stream)


def test_rows_of_a_pass_of_their_own_are_augmented_memories_keep_rows_and_tests_see_them_as_they_came():
    learner, state, data = learning("er_ace", "derpp", "augmentation")
    step = jax.jit(learner.step)
    for t, i in ((0, 0), (0, 1), (0, 2), (1, 0)):
        state, _ = step(state, data, t, i)
    # The last four training passes: of the batch, of er_ace, and of derpp's logits and labels.
    assert (np.asarray(state.model_state["moved"][:4]) > 0.4).all(), state.model_state
    # derpp keeps the logits of the augmented image, which are 0 for an image as it came.
    records = state.method_state["derpp"].buffer.records
    assert set(records) == {"row", "experience", "logits"}
    assert 0.4 < (np.asarray(records["logits"]) != 0).any(1).mean()
    batch = {"inputs": data.source["test"]["inputs"][:8], "weights": jnp.ones(8), "row": jnp.arange(8)}
    assert (np.asarray(learner.predict(state, data, 1, batch).logits) == 0).all()


def test_the_place_in_the_chain_does_not_matter():
    programs = []
    for order in (("er_ace", "derpp", "augmentation"), ("augmentation", "er_ace", "derpp")):
        learner, state, data = learning(*order)
        programs.append(jax.jit(learner.step).lower(state, data, 0, 0).as_text())
    assert programs[0] == programs[1], "the same program gives the same bits"


def test_the_second_gradient_of_sam_is_of_the_same_augmented_images():
    # A loss that is linear in the parameters has one gradient everywhere, the mean image: SAM is SGD.
    model = core.Model(
        lambda rng, inputs: core.Variables(jnp.zeros((*inputs.shape[1:], 2))),
        lambda variables, inputs, **_: (core.Outputs(jnp.einsum("bhw,hwc->bc", inputs, variables.params)), ()),
    )
    problem = core.Problem(lambda outputs, batch: outputs.logits.sum(-1), lambda outputs, batch: {})
    images = np.ones((20, 5, 5), np.float32), np.arange(20) % 2
    stream, weights = streams.class_incremental(streams.arrays(*images, *images), 1), []
    for tx in (optax.sgd(0.1), optim.sam(optax.sgd(0.1), rho=2.0)):
        learner = core.make_learner(
            model, continual.augmentation(crop=2), tx, stream, batch_size=10, steps=2, problem=problem
        )
        state, data = core.start(learner), core.to_device(stream)
        step = jax.jit(learner.step)
        for i in range(2):
            state, _ = step(state, data, 0, i)
        weights.append(np.asarray(state.params))
    assert np.ptp(weights[0]) > 0.02, "the border was black more often than the centre"
    np.testing.assert_allclose(weights[1], weights[0], atol=1e-7)


def test_a_mixture_is_learned_with_the_targets_and_the_classes_of_both_rows():
    # Rows that are constant and one-hot: what an image is made of is its mean.
    batch = batch_of((8,))
    heads = np.eye(3, dtype=bool)[np.asarray(batch["labels"])]
    images = jnp.broadcast_to(jnp.eye(8)[:, None, None], (8, 4, 5, 8))
    result = mixed(batch | {"inputs": images, "classes": jnp.asarray(heads)}, mixup=1.0, cutmix=1.0)
    shares = np.asarray(result["inputs"].mean((1, 2)), np.float64)
    np.testing.assert_allclose(result["targets"], shares @ heads, atol=1e-6)
    np.testing.assert_array_equal(result["classes"], (shares > 1e-7) @ heads)
    real = np.asarray(batch["weights"]) > 0
    assert (shares[real][:, ~real] == 0).all() and (shares[~real] == np.eye(8)[~real]).all()
    pure = np.asarray((result["inputs"] == 0) | (result["inputs"] == 1)).all((1, 2, 3))[real]
    assert pure.any() and not pure.all(), "some are boxes, some are means"
    np.testing.assert_array_equal(result["labels"], batch["labels"])

    logits = np.random.default_rng(1).normal(size=(8, 3))
    chances = np.exp(logits) * np.asarray(result["classes"])
    chances /= chances.sum(1, keepdims=True)
    by_hand = [
        -sum(y * np.log(p) for y, p in zip(row, ps, strict=True) if y)
        for row, ps in zip(np.asarray(result["targets"], np.float64), chances, strict=True)
    ]
    losses = core.classification().loss(core.Outputs(jnp.asarray(logits)), result)
    np.testing.assert_allclose(losses, by_hand, rtol=1e-5)


def test_soft_targets_of_a_method_before_it_are_mixed():
    soft = jnp.asarray(np.random.default_rng(2).uniform(size=(8, 3)), jnp.float32)
    result = mixed(batch_of((8,), targets=soft) | {"inputs": jnp.eye(8)}, mixup=1.0)
    np.testing.assert_allclose(result["targets"], result["inputs"] @ soft, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"crop": -1}, "crop expects a whole number of at least 1, got -1"),
        ({"color": -0.5}, "color must be 0 or above"),
        ({"rand_augment": 1.5}, "rand_augment expects a whole number"),
        ({"magnitude": 12.0}, "magnitude / 10 must be between 0 and 1"),
        ({"mixup": -1.0}, "mixup must be 0 or above"),
        ({"cutmix": -1.0}, "cutmix must be 0 or above"),
        ({"std": 0.0}, "std must be above 0"),
    ],
)
def test_arguments_that_it_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        continual.augmentation(**arguments)


def test_what_it_refuses_when_a_run_is_made():
    with pytest.raises(
        ValueError, match=r"augmentation expects images \[B, H, W\] or \[B, H, W, C\], got shape \(8, 5\)"
    ):
        seen(batch_of((5,))["inputs"])
    method = continual.augmentation(mixup=1.0)
    plain = core.classification()
    hard = plain._replace(
        loss=lambda outputs, batch: plain.loss(outputs, {k: v for k, v in batch.items() if k != "targets"})
    )
    with pytest.raises(ValueError, match="the problem does not read their soft targets"):
        method.augment(method.init(KEY, None, context()), batch_of(), context(hard))
