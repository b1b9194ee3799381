"""The CNN against `lax.conv_general_dilated` and `flax.linen.max_pool`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ctrain_jax.models import CNN


def naive(params, inputs, pool):
    x = inputs
    for index in range(2):
        layer = params[f"conv_{index}"]
        x = jax.lax.conv_general_dilated(x, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = nn.max_pool(jnp.maximum(x + layer["bias"], 0), (2, 2), (2, 2))
    x = x.reshape(x.shape[0], -1) if pool == "flatten" else x.sum((1, 2)) / (x.shape[1] * x.shape[2])
    return x @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("pool", ["flatten", "mean"])
def test_values_and_gradients_equal_the_naive_network(pool):
    inputs = np.random.default_rng(0).standard_normal((2, 11, 8, 3)).astype(np.float32)  # odd sizes are cropped: 11, 5
    model = CNN(4, widths=(3, 5), pool=pool)
    params = jax.jit(model.init)(jax.random.key(0), inputs)["params"]
    weights = jnp.sin(jnp.arange(8.0)).reshape(2, 4)

    @jax.jit
    def both(params):
        ours = jax.value_and_grad(lambda p: jnp.sum(weights * model.apply({"params": p}, inputs).logits))(params)
        return ours, jax.value_and_grad(lambda p: jnp.sum(weights * naive(p, inputs, pool)))(params)

    ours, theirs = both(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)
