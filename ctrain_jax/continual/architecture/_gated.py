"""A block of class attention whose units have gates, and the projections that lead drifted features back."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.core import tag
from ctrain_jax.ops import ridge, straight_through

Gates = dict[str, jax.Array]
# Which gates what a layer reads has, and what it gives.
SIDES = {
    "query": ("width", "width"),
    "key": ("width", "width"),
    "value": ("width", "width"),
    "out": ("width", "width"),
    "up": ("width", "hidden"),
    "down": ("hidden", "width"),
}


def draw_block(rng: jax.Array, sizes: dict[str, int]) -> Any:
    """Parameters of the layers, for so many units of each kind."""
    return {
        name: {"kernel": drawn(tag(rng, name), (sizes[a], sizes[b])), "bias": jnp.zeros(sizes[b])}
        for name, (a, b) in SIDES.items()
    }


def draw_gates(rng: jax.Array, sizes: dict[str, int]) -> Gates:
    """What gates are made of; open where it is above 0."""
    return {name: 0.1 * jax.random.normal(tag(rng, name), (size,)) for name, size in sizes.items()}


def drawn(rng: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """A kernel that keeps the variance of what it reads."""
    return jax.random.normal(rng, shape) / math.sqrt(shape[0])


def soft_gate(e: jax.Array, sharpness: jax.Array, sharpest: jax.Array) -> jax.Array:
    """`sigmoid(sharpness * e)`, with the gradient of `sharpest * sigmoid(e)`: that of a sharp one is nearly 0."""
    return straight_through(jax.lax.stop_gradient(jax.nn.sigmoid(sharpness * e)), sharpest * jax.nn.sigmoid(e))


def close_gates(masks: Gates, gates: Gates, index: jax.Array) -> Gates:
    """Masks bool [T, ...], where those of one experience are which of its gates are open."""
    return jax.tree.map(lambda bank, e: bank.at[index].set(e > 0), masks, gates)


def class_attention(block: Any, gates: Gates, token: jax.Array, x: jax.Array, heads: int) -> jax.Array:
    """What a class token [D] becomes of tokens [B, L, D]: [B, D]."""

    def layer(name, rows):
        before, after = SIDES[name]
        return ((rows * gates[before]) @ block[name]["kernel"] + block[name]["bias"]) * gates[after]

    def parts(name, rows):
        return layer(name, rows).reshape(len(x), -1, heads, x.shape[-1] // heads)

    first = jnp.broadcast_to(token, (len(x), 1, x.shape[-1]))
    rows = _normal(jnp.concatenate([first, x], 1))
    query, key, value = parts("query", rows[:, :1]), parts("key", rows), parts("value", rows)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(x.shape[-1] / heads)
    seen = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value).reshape(len(x), -1)
    answer = token + layer("out", seen)
    return answer + layer("down", jax.nn.gelu(layer("up", _normal(answer))))


def still(block: Any, protected: Gates) -> Any:
    """Masks like the block: weights between protected units, and biases of those."""

    def one(name, bias):
        before, after = (protected[side] for side in SIDES[name])
        return after if bias else before[:, None] & after

    return {name: {part: one(name, part == "bias") for part in layer} for name, layer in block.items()}


class Pairs(NamedTuple):
    """Sums over features before and after a drift."""

    gram: jax.Array  # float32 [D + 1, D + 1]
    cross: jax.Array  # float32 [D + 1, D]


def no_pairs(width: int) -> Pairs:
    """Of no rows."""
    return Pairs(jnp.zeros((width + 1, width + 1)), jnp.zeros((width + 1, width)))


def add_pairs(sums: Pairs, new: jax.Array, old: jax.Array, weights: jax.Array) -> Pairs:
    """With rows [N, D] of some weights [N]."""
    rows = jnp.concatenate([new, jnp.ones((len(new), 1))], 1)
    weighed = (rows * weights[:, None]).T
    # Features of one network are nearly collinear, and `ridge` factors their products.
    with jax.default_matmul_precision("highest"):
        return Pairs(sums.gram + weighed @ rows, sums.cross + weighed @ (old - new))


def drift_projection(sums: Pairs, gamma: jax.Array) -> Any:
    """The affine map from new features to old ones, by ridge regression around the identity."""
    width = sums.cross.shape[-1]
    found = ridge(sums.gram, sums.cross, jnp.append(jnp.full(width, gamma), 0.0))
    return {"kernel": jnp.eye(width) + found[:-1], "bias": found[-1]}


def cascade(x: jax.Array, back: Any) -> jax.Array:
    """Features as each experience knew them [T, ...], by a projection for each, stacked: the last one comes first."""

    def one(x, projection):
        return x @ projection["kernel"] + projection["bias"], x

    return jax.lax.scan(one, x, back, reverse=True)[1]


def _normal(x: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
