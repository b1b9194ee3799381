"""The MLP against numpy."""

import jax
import numpy as np
import pytest

from ctrain_jax.models import MLP


@pytest.mark.parametrize("train", [True, False])
def test_equals_numpy_with_batch_norm(train):
    noise = np.random.default_rng(0)
    inputs = noise.standard_normal((6, 2, 3)).astype(np.float32)
    model = MLP(4, hidden=(5, 3), norm="batch", activation=jax.numpy.tanh)
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
    variables = jax.tree.map(lambda leaf: noise.uniform(0.2, 1.5, leaf.shape).astype(np.float32), shapes)
    outputs, state = model.apply(variables, inputs, train=train, mutable=["batch_stats"])

    params = jax.tree.map(lambda p: p.astype(np.float64), variables["params"])
    x = inputs.reshape(6, 6).astype(np.float64)
    for index in range(2):
        x = x @ params[f"dense_{index}"]["kernel"] + params[f"dense_{index}"]["bias"]
        old = variables["batch_stats"][f"norm_{index}"]
        mean, var = (x.mean(0), x.var(0)) if train else (old["mean"], old["var"])
        if train:
            new = state["batch_stats"][f"norm_{index}"]
            np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-5)
            np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * var, rtol=1e-5)
        x = (x - mean) / np.sqrt(var + 1e-5)
        x = np.tanh(x * params[f"norm_{index}"]["scale"] + params[f"norm_{index}"]["bias"])
    np.testing.assert_allclose(outputs.features, x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs.logits, x @ params["head"]["kernel"] + params["head"]["bias"], rtol=1e-5)


def test_parameter_count_of_the_default():
    variables = jax.eval_shape(MLP(10).init, jax.random.key(0), np.zeros((1, 28, 28), np.float32))
    assert sum(p.size for p in jax.tree.leaves(variables)) == 784 * 400 + 400 + 400 * 400 + 400 + 400 * 10 + 10


def test_torch_draws_kernels_and_biases_within_one_over_the_root_of_fan_in():
    variables = MLP(10, hidden=(200,), initializer="torch").init(jax.random.key(0), np.zeros((1, 400), np.float32))
    for name, fan_in in (("dense_0", 400), ("head", 200)):
        for leaf in variables["params"][name].values():
            assert np.abs(leaf).max() <= 1 / np.sqrt(fan_in)
            # Uniform on [-a, a] has the standard deviation a / sqrt(3); ten draws of a bias are too few to tell.
            if leaf.size > 100:
                np.testing.assert_allclose(np.std(leaf), 1 / np.sqrt(3 * fan_in), rtol=0.1)
    assert np.ptp(variables["params"]["head"]["bias"]) > 0


def test_dropout_leaves_units_out_in_training_alone():
    inputs = np.ones((50, 8), np.float32)
    plain, model = MLP(3, hidden=(40,)), MLP(3, hidden=(40,), dropout=0.25)
    variables = plain.init(jax.random.key(0), inputs)
    whole = plain.apply(variables, inputs).features
    np.testing.assert_array_equal(model.apply(variables, inputs).features, whole)
    dropped = np.asarray(model.apply(variables, inputs, train=True, rngs={"dropout": jax.random.key(1)}).features)
    live = np.asarray(whole) > 0
    left_out = (dropped == 0) & live
    # 50 rows of about 20 live units: five standard deviations of the share are 0.07.
    assert abs(left_out.sum() / live.sum() - 0.25) < 0.08
    np.testing.assert_allclose(dropped[live & ~left_out], np.asarray(whole)[live & ~left_out] / 0.75, rtol=1e-6)
