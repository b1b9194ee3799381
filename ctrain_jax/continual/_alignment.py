"""A head that is fit to samples of a Gaussian for each class, and the Gaussians of an experience."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Context, TrainState
from ctrain_jax.ops import ClassGaussians, LinearHead, add_to_gaussians, fit_head, gaussian_sampler


def measured(gaussians: ClassGaussians, ts: TrainState, ctx: Context) -> ClassGaussians:
    """In `end`: with those of the features of the experience; a class that comes again is measured anew."""

    def add(found, batch, b):
        outputs, _ = ctx.forward(ts.params, batch["inputs"], model_state=ts.model_state, task=batch["task"])
        features: Any = outputs.features
        return add_to_gaussians(found, features, batch["labels"], batch["weights"])

    found = ctx.scan(add, jax.tree.map(jnp.zeros_like, gaussians), size=256)

    def newest(new, old):
        return jnp.where((found.counts > 0).reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(newest, found, gaussians)


def aligned(
    head: LinearHead,
    gaussians: ClassGaussians,
    rng: jax.Array,
    loss: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    tx: optax.GradientTransformation,
    steps: int,
    samples: int,
) -> LinearHead:
    """The head after steps on `samples` features of each class that has a Gaussian, down `loss(logits, labels, where)`.

    `where`, bool [N, C], are the classes that a row is told apart from.
    """
    seen, sampler = gaussians.counts > 0, gaussian_sampler(gaussians)
    labels = jnp.repeat(jnp.arange(len(seen)), samples)

    def draw(i):
        drawn = sampler(jax.random.fold_in(rng, i), samples)
        return drawn.reshape(len(labels), -1), labels

    def own(logits, labels):
        # Of a class never seen a finite number, times 0; steps are as long with few classes as with all.
        where = seen | jax.nn.one_hot(labels, len(seen), dtype=bool)
        return seen[labels] / seen.mean() * loss(logits, labels, where)

    return fit_head(head, draw, own, tx, steps)
