"""scale_by_session: its factors and its two ends; a whole network in sessions of a few shots (prompts: cpe_clip)."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, optim, streams
from experiments._evidence._common import Check, Claim, distance, estimate, gate, means, runs

LENS, NEW, STEPS = [40, 20, 20], [6, 2, 2], 100


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `optim.scale_by_session`."""
    adamw = optax.adamw(1e-2, weight_decay=0.1)
    plain = _way(adamw)
    same = _way(optax.chain(adamw, optim.scale_by_session(LENS, NEW, damping=0.0)))
    still = _way(optax.chain(adamw, optim.scale_by_session(LENS, NEW, damping=math.inf)))
    damped = np.diff(_way(optax.chain(optax.sgd(1.0), optim.scale_by_session(LENS, NEW))), axis=0)
    by_hand = np.repeat([1, 2 / 8, 2 / 10], LENS)[:, None] * np.diff(_way(optax.sgd(1.0)), axis=0)
    first = LENS[0]
    drop, novel = _few_shots(seeds)
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
        *saved(
            f"Fashion-MNIST, 6 classes, then 2 sessions of 2 classes and 5 shots, {STEPS} steps each, MLP, Adam, "
            "local_loss",
            drop,
            novel,
        ),
    ]


def saved(where: str, drop: dict[str, np.ndarray], novel: dict[str, np.ndarray]) -> list[Claim]:
    """What "damped" saves of the base classes and what it costs new ones, against "plain"."""
    return [
        estimate(
            f"{where}: points of base accuracy lost with damping, less 0.6 of those without ({means(**drop)})",
            drop["damped"] - 0.6 * drop["plain"],
            most=0,
        ),
        estimate(
            f"the same: points of novel accuracy above no damping ({means(**novel)})",
            novel["damped"] - novel["plain"],
            least=-3,
        ),
    ]


def _few_shots(seeds: Sequence[int]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Points of base accuracy lost, and novel accuracy at the end, in percent [S]."""
    stream = streams.few_shot_class_incremental(streams.fashion_mnist(), 3, base_classes=NEW[0], heads="seen")
    model, drop, novel = core.from_linen(models.MLP(10, hidden=(64,))), {}, {}
    for name, damping in (("plain", 0.0), ("damped", 1.0)):
        tx = optax.chain(optax.adam(1e-3), optim.scale_by_session([STEPS] * 3, NEW, damping=damping))
        learner = core.make_learner(model, continual.local_loss(), tx, stream, batch_size=32, steps=STEPS)
        accuracy = 100 * np.asarray(runs(learner, seeds).accuracy)
        drop[name], novel[name] = accuracy[:, 0, 0] - accuracy[:, -1, 0], accuracy[:, -1, 1:].mean(1)
    return drop, novel


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
