"""ResNet-18 against a parameter count by hand and a network of plain `lax` operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax.models import ResNet18


@pytest.mark.parametrize(
    ("width", "num_classes", "want"), [(20, 10, 1_094_750), (20, 100, 1_109_240), (64, 10, 11_173_962)]
)
def test_parameter_count(width, num_classes, want):
    # A 3x3 convolution from i to o channels has 9 i o parameters, a norm 2 o, a 1x1 shortcut i o and its norm 2 o.
    w = width
    stem = 9 * 3 * w + 2 * w
    stage_0 = 4 * (9 * w * w + 2 * w)
    halving = 0
    for i in (w, 2 * w, 4 * w):
        o = 2 * i
        first = (9 * i * o + 2 * o) + (9 * o * o + 2 * o) + (i * o + 2 * o)
        halving += first + 2 * (9 * o * o + 2 * o)
    by_hand = stem + stage_0 + halving + 8 * w * num_classes + num_classes
    variables = jax.eval_shape(ResNet18(num_classes, width=w).init, jax.random.key(0), np.zeros((1, 32, 32, 3), "f4"))
    assert sum(p.size for p in jax.tree.leaves(variables["params"])) == by_hand == want


def conv(params, x, strides, padding):
    return jax.lax.conv_general_dilated(
        x, params["kernel"], (strides, strides), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def batch_norm(params, x):
    mean = x.mean((0, 1, 2))
    var = ((x - mean) ** 2).mean((0, 1, 2))
    return (x - mean) / jnp.sqrt(var + 1e-5) * params["scale"] + params["bias"]


def group_norm(params, x):
    channels = x.shape[-1]
    groups = {12: 4, 24: 8, 48: 16, 96: 32}[channels]  # gcd with 32
    parts = []
    for part in jnp.split(x, groups, axis=-1):
        mean = part.mean((1, 2, 3), keepdims=True)
        parts.append((part - mean) / jnp.sqrt(((part - mean) ** 2).mean((1, 2, 3), keepdims=True) + 1e-5))
    return jnp.concatenate(parts, axis=-1) * params["scale"] + params["bias"]


def naive(params, x, norm):
    x = jax.nn.relu(norm(params["stem_norm"], conv(params["stem"], x, 1, 1)))
    for stage in range(4):
        for block in range(2):
            p = params[f"stage_{stage}_block_{block}"]
            strides = 2 if (stage, block) in ((1, 0), (2, 0), (3, 0)) else 1
            y = jax.nn.relu(norm(p["norm_0"], conv(p["conv_0"], x, strides, 1)))
            y = norm(p["norm_1"], conv(p["conv_1"], y, 1, 1))
            if strides == 2:
                x = norm(p["shortcut_norm"], conv(p["shortcut"], x, 2, 0))
            else:
                assert "shortcut" not in p
            x = jax.nn.relu(x + y)
    return x.mean((1, 2))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_features_equal_the_naive_network(norm):
    inputs = np.random.default_rng(0).standard_normal((4, 17, 16, 3)).astype(np.float32)
    model = ResNet18(2, width=12, norm=norm)
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
    # All leaves random: scales and biases of a new network are 1 and 0 and would hide a norm in the wrong place.
    noise = np.random.default_rng(1)
    params = jax.tree.map(lambda p: 0.2 * noise.standard_normal(p.shape).astype(np.float32), shapes["params"])
    state = jax.tree.map(lambda p: np.zeros(p.shape, p.dtype), {k: v for k, v in shapes.items() if k != "params"})

    def both(params):
        ours, _ = model.apply({"params": params, **state}, inputs, train=True, mutable=["batch_stats"])
        return ours.features, naive(params, inputs, {"batch": batch_norm, "group": group_norm}[norm])

    # It runs once, so quick compilation matters more than speed.
    ours, theirs = jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})(params)
    assert (np.abs(theirs) > 0).mean() > 0.2
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
