"""From which classes an incoming row is told apart."""

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
