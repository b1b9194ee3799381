"""What methods with exemplars and a copy of the old network share.

A class is old if it was seen before this experience and is not in it. Where all classes come again (domain-incremental)
no class is old: nothing is distilled, and exemplars are all that is left of a method.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

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


def head_kernel(params: Any, who: str) -> jax.Array:
    """The kernel [D, C] of the last layer.

    Raises:
      ValueError: there is no layer of the name `head` with a kernel.
    """
    try:
        return params["head"]["kernel"]
    except (KeyError, TypeError):
        found = ", ".join(params) if isinstance(params, dict) else type(params).__name__
        raise ValueError(
            f"{who} expects the last layer as params['head'] with a kernel [D, C], got {found}: name it 'head'."
        ) from None


def with_head_kernel(params: Any, kernel: jax.Array) -> optax.Params:
    """The parameters with another kernel of the last layer."""
    return {**params, "head": {**params["head"], "kernel": kernel}}


def unit(x: Any, axis: int = -1) -> jax.Array:
    """Vectors of length 1 along an axis; 0 stays 0."""
    squares = jnp.sum(jnp.square(x), axis, keepdims=True)
    # The norm has no gradient at 0.
    return x / jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
