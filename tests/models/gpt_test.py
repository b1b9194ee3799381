"""The GPT against numpy in float64, and what it may not see."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import core, streams
from ctrain_jax.models import GPT
from tests.models.vit_test import naive_blocks

TOKENS = np.random.default_rng(0).integers(0, 11, (3, 6))


def naive(params, tokens):
    x = params["embed"]["embedding"][tokens] + params["position"][: tokens.shape[1]]
    features = naive_blocks(params, x, causal=True)
    return features @ params["embed"]["embedding"].T, features


@pytest.fixture(scope="module")
def made():
    model = GPT(11, width=8, depth=2, heads=2, mlp_ratio=3, context=7)
    params = jax.jit(model.init)(jax.random.key(0), TOKENS)["params"]
    leaves, treedef = jax.tree.flatten(params)
    noise = np.random.default_rng(1)
    params = treedef.unflatten([p + 0.3 * noise.standard_normal(p.shape).astype(np.float32) for p in leaves])
    return model, params, jax.jit(model.apply)


def test_equals_numpy(made):
    _, params, apply = made
    logits, features = naive(jax.tree.map(lambda p: np.asarray(p, np.float64), params), TOKENS)
    outputs = apply({"params": params}, TOKENS)
    np.testing.assert_allclose(outputs.logits, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs.features, features, rtol=1e-4, atol=1e-4)


def test_no_token_sees_a_later_one(made):
    _, params, apply = made
    other = TOKENS.copy()
    other[:, 4] = (other[:, 4] + 1) % 11
    before, after = (apply({"params": params}, tokens).logits for tokens in (TOKENS, other))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.abs(before[:, 4:] - after[:, 4:]).max(-1).min() > 1e-3


def test_bfloat16_computes_and_float32_keeps(made):
    model, params, apply = made
    low = model.clone(dtype=jnp.bfloat16)
    outputs = jax.jit(low.apply)({"params": params}, TOKENS)
    assert outputs.logits.dtype == outputs.features.dtype == jnp.float32
    exact = apply({"params": params}, TOKENS).logits
    assert 1e-4 < np.abs(outputs.logits - exact).max() < 0.1 * np.abs(exact).max()


def test_124_million_parameters():
    model = GPT(50257, width=768, depth=12, heads=12, context=1024)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 124_439_808


def test_it_learns_which_token_comes_next():
    """Counting up is one language, counting down another: learned one after the other."""
    start = np.random.default_rng(0).integers(0, 8, (200, 1))
    steps = np.where(np.arange(200) % 2, 1, -1)[:, None]
    tokens = (start + steps * np.arange(6)) % 8
    language = np.arange(200) % 2
    source = streams.arrays(tokens, language, tokens[:40], language[:40])
    stream = streams.class_incremental(source, 2)
    model = core.from_linen(GPT(8, width=16, depth=1, heads=2, context=6))
    learner = core.make_learner(
        model, core.identity(), optax.adam(1e-2), stream, problem=core.next_token(), batch_size=20, steps=60
    )
    result = core.run_stream(learner, 0)
    accuracy = np.asarray(result.accuracy)
    # One direction is no longer known after the other; where a row begins cannot tell which one it is.
    assert accuracy[0, 0] == accuracy[1, 1] == 1.0 and accuracy[0, 1] < 0.3 and accuracy[1, 0] < 0.3
    assert float(result.metrics["nats"][1, 1]) < 0.1 < 1.0 < float(result.metrics["nats"][1, 0])


@pytest.mark.parametrize(
    ("build", "inputs", "sentence"),
    [
        (lambda: GPT(0), TOKENS, "num_classes expects a whole number of at least 1, got 0"),
        (lambda: GPT(11, context=0), TOKENS, "context expects a whole number of at least 1, got 0"),
        (lambda: GPT(11, width=10, heads=4), TOKENS, "width must be a multiple of heads=4, got 10"),
        (lambda: GPT(11, context=4), TOKENS, "at most context=4 tokens, got 6: cut them, or raise context"),
        (lambda: GPT(11), TOKENS.astype(np.float32), "tokens .* of an integer dtype, got float32"),
        (lambda: GPT(11), TOKENS[0], r"tokens \[B, T\]"),
    ],
)
def test_refused(build, inputs, sentence):
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(build().init, jax.random.key(0), inputs)
