"""What all the models promise: shapes, features, dtypes, BatchNorm, and refusals in one sentence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax.models import CNN, MLP, ResNet18, ViT

# model, shape of one input, number of features
MODELS = {
    "mlp": (MLP(5, hidden=(7, 6)), (4, 3), 6),
    "mlp_linear": (MLP(5, hidden=()), (4, 3), 12),
    "mlp_batch": (MLP(5, hidden=(7, 6), norm="batch"), (12,), 6),
    "cnn": (CNN(5, widths=(2, 3)), (9, 10, 3), 2 * 2 * 3),
    "cnn_grey_mean": (CNN(5, widths=(2, 3), norm="batch", pool="mean"), (8, 8), 3),
    "cnn_group": (CNN(5, widths=(4,), norm="group"), (5, 6, 1), 2 * 3 * 4),
    "resnet": (ResNet18(5, width=2), (12, 12, 3), 16),
    "resnet_grey_group": (ResNet18(5, width=2, norm="group"), (12, 12), 16),
    "vit": (ViT(5, patch=2, width=8, depth=1, heads=2), (6, 4, 3), 8),
    "vit_grey_mean": (ViT(5, patch=3, width=8, depth=1, heads=2, pool="mean"), (6, 6), 8),
}


# The programs run once, so quick compilation matters more than their speed.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def inputs_of(shape, batch):
    return np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)


def random_variables(model, inputs):
    """Every leaf random, because the zeros and ones of a new network would hide mistakes; variances are positive."""
    noise = np.random.default_rng(1)

    def leaf_of(path, leaf):
        is_variance = path[-1].key == "var"
        values = noise.uniform(0.5, 1.5, leaf.shape) if is_variance else 0.3 * noise.standard_normal(leaf.shape)
        return values.astype(leaf.dtype)

    return jax.tree.map_with_path(leaf_of, jax.eval_shape(model.init, jax.random.key(0), inputs))


@functools.cache
def answers(name):
    """Variables, and (outputs, state) in evaluation and in training, of three rows."""
    model, shape, _ = MODELS[name]
    inputs = inputs_of(shape, 3)
    variables = random_variables(model, inputs)
    run = jit(lambda v: [model.apply(v, inputs, train=train, mutable=["batch_stats"]) for train in (False, True)])
    return variables, *run(variables)


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_features(name):
    num_features = MODELS[name][2]
    variables, *runs = answers(name)
    for outputs, _ in runs:
        assert outputs.logits.shape == (3, 5)
        assert outputs.features.shape == (3, num_features)
        head = variables["params"]["head"]
        logits = outputs.features @ head["kernel"] + head["bias"]
        np.testing.assert_allclose(logits, outputs.logits, rtol=1e-5, atol=1e-5)
        assert np.ptp(outputs.logits, axis=0).min() > 0  # rows are told apart


@pytest.mark.parametrize("name", MODELS)
def test_parameters_do_not_depend_on_the_batch(name):
    model, shape, _ = MODELS[name]
    shapes = [jax.eval_shape(model.init, jax.random.key(0), inputs_of(shape, batch)) for batch in (1, 4)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ["mlp_batch", "cnn_grey_mean", "resnet", "vit"])
def test_bfloat16_computes_and_float32_keeps(name):
    model, shape, _ = MODELS[name]
    low, inputs = model.clone(dtype=jnp.bfloat16), inputs_of(shape, 3)
    variables, _, (full, _) = answers(name)
    assert jax.eval_shape(low.init, jax.random.key(0), inputs) == jax.eval_shape(lambda: variables)

    def run(variables, **options):
        return low.apply(variables, inputs, train=True, mutable=["batch_stats", "intermediates"], **options)

    layers = jax.eval_shape(lambda: run(variables, capture_intermediates=True))[1]["intermediates"]
    del layers["__call__"]  # of the model itself
    (logits,) = layers.pop("head")["__call__"]
    assert logits.dtype == jnp.float32
    assert {leaf.dtype.name for leaf in jax.tree.leaves(layers)} == {"bfloat16"}
    outputs, state = jit(run)(variables)
    assert outputs.logits.dtype == outputs.features.dtype == jnp.float32
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} <= {"float32"}
    np.testing.assert_allclose(outputs.logits, full.logits, rtol=0, atol=0.1 * np.abs(full.logits).max())


@pytest.mark.parametrize("name", ["mlp_batch", "cnn_grey_mean", "resnet"])
def test_batch_statistics_move_only_in_training(name):
    variables, (_, evaluated), (_, trained) = answers(name)
    trees = (variables["batch_stats"], evaluated["batch_stats"], trained["batch_stats"])
    for before, still, moved in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_array_equal(before, still)
        assert (np.asarray(before) != moved).all()


@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn_group", "resnet_grey_group", "vit"])
def test_without_batch_norm_there_is_no_state(name):
    variables, (evaluated, state), (trained, _) = answers(name)
    assert set(variables) == {"params"}
    assert not state
    np.testing.assert_array_equal(evaluated.logits, trained.logits)


@pytest.mark.parametrize("name", ["cnn", "cnn_group", "vit"])
def test_a_row_stands_alone(name):
    model, shape, _ = MODELS[name]
    variables, (together, _), _ = answers(name)
    alone = jit(model.apply)(variables, inputs_of(shape, 3)[:1])
    np.testing.assert_allclose(alone.logits, together.logits[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cnn_grey_mean", "vit_grey_mean"])
def test_a_grey_image_needs_no_channel(name):
    model, shape, _ = MODELS[name]
    variables, (without, _), _ = answers(name)
    with_channel = jit(model.apply)(variables, inputs_of(shape, 3)[..., None])
    np.testing.assert_allclose(with_channel.logits, without.logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "shape", "dtype", "sentence"),
    [
        (lambda: MLP(0), None, None, "num_classes expects a whole number of at least 1, got 0"),
        (lambda: CNN(-1), None, None, "num_classes expects a whole number of at least 1, got -1"),
        (lambda: ResNet18(2.0), None, None, "num_classes expects a whole number of at least 1, got 2.0"),
        (lambda: ViT(True), None, None, "num_classes expects a whole number of at least 1, got True"),
        (lambda: MLP(5, hidden=(4, 0)), None, None, "Each width in hidden expects a whole number of at least 1"),
        (lambda: MLP(5, norm="group"), None, None, "norm must be one of 'none', 'batch', got 'group'"),
        (lambda: CNN(5, widths=(0,)), None, None, "Each width in widths expects a whole number of at least 1"),
        (lambda: CNN(5, norm="layer"), None, None, "norm must be one of 'none', 'batch', 'group', got 'layer'"),
        (lambda: CNN(5, pool="max"), None, None, "pool must be one of 'flatten', 'mean', got 'max'"),
        (lambda: ResNet18(5, width=0), None, None, "width expects a whole number of at least 1"),
        (lambda: ResNet18(5, norm="none"), None, None, "norm must be one of 'batch', 'group', got 'none'"),
        (lambda: ViT(5, pool="max"), None, None, "pool must be one of 'cls', 'mean', got 'max'"),
        (lambda: ViT(5, width=10), None, None, "width must be a multiple of heads=4, got 10"),
        (lambda: ViT(5, depth=0), None, None, "depth expects a whole number of at least 1"),
        (lambda: ViT(5, patch=7), (2, 28, 30, 1), "float32", "multiple of patch=7 on both sides, got 28 x 30"),
        (lambda: ViT(5, patch=7), (2, 30, 28), "float32", "multiple of patch=7 on both sides, got 30 x 28"),
        (lambda: CNN(5), (2, 3, 8, 1), "float32", "2 blocks need images of at least 4 pixels"),
        (lambda: CNN(5), (2, 64), "float32", r"expects inputs \[B, H, W, C\] or \[B, H, W\]"),
        (lambda: ResNet18(5), (2, 8, 8, 3), "uint8", "inputs must be floats"),
        (lambda: MLP(5), (2, 8), "int32", "inputs must be floats"),
        (lambda: MLP(5), (8,), "float32", "inputs must be floats"),
    ],
)
def test_refused(build, shape, dtype, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        model = build()
        assert shape is not None, "the field should have been refused at construction"
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape, dtype))
    assert str(error.value).count(". ") == 0
