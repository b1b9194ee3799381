"""A linear head, fit to features that are drawn step by step: real ones, translated ones, samples of a distribution."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class LinearHead(NamedTuple):
    """`logits = features @ kernel + bias`."""

    kernel: jax.Array  # float32 [D, C]
    bias: jax.Array  # float32 [C]

    def __call__(self, features: jax.Array) -> jax.Array:
        """Logits [..., C] of features [..., D]."""
        return features @ self.kernel + self.bias


def fit_head(
    head: LinearHead,
    draw: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    tx: optax.GradientTransformation,
    steps: int,
) -> LinearHead:
    """Takes steps down the mean loss of drawn features; features have no gradient.

    Args:
      head: where to start.
      draw: `step -> (features [N, D], labels [N])`, for an int32 scalar.
      loss: `(logits [N, C], labels [N]) -> [N]`.
      tx: an optax transform.
      steps: how many.

    Returns:
      The head after them.
    """

    def step(i, carry):
        head, state = carry
        features, labels = draw(i)
        grads = jax.grad(lambda head: jnp.mean(loss(head(features), labels)))(head)
        updates, state = tx.update(grads, state, head)
        return optax.apply_updates(head, updates), state

    return jax.lax.fori_loop(0, steps, step, (head, tx.init(head)))[0]
