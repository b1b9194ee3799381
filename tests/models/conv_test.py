"""Conv against `lax.conv_general_dilated`, against plain loops, and against `flax.linen.Conv`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ctrain_jax.models import Conv

# (height, width), channels, kernel_size, strides, padding, kernel_dilation, groups
GEOMETRIES = [
    ((7, 7), 3, (3, 3), 1, "SAME", 1, 1),
    ((8, 6), 3, (3, 3), 2, "SAME", 1, 1),  # even size, so SAME pads one side only
    ((9, 10), 3, (3, 3), 2, "SAME", 1, 1),
    ((11, 7), 2, (3, 3), 3, "SAME", 1, 1),  # strides that do not divide the size
    ((9, 8), 2, (2, 2), 1, "SAME", 1, 1),  # even kernel
    ((9, 8), 2, (4, 2), (2, 3), "SAME", 1, 1),
    ((9, 8), 2, (1, 1), 1, "SAME", 1, 1),
    ((9, 8), 2, (1, 1), 2, "SAME", 1, 1),
    ((9, 8), 2, (1, 1), 3, "VALID", 1, 1),
    ((10, 9), 2, (2, 3), (3, 5), "SAME", 1, 1),  # kernel smaller than the stride
    ((8, 9), 3, (3, 2), 1, "VALID", 1, 1),
    ((8, 9), 3, (3, 2), (3, 2), "VALID", 1, 1),
    ((4, 5), 3, (4, 5), 1, "VALID", 1, 1),  # one output pixel
    ((3, 3), 2, (5, 5), 1, "SAME", 1, 1),  # kernel larger than the image
    ((7, 8), 2, (3, 3), 2, 1, 1, 1),
    ((7, 8), 2, (3, 3), 2, (0, 2), 1, 1),
    ((7, 8), 2, (3, 3), (1, 2), ((2, 0), (1, 3)), 1, 1),
    ((9, 9), 2, (3, 3), 2, ((-1, 0), (1, -2)), 1, 1),  # negative padding crops
    ((9, 9), 2, (3, 3), 1, "SAME", 2, 1),
    ((11, 9), 2, (3, 2), 2, "SAME", (2, 3), 1),
    ((11, 9), 2, (2, 3), (2, 1), "VALID", (3, 2), 1),
    ((7, 7), 4, (3, 3), 2, "SAME", 1, 2),
    ((7, 6), 4, (3, 2), 1, "VALID", (1, 2), 4),  # depthwise, two outputs a channel
    ((6, 7), 6, (2, 2), (2, 3), ((1, 0), (0, 2)), 1, 3),
]


def layer_and_arrays(geometry, dtype):
    size, channels, kernel_size, strides, padding, dilation, groups = geometry
    features = 2 * groups if groups > 1 else 5
    layer = Conv(features, kernel_size, strides, padding, dilation, groups, dtype=dtype)
    normal = np.random.default_rng(0).standard_normal
    inputs = normal((2, *size, channels)).astype(dtype)
    params = {"kernel": normal((*kernel_size, channels // groups, features)), "bias": normal(features)}
    return layer, jax.tree.map(lambda p: p.astype(dtype), params), inputs


def as_pair(value):
    return (value, value) if isinstance(value, int) else value


def reference(geometry):
    _, _, _, strides, padding, dilation, groups = geometry
    if not isinstance(padding, str):
        padding = [as_pair(side) for side in as_pair(padding)]

    def conv(params, inputs):
        outputs = jax.lax.conv_general_dilated(
            inputs,
            params["kernel"],
            as_pair(strides),
            padding,
            rhs_dilation=as_pair(dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return outputs + params["bias"]

    return conv


def values_and_gradients(conv, params, inputs):
    outputs, pullback = jax.vjp(conv, params, inputs)
    # Any fixed cotangent that treats every output differently.
    params_grad, inputs_grad = pullback(jnp.sin(jnp.arange(outputs.size)).reshape(outputs.shape).astype(outputs.dtype))
    return {"outputs": outputs, "inputs": inputs_grad, **params_grad}


@pytest.mark.parametrize(
    ("geometry", "dtype"),
    [(g, jnp.float32) for g in GEOMETRIES] + [(g, jnp.bfloat16) for g in GEOMETRIES[::4] + GEOMETRIES[-2:]],
    ids=str,
)
def test_values_and_gradients_equal_lax(geometry, dtype):
    layer, params, inputs = layer_and_arrays(geometry, dtype)

    @jax.jit
    def both(params, inputs):
        ours = values_and_gradients(lambda p, x: layer.apply({"params": p}, x), params, inputs)
        return ours, values_and_gradients(reference(geometry), params, inputs)

    ours, theirs = both(params, inputs)
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    for name, want in theirs.items():
        bound = 5e-6 if dtype == jnp.float32 else 2.0**-7 * taps**0.5 if name == "inputs" else 2.0**-8
        want = np.asarray(want, np.float64)
        assert ours[name].dtype == dtype
        assert ours[name].shape == want.shape
        assert np.abs(want).max() > 0
        np.testing.assert_allclose(np.asarray(ours[name], np.float64), want, rtol=0, atol=bound * np.abs(want).max())


def test_values_equal_plain_loops():
    size, padding, strides, dilation = (6, 7), ((1, 2), (0, 1)), (2, 3), (2, 1)
    inputs = np.random.default_rng(0).integers(-4, 5, (2, *size, 4)).astype(np.float32)
    kernel = np.random.default_rng(1).integers(-4, 5, (3, 2, 2, 6)).astype(np.float32)
    bias = np.arange(6, dtype=np.float32)
    padded = np.pad(inputs, ((0, 0), *padding, (0, 0)))
    height, width = (9 - 5) // 2 + 1, (8 - 2) // 3 + 1
    want = np.zeros((2, height, width, 6), np.float32)
    for h in range(height):
        for w in range(width):
            for o in range(6):
                group = o // 3
                for i in range(3):
                    for j in range(2):
                        pixel = padded[:, h * 2 + i * 2, w * 3 + j, group * 2 : group * 2 + 2]
                        want[:, h, w, o] += pixel @ kernel[i, j, :, o]
    layer = Conv(6, (3, 2), strides, padding, dilation, feature_group_count=2)
    got = layer.apply({"params": {"kernel": kernel, "bias": bias}}, inputs)
    np.testing.assert_array_equal(got, want + bias)  # integers: every sum is exact


@pytest.mark.parametrize("use_bias", [True, False])
def test_parameters_are_those_of_flax(use_bias):
    arguments = dict(features=4, kernel_size=(3, 2), strides=2, feature_group_count=2, use_bias=use_bias)
    inputs = jnp.ones((1, 5, 5, 6))
    ours = Conv(**arguments).init(jax.random.key(3), inputs)
    theirs = nn.Conv(**arguments).init(jax.random.key(3), inputs)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_dtype_computes_and_param_dtype_stores():
    inputs = jnp.ones((1, 5, 5, 2))
    outputs, variables = Conv(3, (3, 3), dtype=jnp.bfloat16).init_with_output(jax.random.key(0), inputs)
    assert outputs.dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    variables = Conv(3, (3, 3), param_dtype=jnp.bfloat16).init(jax.random.key(0), inputs)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"bfloat16"}


def loop_over_seeds(layer, inputs):
    """A training loop of two seeds: the program in which the choice of the layer matters."""

    def step(_, params):
        gradient = jax.grad(lambda p: jnp.sum(layer.apply({"params": p}, inputs) ** 2))(params)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)

    keys = jax.random.split(jax.random.key(0), 2)
    params = jax.vmap(lambda key: layer.init(key, inputs)["params"])(keys)
    return jax.jit(jax.vmap(lambda p: jax.lax.fori_loop(0, 3, step, p))), params


@pytest.mark.parametrize("groups", [1, 2])
def test_backend_decides_and_both_agree(groups, monkeypatch):
    layer = Conv(4, (3, 3), strides=2, feature_group_count=groups)
    inputs = jax.random.normal(jax.random.key(1), (2, 6, 6, 2))
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    run, params = loop_over_seeds(layer, inputs)
    assert "conv_general_dilated" not in str(jax.make_jaxpr(run)(params))
    on_cpu = run(params)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    run, params = loop_over_seeds(layer, inputs)
    assert "conv_general_dilated" in str(jax.make_jaxpr(run)(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), on_cpu, run(params))


@pytest.mark.parametrize("geometry", [g for g in GEOMETRIES if g[-1] == 1][::4], ids=str)
def test_unfold_times_kernel_is_the_convolution(geometry):
    layer, params, inputs = layer_and_arrays(geometry, jnp.float32)
    want = reference(geometry)(params, inputs)
    patches = layer.unfold(inputs)
    assert patches.shape == (2, want.shape[1] * want.shape[2], np.prod(layer.kernel_size) * inputs.shape[-1])
    got = patches @ params["kernel"].reshape(-1, layer.features) + params["bias"]
    np.testing.assert_allclose(got, want.reshape(got.shape), rtol=1e-5, atol=1e-5)


def test_unfold_inside_an_interceptor():
    layer = Conv(4, (3, 3))
    inputs = jax.random.normal(jax.random.key(1), (2, 6, 6, 3))
    params = layer.init(jax.random.key(0), inputs)["params"]
    seen = []

    def capture(call, args, kwargs, context):
        seen.append((context.method_name, context.module.unfold(args[0])))
        return call(*args, **kwargs)

    with nn.intercept_methods(capture):
        outputs = layer.apply({"params": params}, inputs)
    ((name, patches),) = seen
    assert name == "__call__"
    np.testing.assert_allclose(patches @ params["kernel"].reshape(-1, 4), outputs.reshape(2, 36, 4), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "shape", "sentence"),
    [
        (dict(padding="CIRCULAR"), None, "padding must be .* got 'CIRCULAR'"),
        (dict(padding="same"), None, "padding must be .* got 'same'"),
        (dict(padding=((1, 1),)), None, "padding must be"),
        (dict(padding=((1, 1), (1, 1, 1))), None, "padding must be"),
        (dict(padding=(1, 1.5)), None, "padding must be"),
        (dict(kernel_size=3), None, r"kernel_size must be a pair .* write \(3, 3\)"),
        (dict(kernel_size=(3,)), None, "kernel_size must be"),
        (dict(kernel_size=(3, 0)), None, "kernel_size must be"),
        (dict(strides=0), None, "strides must be"),
        (dict(strides=(1, 1, 1)), None, "strides must be"),
        (dict(strides=1.5), None, "strides must be"),
        (dict(kernel_dilation=(1, -1)), None, "kernel_dilation must be"),
        (dict(features=0), None, "features must be a positive multiple"),
        (dict(feature_group_count=3), None, "features must be a positive multiple"),
        (dict(feature_group_count=0), None, "features must be a positive multiple"),
        (dict(feature_group_count=2), (1, 8, 8, 3), "channels of the inputs must be a multiple"),
        (dict(), (8, 8, 3), r"expects inputs \[B, H, W, C\]"),
        (dict(padding="VALID"), (1, 2, 8, 3), "smaller than the kernel"),
        (dict(padding="VALID", kernel_dilation=4), (1, 8, 8, 3), "smaller than the kernel"),
    ],
)
def test_refused(fields, shape, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        layer = Conv(**{"features": 4, "kernel_size": (3, 3), **fields})
        assert shape is not None, "the field should have been refused at construction"
        layer.init(jax.random.key(0), jnp.ones(shape))
    assert str(error.value).count(". ") == 0


def test_unfold_refuses_groups():
    with pytest.raises(ValueError, match="unfold needs feature_group_count=1, got 2"):
        Conv(4, (3, 3), feature_group_count=2).unfold(jnp.ones((1, 5, 5, 2)))
