"""What is known of each row of an experience, all at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Batch = dict[str, Any]


def each_row(ctx: Any, fn: Callable[[Batch], Any], beyond: Any) -> Any:
    """What a function makes of the rows of an experience, in their order.

    Args:
      ctx: of `begin` or `end`.
      fn: `batch of B rows -> tree of [B, ...]`.
      beyond: a tree of `[...]` that stands where the experience has no row, in the dtypes of the result.

    Returns:
      The tree of `[max_rows, ...]`.
    """

    def put(found, batch, b):
        at = batch["position"]
        return jax.tree.map(lambda old, x: old.at[at].set(x.astype(old.dtype)), found, fn(batch))

    start = jax.tree.map(lambda x: jnp.broadcast_to(x, (ctx.spec.max_rows, *jnp.shape(x))), beyond)
    return ctx.scan(put, start, size=256)


def labeled_features(
    ctx: Any, ts: Any, skip: Callable[[Batch], jax.Array] | None = None
) -> tuple[jax.Array, jax.Array]:
    """The features of the rows of an experience, as the learner sees them when it is over.

    Args:
      ctx: of `end`.
      ts: the train state that `end` is given.
      skip: `batch -> bool [B]`, rows that are to have no class; none by default.

    Returns:
      Features float32 `[max_rows, D]` and labels int32 `[max_rows]`: C for rows beyond the experience or skipped.
    """
    none = ctx.spec.num_classes

    def seen(batch):
        outputs, _ = ctx.forward(ts.params, batch["inputs"], model_state=ts.model_state, task=batch["task"])
        labels = batch["labels"]
        return outputs.features, labels if skip is None else jnp.where(skip(batch), none, labels)

    return each_row(ctx, seen, (jnp.zeros(ctx.spec.outputs.features.shape[-1]), jnp.int32(none)))
