"""Answers are cosines of two towers, a name that is not asked for changes nothing, and what is no name is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax.models import GPT, Clip, ViT

FIELDS = {"dim": 4, "patch": 4, "width": 8, "depth": 1, "heads": 2}
NAMES, INPUTS = ((0, 1), (0, 2), (3, 1)), np.random.default_rng(0).normal(size=(5, 8, 8)).astype(np.float32)


def test_logits_are_scaled_cosines_and_a_new_name_adds_no_parameter():
    model, more = (Clip(len(names), names, scale=7.0, **FIELDS) for names in (NAMES, (*NAMES, (3, 2))))
    shapes = jax.eval_shape(model.init, jax.random.key(0), INPUTS)
    noise = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: 0.4 * noise.standard_normal(x.shape).astype(np.float32), shapes)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def answers(variables):
        params = variables["params"]
        image = ViT(4, 4, 8, 1, 2).apply({"params": params["image"]}, INPUTS).logits
        text = GPT(4, 8, 1, 2, context=2).apply({"params": params["text"]}, jnp.asarray(NAMES)).features[:, -1]
        placed = image, text @ params["text_projection"]["kernel"]
        return placed, model.apply(variables, INPUTS), more.apply(variables, INPUTS).logits

    placed, outputs, of_more = answers(variables)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in placed)
    np.testing.assert_allclose(outputs.features, image, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(outputs.logits, 7.0 * image @ text.T, rtol=1e-4, atol=1e-5)
    assert of_more.shape == (5, 4)
    np.testing.assert_allclose(of_more[:, :3], outputs.logits, rtol=1e-4, atol=1e-5)


def test_what_it_refuses():
    for names in (NAMES[:2], ((0, 1), (0, 2), (3,)), ((), (), ()), (0, 1, 2)):
        with pytest.raises(ValueError, match="names must be 3 lists of tokens of one length"):
            Clip(3, names)
    for names, vocabulary in ((NAMES, 3), (((0, 1), (0, -1), (3, 1)), None)):
        with pytest.raises(ValueError, match="tokens from 0 to below vocabulary"):
            Clip(3, names, vocabulary=vocabulary)
    for names in (("bag", "hat", "tie"), ((0.0, 1.0), (0.0, 2.0), (3.0, 1.0))):
        with pytest.raises(ValueError, match="names must be of tokens, whole numbers from 0"):
            Clip(3, names)
    with pytest.raises(ValueError, match="width must be a multiple of heads"):
        Clip(3, NAMES, width=9)
    with pytest.raises(ValueError, match="scale must be above 0"):
        Clip(3, NAMES, scale=0.0)
