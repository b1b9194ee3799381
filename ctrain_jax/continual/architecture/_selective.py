"""Feature maps through a selective scan (Mamba), gated, with what its coefficients depend on."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.ops import selective_scan

Branch = dict[str, jax.Array]
KERNEL = 4  # positions that the convolution before a scan reads


class Projected(NamedTuple):
    """What becomes of maps `[B, L, D]`, and how."""

    features: jax.Array  # [B, W]
    gate: jax.Array  # [B, L, W], before its activation
    patterns: tuple[jax.Array, ...]  # time [B, L, R], what enters and what is read [B, L, N], by rows


def draw_branch(rng: jax.Array, places: int, channels: int, width: int, states: int, rank: int) -> Branch:
    """Parameters as PyTorch draws them, uniform within the root of 1 / fan-in, and as Mamba starts its scan.

    Those of a place are uniform within 0.02, in the authors' code normal with that deviation.
    """
    fans = {
        "wide": ((channels, 2 * channels), channels),
        "wide_bias": ((2 * channels,), channels),
        "narrow": ((2 * channels, width), 2 * channels),
        "place": ((places, width), 1),
        "gate": ((width, width), width),
        "in": ((width, width), width),
        "conv": ((KERNEL, width), KERNEL),
        "conv_bias": ((width,), KERNEL),
        "read": ((width, rank + 2 * states), width),
        "time": ((rank, width), rank),
        "time_bias": ((width,), 1),
    }
    ends = np.cumsum([math.prod(shape) for shape, _ in fans.values()])
    # One draw for all: each one costs a program that starts a learner a tenth of a second of compilation.
    drawn = jnp.split(jax.random.uniform(rng, (int(ends[-1]),), minval=-1.0, maxval=1.0), ends[:-1])
    params = {
        name: values.reshape(shape) / math.sqrt(fan)
        for (name, (shape, fan)), values in zip(fans.items(), drawn, strict=True)
    }
    # What softplus makes log-uniform between 0.001 and 0.1.
    time = 0.01 * 10.0 ** params["time_bias"]
    return params | {
        "place": 0.02 * params["place"],
        "time_bias": time + jnp.log(-jnp.expm1(-time)),
        "norm": jnp.ones((places, 2 * channels)),
        "norm_bias": jnp.zeros((places, 2 * channels)),
        "a_log": jnp.tile(jnp.log(jnp.arange(1.0, states + 1)), (width, 1)),
        "skip": jnp.ones(width),
    }


def apply_branch(p: Branch, maps: jax.Array, grid: tuple[int, int]) -> Projected:
    """Two dense layers at each position, its place, and a gated scan in four directions; the mean over positions."""
    x = maps @ p["wide"] + p["wide_bias"]
    x = jax.nn.standardize(x, (-2, -1), epsilon=1e-5) * p["norm"] + p["norm_bias"]
    x = jax.nn.leaky_relu(x, 0.1) @ p["narrow"] + p["place"]
    gate, x = x @ p["gate"], x @ p["in"]

    ways = directions(grid)
    x = jnp.pad(x[:, ways], [(0, 0), (0, 0), (KERNEL - 1, 0), (0, 0)])
    x = sum(p["conv"][k] * x[:, :, k : k + ways.shape[1]] for k in range(KERNEL)) + p["conv_bias"]
    x = jax.nn.silu(x)
    (rank, _), (_, states) = p["time"].shape, p["a_log"].shape
    time, b, c = jnp.split(x @ p["read"], (rank, rank + states), -1)
    delta = jax.nn.softplus(time @ p["time"] + p["time_bias"])
    y = selective_scan(x, delta, -jnp.exp(p["a_log"]), b, c, p["skip"])
    y = jnp.sum(y[:, np.arange(len(ways))[:, None], np.argsort(ways)], 1)
    return Projected(jnp.mean(jax.nn.silu(gate) * y, 1), gate, (time[:, 0], b[:, 0], c[:, 0]))


def directions(grid: tuple[int, int]) -> np.ndarray:
    """int [4, L], orders of the positions of a map: by rows and by columns, forward and backward."""
    places = np.arange(grid[0] * grid[1]).reshape(grid)
    forward = np.stack([places.ravel(), places.T.ravel()])
    return np.concatenate([forward, forward[:, ::-1]])
