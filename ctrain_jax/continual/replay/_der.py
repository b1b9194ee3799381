"""DER: dark experience replay.

Buzzega et al., "Dark Experience for General Continual Learning: a Strong, Simple Baseline", NeurIPS 2020, arXiv
2004.07211. As in the authors' code (aimagelab/mammoth, opened), the replayed rows are a forward pass of their own in
training mode, and the stored logits are those of the pass before the update. Written from the equations.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.continual.replay._pass import replay_pass
from ctrain_jax.core import Context, Method, PyTree, tag, weighted_mean
from ctrain_jax.ops import BufferState, Memory, check_non_negative, check_size, memory


class DerState(NamedTuple):
    """The memory and the weight."""

    buffer: BufferState  # `size` records: row number, experience, logits float32 [C]
    alpha: jax.Array  # float32 []


def der(size: int, *, alpha: float = 0.5, batch_size: int | None = None, policy: str = "reservoir") -> Method:
    r"""Replay rows with the logits that the model gave them when they arrived, and without their labels.

    With rows :math:`M'` drawn from the memory and stored logits :math:`z`, the step adds

    .. math:: \alpha \, \frac{1}{|M'| C} \sum_{m \in M'} \| f(x_m) - z_m \|_2^2

    to the loss of the incoming batch: `derpp` with `beta=0`, without its second pass.

    Args:
      size: rows of the memory; a row number and C logits are stored for each.
      alpha: weight of the stored logits; the paper uses 0.1 to 1.
      batch_size: rows of the draw; as many as the incoming ones by default.
      policy: as in `er`.

    Returns:
      The method.

    Raises:
      ValueError: `size` or `batch_size` below 1, a negative `alpha`, an unknown policy.

    Example:
      >>> der(500, alpha=0.3).name
      'der'
    """
    rows = memory(size, policy)
    check_non_negative("alpha", alpha)
    if batch_size is not None:
        check_size("batch_size", batch_size)

    def init(rng, params, ctx):
        return DerState(logit_buffer(rows, ctx), jnp.asarray(alpha, jnp.float32))

    def loss(s, params, ctx):
        distance, model_state = logit_distance(rows, s.buffer, batch_size or ctx.spec.batch_size, params, ctx)
        return s.alpha * distance, {"model_state": model_state}

    def update(s, ts, ctx):
        return s._replace(buffer=add_logits(rows, s.buffer, ts.params, ctx)), ts

    return Method("der", init=init, loss=loss, update=update, needs=("labels",))


def logit_buffer(rows: Memory, ctx: Context) -> BufferState:
    """An empty memory of rows and their logits."""
    return rows.init(ctx.spec, logits=jax.ShapeDtypeStruct(ctx.spec.outputs.logits.shape[-1:], jnp.float32))


def logit_distance(
    rows: Memory, buffer: BufferState, num: int, params: PyTree, ctx: Context
) -> tuple[jax.Array, PyTree]:
    """The mean squared distance of `num` rows to their stored logits, and the model state after their pass."""
    rng = tag(ctx.rng, "logits")
    outputs, records, batch, model_state = replay_pass(rows, buffer, num, params, ctx, rng, ctx.model_state)
    distance = jnp.square(outputs.logits - records["logits"]).mean(-1)
    return weighted_mean(distance, batch["weights"]), model_state


def add_logits(rows: Memory, buffer: BufferState, params: PyTree, ctx: Context) -> BufferState:
    """The memory after the incoming rows, with their logits of the pass before the update."""
    logits = ctx.outputs.logits[: ctx.spec.batch_size].astype(jnp.float32)
    return rows.add(buffer, ctx.rng, ctx.incoming, params, logits=logits)
