"""Gradients in closed form, and against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import analysis

PARAMS = {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([0.5, -1.0])}


def forward(params, inputs):
    return jnp.tanh(inputs @ params["kernel"] + params["bias"])


INPUTS = jnp.array([[0.2, -0.4], [1.0, 0.3], [-0.7, 0.1]])
TERMS = {
    "plasticity": lambda p: jnp.sum((forward(p, INPUTS) - 1) ** 2),
    "stability": lambda p: jnp.mean(forward(p, -INPUTS) ** 2),
    "decay": lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p)) / 2,
}


def test_norms_and_cosines_against_finite_differences():
    split = jax.jit(lambda p: analysis.gradient_split(TERMS, p))(PARAMS)
    flat, back = jax.flatten_util.ravel_pytree(PARAMS)
    step = 1e-2 * np.eye(flat.size, dtype=np.float32)
    grads = {
        name: np.array([(loss(back(flat + e)) - loss(back(flat - e))) / 2e-2 for e in step])
        for name, loss in TERMS.items()
    }
    for a, g in grads.items():
        np.testing.assert_allclose(split.norms[a], np.linalg.norm(g), rtol=2e-3)
        assert set(split.cosines[a]) == set(TERMS) - {a}
        for b, cosine in split.cosines[a].items():
            want = g @ grads[b] / np.linalg.norm(g) / np.linalg.norm(grads[b])
            np.testing.assert_allclose(cosine, want, atol=2e-3)
            assert cosine == split.cosines[b][a]
    # The gradient of the decay is the parameters.
    np.testing.assert_allclose(split.norms["decay"], np.linalg.norm(flat), rtol=1e-6)


def test_the_gradient_of_the_sum_has_the_norm_that_the_split_says():
    split = analysis.gradient_split(TERMS, PARAMS)
    names = list(TERMS)
    square = sum(split.norms[a] ** 2 for a in names)
    square += sum(split.norms[a] * split.norms[b] * split.cosines[a][b] for a in names for b in names if a != b)
    whole = jax.flatten_util.ravel_pytree(jax.grad(lambda p: sum(f(p) for f in TERMS.values()))(PARAMS))[0]
    np.testing.assert_allclose(jnp.sqrt(square), jnp.linalg.norm(whole), rtol=1e-5)


def test_scaling_a_term_scales_its_norm_and_turning_it_turns_its_cosines():
    decay = TERMS["decay"]
    split = analysis.gradient_split({"a": decay, "b": lambda p: 3 * decay(p), "c": lambda p: -decay(p)}, PARAMS)
    np.testing.assert_allclose(split.norms["b"], 3 * split.norms["a"], rtol=1e-6)
    np.testing.assert_allclose([split.cosines["a"]["b"], split.cosines["a"]["c"]], [1, -1], rtol=1e-6)


def test_no_gradient_has_no_direction():
    split = analysis.gradient_split({"new": TERMS["decay"], "old": lambda p: jnp.sum(p["bias"] * 0.0)}, PARAMS)
    assert split.norms["old"] == 0 and split.cosines["new"]["old"] == split.cosines["old"]["new"] == 0


def test_half_precision_does_not_overflow():
    params = jnp.full(1000, 300.0, jnp.float16)
    split = analysis.gradient_split({"a": lambda p: jnp.sum(p * p), "b": lambda p: jnp.sum(p)}, params)
    np.testing.assert_allclose(split.norms["a"], 600 * np.sqrt(1000), rtol=1e-3)
    np.testing.assert_allclose(split.cosines["a"]["b"], 1, rtol=1e-3)


def test_one_term_has_a_norm_and_none_is_refused():
    assert analysis.gradient_split({"a": TERMS["decay"]}, PARAMS).cosines == {"a": {}}
    with pytest.raises(ValueError, match="at least one term"):
        analysis.gradient_split({}, PARAMS)
