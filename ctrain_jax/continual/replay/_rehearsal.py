"""What methods with exemplars and a copy of the old network share.

A class is old if it was seen before this experience and is not in it. Where all classes come again (domain-incremental)
no class is old: nothing is distilled, and exemplars are all that is left of a method.
"""

from typing import Any

import jax

from ctrain_jax.core import Outputs, Variables, weighted_mean
from ctrain_jax.losses import softened_cross_entropy


def old_classes(ctx: Any) -> jax.Array:
    """bool [C]."""
    return ctx.experience.seen & ~ctx.experience.classes


def ask(variables: Variables, batch: dict[str, jax.Array], ctx: Any) -> Outputs:
    """What a network answers to a batch, in evaluation mode."""
    return ctx.forward(variables.params, batch["inputs"], model_state=variables.model_state, task=batch.get("task"))[0]


def distil(teacher: jax.Array, temperature: jax.Array, ctx: Any) -> jax.Array:
    r"""What turns the mean loss :math:`L` of the batch into :math:`(1 - \lambda) L + \lambda L_{KD}`.

    :math:`\lambda` is the number of old classes over the number seen; :math:`L_{KD}` the cross-entropy with the
    teacher's logits [B, C] over the old classes, through a temperature.
    """
    batch, old = ctx.batch, old_classes(ctx)
    told = old & batch.get("classes", True)
    distilled = softened_cross_entropy(ctx.outputs.logits, teacher, temperature, told)
    lam = old.sum() / ctx.experience.seen.sum()
    return lam * weighted_mean(distilled - ctx.problem.loss(ctx.outputs, batch), batch["weights"])
