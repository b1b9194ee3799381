"""Interval arithmetic against corners of a box, against its formulas, and on networks."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import core, models
from ctrain_jax.ops import interval_bounds

CENTER, RADIUS = np.array([0.4, -0.7, 0.1]), np.array([0.5, 0.2, 0.9])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x @ jnp.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.0]]) + 1.0,
        lambda x: jnp.where(jnp.array([True, False, True]), -x, x / -2.0)[::-1][1:],
        lambda x: jnp.concatenate([jnp.tanh(x - 1.0), nn.relu(x), jnp.exp(x[:1])]).reshape(1, -1),
        lambda x: jnp.broadcast_to(x, (2, 3)).T.sum(1) - jnp.ones(3),
    ],
)
def test_where_an_answer_reads_an_entry_once_bounds_are_those_of_the_corners(function):
    corners = CENTER + RADIUS * np.array(list(itertools.product((-1, 1), repeat=3)))
    answers = np.asarray(jax.vmap(function)(jnp.asarray(corners, jnp.float32)))
    center, radius = interval_bounds(function, jnp.asarray(CENTER, jnp.float32), jnp.asarray(RADIUS, jnp.float32))
    np.testing.assert_allclose(center - radius, answers.min(0), atol=1e-6)
    np.testing.assert_allclose(center + radius, answers.max(0), atol=1e-6)


def test_a_product_of_two_boxes():
    rng = np.random.default_rng(0)
    (w, x), (dw, dx) = ([scale * rng.uniform(size=shape) - 0.2 for shape in ((4, 3), 3)] for scale in (1.0, 0.0))
    dw, dx = np.abs(dw), np.abs(dx)
    pair = [jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree) for tree in ((w, x), (dw, dx))]
    center, radius = interval_bounds(lambda tree: tree[0] @ tree[1], *pair)
    np.testing.assert_allclose(center, w @ x, atol=1e-6)
    np.testing.assert_allclose(radius, np.abs(w) @ dx + dw @ (np.abs(x) + dx), atol=1e-6)


@pytest.mark.parametrize("net", [models.MLP(4, hidden=(6,), norm="batch"), models.CNN(4, widths=(3,))])
def test_no_network_of_a_box_answers_beyond_the_bounds(net):
    model, x = core.from_linen(net), jax.random.normal(jax.random.key(0), (3, 4, 4))
    made = jax.jit(model.init)(jax.random.key(1), x)

    def function(params):
        return model.apply(made._replace(params=params), x)[0].logits

    leaves, tree = jax.tree.flatten(made.params)

    @jax.jit
    def beyond(key):
        keys = jax.random.split(key, len(leaves))
        corner = [p + 0.05 * jax.random.rademacher(k, p.shape, p.dtype) for k, p in zip(keys, leaves, strict=True)]
        return jnp.abs(function(jax.tree.unflatten(tree, corner)) - center) - radius

    bounds = jax.jit(lambda radius: interval_bounds(function, made.params, radius))
    center, radius = bounds(jax.tree.map(lambda p: jnp.full_like(p, 0.05), made.params))
    found = np.stack([beyond(key) for key in jax.random.split(jax.random.key(2), 100)])
    assert found.max() < 1e-5 and found.max() > -np.median(radius)
    same, none = bounds(jax.tree.map(jnp.zeros_like, made.params))
    np.testing.assert_allclose(same, jax.jit(function)(made.params), atol=1e-6)
    assert not np.any(none)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="interval_bounds knows no bounds of sin: use linear maps"):
        interval_bounds(jnp.sin, jnp.zeros(2), jnp.ones(2))
    with pytest.raises(ValueError, match="interval_bounds knows no bounds of div"):
        interval_bounds(lambda x: 1 / x, jnp.zeros(2), jnp.ones(2))
    with pytest.raises(ValueError, match="interval_bounds knows no bounds of convert_element_type"):
        interval_bounds(lambda x: x.astype(int), jnp.full(2, 0.9), jnp.full(2, 0.5))
