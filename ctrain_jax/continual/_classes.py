"""From which classes an incoming row is told apart, and whether there are classes at all."""

import jax
import jax.numpy as jnp

from ctrain_jax.core import Batch, Context


def told_apart(batch: Batch, classes: jax.Array, ctx: Context) -> Batch:
    """The batch whose incoming rows are told apart from some classes, bool [C], alone.

    Rows that another method appended keep the classes that they had. A mixture with one of these has a target in a
    class of its own, which counts as well: a target beyond the mask would cost without bound.
    """
    appended = jnp.arange(batch["row"].shape[0]) >= ctx.spec.batch_size
    told = classes | appended[:, None]
    if "targets" in batch:
        told = told | (batch["targets"] > 0)
    return batch | {"classes": told & batch.get("classes", True)}


def check_classes(who: str, ctx: Context) -> None:
    """In `init`: a row has one class, and the network a logit for each."""
    labels, logits = ctx.spec.batch["labels"], ctx.spec.outputs.logits
    if labels.dtype.kind not in "iu" or logits.ndim != 2:
        raise ValueError(
            f"{who} answers with classes, got labels {labels.dtype} {labels.shape} and logits {logits.shape}: give a "
            "stream whose labels are whole numbers, and a network with logits [B, C]."
        )
