"""What dense layers are given, which of their units are active, and rows to ask them about."""

from typing import Any

import jax
import jax.numpy as jnp

from ctrain_jax.core import Context, PyTree

Layers = dict[str, jax.Array]


def given_to_layers(
    ctx: Context, params: PyTree, inputs: jax.Array, instead: Layers | None = None, **options: PyTree
) -> tuple[Any, Layers]:
    """What the network answers, and what its dense layers were given, in their order; `instead` stands in for some."""
    import flax.linen as nn
    from flax.core import tracers

    given: Layers = {}
    rows, outside = inputs.shape[0], tracers.current_trace()
    filled = rows

    def watch(next_call, args, kwargs, context):
        nonlocal filled
        if context.method_name != "__call__":
            return next_call(*args, **kwargs)
        x: Any = next(iter((*args, *kwargs.values())), None)
        if not context.module.path:
            filled = len(x)  # devices that do not divide the rows have them filled up
        if not isinstance(context.module, nn.Dense):
            return next_call(*args, **kwargs)
        name = ".".join(context.module.path)
        if name in given or tracers.current_trace() != outside:
            raise ValueError(
                f"{name} is called twice in one pass, or inside of nn.remat or nn.scan, and has no units to watch: "
                "give each call a layer of its own."
            )
        if instead and name in instead:
            x = instead[name] if filled == rows else instead[name][jnp.arange(filled) % rows]
        given[name] = x[:rows] if len(x) == filled else x
        return next_call(x)

    with nn.intercept_methods(watch):
        outputs, _ = ctx.forward(params, inputs, **options)
    return outputs, given


def order_of_layers(ctx: Context, params: PyTree) -> list[str]:
    """The dense layers as they are called; computes nothing."""
    names: list[str] = []

    def ask(params):
        names.extend(given_to_layers(ctx, params, jnp.zeros(ctx.spec.batch["inputs"].shape))[1])

    jax.eval_shape(ask, params)
    return names


def most_active(active: jax.Array, part: jax.Array) -> jax.Array:
    """bool [D], the most active units, as few as have this part of all activity."""
    order = jnp.argsort(-active)
    before = jnp.cumsum(active[order]) - active[order]
    return jnp.zeros(len(active), bool).at[order].set(before < part * active.sum())


def balanced(rng: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
    """Places of rows in random order, a row of each class in turn; those of no class come last."""
    order = jax.random.permutation(rng, len(labels))
    mine = jax.nn.one_hot(labels[order], num_classes)
    turn = jnp.sum(jnp.cumsum(mine, 0) * mine, 1)
    return order[jnp.argsort(jnp.where(turn > 0, turn, jnp.inf))]
