"""The last layer of a network, by its name, and what else stands where its logits and their loss were."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Model, Problem
from ctrain_jax.ops import LinearHead, unit


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


def check_head(params: Any, ctx: Any, who: str) -> None:
    """Raises unless the last layer is called `head`, and the features of the model are what it is given.

    Raises:
      ValueError: there is no such layer, or one of another width.
    """
    check_features(ctx.spec.outputs.features, head_kernel(params, who), who)


def check_features(features: Any, kernel: jax.Array, who: str) -> None:
    """Raises unless features [B, D] are what the last layer of a kernel [D, C] is given.

    Raises:
      ValueError: there are none, or they have another width.
    """
    width, given = None if features is None else features.shape[-1], kernel.shape[0]
    if width != given:
        raise ValueError(
            f"{who} expects what the head is given as the features of the model, of width {given}, got {width}: return "
            "that."
        )


def linear_head(params: Any, who: str) -> LinearHead:
    """The last layer [D, C], of bias 0 where it has none; raises as `head_kernel`."""
    kernel = head_kernel(params, who)
    return LinearHead(kernel, params["head"].get("bias", jnp.zeros(kernel.shape[-1], kernel.dtype)))


def with_linear_head(params: Any, head: LinearHead) -> optax.Params:
    """The parameters with another last layer, in its dtype; a bias where it had one."""
    return {**params, "head": {name: getattr(head, name).astype(old.dtype) for name, old in params["head"].items()}}


def own_parts(params: Any, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer for a `linear_head` of the parameters: where these have no bias it stays 0."""

    def own(head, _):
        return head if "bias" in params["head"] else head._replace(bias=jnp.zeros_like(head.bias))

    return optax.chain(tx, optax.stateless(own))


def body(params: Any) -> Any:
    """What features depend on: all but the last layer, where that is called `head`."""
    return {name: leaf for name, leaf in params.items() if name != "head"} if isinstance(params, dict) else params


def with_body(params: Any, below: Any) -> Any:
    """The parameters with another `body`."""
    return {**params, **below} if isinstance(params, dict) else below


def cosines(features: jax.Array, params: Any, who: str) -> jax.Array:
    """Of features [B, D] with the weight vector of each class in the last layer: [B, C]."""
    return unit(features) @ unit(head_kernel(params, who), axis=0)


def by_cosines(who: str) -> Callable[[Model], Model]:
    """The model whose logits are the cosines of features with the weight vectors of the last layer."""

    def model(inner):
        def init(rng, inputs):
            made = inner.init(rng, inputs)
            head_kernel(made.params, who)
            return made

        def apply(variables, inputs, **options):
            outputs, model_state = inner.apply(variables, inputs, **options)
            return outputs._replace(logits=cosines(outputs.features, variables.params, who)), model_state

        return Model(init, apply)

    return model


def unasked(plain: Problem) -> Problem:
    """The problem without its loss: that of a method takes its place.

    What asks for the problem's own gradient (`agem`, `gem`, `mir`, `refresh`, `rwalk`, `si`) finds 0 and does nothing.
    """
    return Problem(lambda outputs, batch: jnp.zeros_like(batch["weights"]), plain.metrics)
