"""The last layer of a network, by its name."""

from typing import Any

import jax
import optax

from ctrain_jax.ops import unit


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


def cosines(features: jax.Array, params: Any, who: str) -> jax.Array:
    """Of features [B, D] with the weight vector of each class in the last layer: [B, C]."""
    return unit(features) @ unit(head_kernel(params, who), axis=0)
