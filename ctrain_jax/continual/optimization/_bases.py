"""Bases of what the layers of earlier experiences saw, and updates that keep out of them: for GPM and HLOP."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Batch, Context, PyTree, after
from ctrain_jax.models import Conv
from ctrain_jax.ops import permute_index
from ctrain_jax.optim import project_gpm


def empty_bases(who: str, params: PyTree, ctx: Context, columns: Callable[[int], int], train: str | None) -> PyTree:
    """For each parameter zeros [d_in, columns(d_in)]; [1, 1] where it is no kernel, [0, 0] where `train` finds it."""
    inputs = jax.eval_shape(lambda p, x: layer_inputs(ctx, p, x), params, ctx.spec.batch["inputs"])
    names = [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    kept = [name for name in names if train is None or not re.search(train, name)]
    if train is not None and len(kept) == len(names):
        raise ValueError(f"{who}: train={train!r} finds no parameter, expected some of {', '.join(names)}: mend it.")
    unseen = [name for name in kept if name.split(".")[-1] == "kernel" and name not in inputs]
    if unseen or not any(name in inputs for name in kept):
        raise ValueError(
            f"{who} protects kernels of Dense and two-dimensional Conv layers of linen models, outside of nn.remat and "
            f"nn.scan, got {', '.join(unseen) or 'no kernel'}: use a model of such layers, or name other kernels in "
            "train."
        )

    def basis(path, leaf):
        if name_of(path) not in kept:
            return jnp.zeros((0, 0))
        width = inputs[name_of(path)].shape[-1] if name_of(path) in inputs else 1
        return jnp.zeros((width, columns(width)))

    return jax.tree_util.tree_map_with_path(basis, params)


def fill(bases: PyTree, inputs: dict[str, Any], grown: Callable[[str, jax.Array], jax.Array]) -> PyTree:
    """Each basis of a kernel `grown(name, basis)`; that of another parameter is what freezes it."""

    def new(path, basis):
        if basis.size == 0:
            return basis
        return grown(name_of(path), basis) if name_of(path) in inputs else jnp.ones_like(basis)

    return jax.tree_util.tree_map_with_path(new, bases)


def protect() -> Callable:
    """The optimizer hook of a method whose state has `bases`: no update acts inside of them."""
    projection = project_gpm()

    def project(updates, state, params=None, **extra):
        return projection.update(updates, state, params, bases=extra["method_state"].bases)

    return after(optax.GradientTransformationExtraArgs(projection.init, project))


def rows_at(ctx: Context, at: jax.Array) -> Batch:
    """Rows of the experience by their place in a random order of them."""
    experience = ctx.experience
    place = permute_index(ctx.rng, at, experience.size)
    return ctx.fetch({"row": experience.rows[place], "experience": experience.origin[place]})


def layer_inputs(ctx: Context, params: PyTree, inputs: jax.Array, task: Any = None) -> dict[str, jax.Array]:
    """`{kernel: its inputs [n, d_in]}` of each Dense and Conv layer, in a forward pass; rows stay together."""
    import flax.linen as nn
    from flax.core import tracers

    rows, outside = inputs.shape[0], tracers.current_trace()
    filled = rows
    found: dict[str, list[jax.Array]] = {}

    def watch(next_call, args, kwargs, context):
        nonlocal filled
        layer = context.module
        if context.method_name == "__call__" and not layer.path:
            # Devices that do not divide the rows have them filled up.
            filled = len(next(iter((*args, *kwargs.values()))))
        # What a layer inside of nn.remat or nn.scan is given does not outlive the call.
        seen = context.method_name == "__call__" and tracers.current_trace() == outside
        if seen and isinstance(layer, nn.Dense | nn.Conv | Conv):
            x = next(iter((*args, *kwargs.values())))
            name = ".".join((*layer.path, "kernel"))
            if isinstance(layer, nn.Dense):
                found.setdefault(name, []).append(x)
            elif _is_matrix(layer):
                found.setdefault(name, []).append(_unfold(layer, x))
        return next_call(*args, **kwargs)

    with nn.intercept_methods(watch):
        ctx.forward(params, inputs, task=task)
    # A layer that is called twice has two inputs for each row.
    joined = {name: [x.reshape(filled, -1, x.shape[-1])[:rows] for x in parts] for name, parts in found.items()}
    return {
        name: jnp.concatenate(parts, axis=1).reshape(-1, parts[0].shape[-1]).astype(jnp.float32)
        for name, parts in joined.items()
    }


def name_of(path: tuple) -> str:
    """`head.kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _is_matrix(layer: Any) -> bool:
    """Whether a convolution is the product of the patches of an image and one matrix."""
    plain = getattr(layer, "input_dilation", 1) in (1, None, (1, 1))
    return len(layer.kernel_size) == 2 and layer.feature_group_count == 1 and plain


def _unfold(layer: Any, x: jax.Array) -> jax.Array:
    own = Conv(
        layer.features, layer.kernel_size, layer.strides or 1, layer.padding, kernel_dilation=layer.kernel_dilation or 1
    )
    return own.unfold(x)
