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
