"""scale_by_session: its factors, and its two ends; what it does for prompts is beside cpe_clip."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import optim
from experiments._evidence._common import Check, Claim, distance, gate

LENS, NEW = [40, 20, 20], [6, 2, 2]


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `optim.scale_by_session`."""
    adamw = optax.adamw(1e-2, weight_decay=0.1)
    plain = _way(adamw)
    same = _way(optax.chain(adamw, optim.scale_by_session(LENS, NEW, damping=0.0)))
    still = _way(optax.chain(adamw, optim.scale_by_session(LENS, NEW, damping=math.inf)))
    damped = np.diff(_way(optax.chain(optax.sgd(1.0), optim.scale_by_session(LENS, NEW))), axis=0)
    by_hand = np.repeat([1, 2 / 8, 2 / 10], LENS)[:, None] * np.diff(_way(optax.sgd(1.0)), axis=0)
    first = LENS[0]
    return [
        gate("damping 0: AdamW less itself (largest difference of parameters)", distance(same, plain), most=0),
        gate(
            "damping without bound: AdamW moves after the first session by (largest)",
            distance(still[first:], np.broadcast_to(still[first], still[first:].shape)),
            most=0,
        ),
        gate(
            "the same: the first session less that of AdamW", distance(still[: first + 1], plain[: first + 1]), most=0
        ),
        gate("SGD: each step less its share of new classes by hand (largest)", distance(damped, by_hand), most=1e-6),
    ]


def _way(tx: optax.GradientTransformation) -> np.ndarray:
    """Where parameters are before and after each step of gradients that are drawn."""
    grads = jax.random.normal(jax.random.key(0), (sum(LENS), 5)) / 10

    def step(carry, grad):
        params, state = carry
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    start = jnp.ones(5)
    ways = jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), grads)[1])()
    return np.concatenate([start[None], ways])


CHECK = Check(
    "ctrain_jax.optim.scale_by_session",
    "D'Alessandro et al., Multimodal Parameter-Efficient Few-Shot Class Incremental Learning, ICCV workshops 2023, "
    "arXiv 2303.04751",
    claims,
    rows=(312,),
)
