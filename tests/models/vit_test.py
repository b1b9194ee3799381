"""The ViT against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ctrain_jax.models import ViT


def layer_norm(params, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * params["scale"] + params["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def naive_attention(params, x, causal):
    """One row and one head at a time; kernels are [width, heads, head_dim] and, of `out`, [heads, head_dim, width]."""
    out = np.zeros_like(x) + params["out"]["bias"]
    for row in range(x.shape[0]):
        for head in range(2):
            query, key, value = (
                x[row] @ params[n]["kernel"][:, head] + params[n]["bias"][head] for n in ("query", "key", "value")
            )
            scores = np.exp(query @ key.T / np.sqrt(query.shape[-1]))
            scores = np.tril(scores) if causal else scores
            out[row] += scores / scores.sum(-1, keepdims=True) @ value @ params["out"]["kernel"][head]
    return out


def naive_blocks(params, x, causal=False):
    """Two blocks and the last norm."""
    for index in range(2):
        block = params[f"block_{index}"]
        x = x + naive_attention(block["attention"], layer_norm(block["norm_0"], x), causal)
        hidden = gelu(layer_norm(block["norm_1"], x) @ block["mlp_0"]["kernel"] + block["mlp_0"]["bias"])
        x = x + hidden @ block["mlp_1"]["kernel"] + block["mlp_1"]["bias"]
    return layer_norm(params["norm"], x)


def naive(params, images, patch, pool):
    batch, height, width, _ = images.shape
    tokens = [
        images[:, top : top + patch, left : left + patch].reshape(batch, -1)
        for top in range(0, height, patch)
        for left in range(0, width, patch)
    ]
    x = np.stack(tokens, 1) @ params["embed"]["kernel"] + params["embed"]["bias"]
    if pool == "cls":
        x = np.concatenate([np.repeat(params["cls"], batch, 0), x], 1)
    x = naive_blocks(params, x + params["position"])
    features = x[:, 0] if pool == "cls" else x.mean(1)
    return features @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_equals_numpy(pool):
    inputs = np.random.default_rng(0).standard_normal((3, 4, 6, 3)).astype(np.float32)
    model = ViT(5, patch=2, width=8, depth=2, heads=2, mlp_ratio=3, pool=pool)
    params = jax.jit(model.init)(jax.random.key(0), inputs)["params"]
    assert ("cls" in params) == (pool == "cls")
    # Biases, scales and the class token of a new network are constants that would hide a mistake.
    leaves, treedef = jax.tree.flatten(params)
    noise = np.random.default_rng(1)
    params = treedef.unflatten([p + 0.3 * noise.standard_normal(p.shape).astype(np.float32) for p in leaves])
    want = naive(jax.tree.map(lambda p: np.asarray(p, np.float64), params), inputs.astype(np.float64), 2, pool)
    got = jax.jit(model.apply)({"params": params}, inputs).logits
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_keys_and_values_are_reached_by_an_interceptor():
    """Prefix tuning: two more keys and values in every block, from outside."""
    inputs = np.random.default_rng(0).standard_normal((2, 4, 4)).astype(np.float32)
    model = ViT(5, patch=2, width=8, depth=2, heads=2)
    variables = jax.jit(model.init)(jax.random.key(0), inputs)
    paths = []

    def prefix(call, args, kwargs, context):
        answer = call(*args, **kwargs)
        if context.module.name in ("key", "value"):
            paths.append("/".join(context.module.path))
            return jnp.concatenate([jnp.ones((2, 2, *answer.shape[2:])), answer], axis=1)
        return answer

    with nn.intercept_methods(prefix):
        moved = model.apply(variables, inputs)
    assert paths == [f"block_{i}/attention/{name}" for i in (0, 1) for name in ("key", "value")]
    plain = model.apply(variables, inputs)
    assert moved.logits.shape == plain.logits.shape
    assert np.abs(moved.logits - plain.logits).max() > 1e-3
