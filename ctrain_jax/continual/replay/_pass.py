"""Rows of a memory in a forward pass of their own, which the losses of several methods read."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ctrain_jax.core import Batch, Context, Outputs, PyTree
from ctrain_jax.ops import BufferState, Memory


def replay_pass(
    memory: Memory,
    buffer: BufferState,
    num: int,
    params: PyTree,
    ctx: Context,
    rng: jax.Array,
    model_state: PyTree,
    replays: ArrayLike = True,
) -> tuple[Outputs, Batch, Batch, PyTree]:
    """Draws `num` rows and runs the model on them in training mode, for the hook `loss`.

    Args:
      memory: the functions of the memory.
      buffer: what it holds.
      num: rows to draw.
      params: to run the model with.
      ctx: of the hook.
      rng: of the draw, and of the model's own randomness.
      model_state: of the pass before.
      replays: bool, may be traced; False is as an empty memory.

    Returns:
      Outputs; the records of the rows; their batch, whose weights are 0 where the memory is empty; and the model state
      that follows: that of the pass before where the memory is empty, so that it leaves no trace in BatchNorm.
    """
    records, weights = memory.draw(buffer, rng, num, ctx.incoming)
    weights = weights * replays
    batch = ctx.fetch(records) | {"weights": weights}
    outputs, written = ctx.forward(
        params, batch["inputs"], model_state=model_state, train=True, rng=rng, task=batch["task"]
    )
    kept = jax.tree.map(lambda new, old: jnp.where(weights.sum() > 0, new, old), written, model_state)
    return outputs, records, batch, kept
