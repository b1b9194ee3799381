"""CLR: each channel of a frozen convolutional network is reprogrammed for each task.

Ge et al., "CLR: Channel-wise Lightweight Reprogramming for Continual Learning", ICCV 2023, arXiv 2307.11386. The
authors' code (gyhandy/Channel-wise-Lightweight-Reprogramming) was opened. As there, a kernel has no bias and starts as
the identity, `pointwise` has the three forms of their code, and a task trains its parameters and statistics of
BatchNorm as well. Where we differ: a task's head starts as the anchor's and has an output for each class of the stream,
where theirs is drawn anew for the classes of the task; the penalty of 1e-5 on the norm of each parameter is left to the
optimizer; the last state is kept, where the code takes the best one on held out rows.
"""

import itertools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ctrain_jax import models
from ctrain_jax.continual.architecture._tasks import (
    NONE,
    apply_of_task,
    check_rows,
    check_tasks,
    copies,
    cut,
    filled,
    named,
)
from ctrain_jax.core import Method, Model, Variables
from ctrain_jax.ops import check_choice, check_pattern, check_size, restart

NORM_AND_HEAD = r"(?i:norm)|^head\b"


def clr(num_tasks: int, *, size: int = 3, pointwise: str = "none", own: str = NORM_AND_HEAD) -> Method:
    r"""After each convolution of a frozen network, a small kernel for each channel, which each task has for itself.

    Channel :math:`c` of what a convolution answers becomes, for task :math:`t`,

    .. math:: x'_c = r_{t,c} * x_c, \qquad r_{t,c} = \delta \text{ at the start},

    a correlation with zeros around the image that mixes no channels: an untrained task answers as the network does. A
    task trains its kernels and its copies of the `own` parameters, :math:`\sum_l C_l \, \mathrm{size}^2` numbers and
    those. Nothing else moves, and nothing is forgotten.

    An experience starts from what its task has, with a new state of the optimizer. Statistics of BatchNorm are kept for
    each task. Decay of weights pulls kernels to 0, not to the identity. One task serves a batch: see `supsup`.

    Args:
      num_tasks: tasks; they are numbered from 0.
      size: side of a kernel, odd; the paper's is 3.
      pointwise: what follows a 1x1 convolution: "none", as in the paper; a "scale" for each channel; a "kernel" as
        everywhere, as in the paper's CLR-Full.
      own: pattern (`re.search`) of the parameters that each task has for itself, by names like `head.kernel`;
        normalisation and the layer `head`. A last layer of another name is to be found by it, or it learns nothing.

    Returns:
      The method. It needs the task of a row in tests as well: `streams.task_incremental`,
      `streams.permuted(..., task_known=True)`. Parameters are the `kernels` and `own` of the task that is being
      learned; `frozen` holds those of all tasks, and the network.

    Raises:
      ValueError: `num_tasks` below 1, an even `size`, another `pointwise`; when a learner is made, a model without
        convolutions of linen over [B, H, W, C], an `own` that finds nothing, or that is not given and finds no
        `head`, or more experiences than tasks.

    Example:
      >>> clr(5).needs
      ('task', 'boundaries')
    """
    check_size("num_tasks", num_tasks)
    check_size("size", size)
    check_pattern("own", own)
    if size % 2 == 0:
        raise ValueError(f"clr: size expects an odd number, got {size}: a kernel has a centre.")
    check_choice("pointwise", pointwise, ("none", "scale", "kernel"))

    def model(inner):
        def init(rng, inputs):
            made = inner.init(rng, inputs)
            kernels = {
                name: _identity(1 if points and pointwise == "scale" else size, channels)
                for name, (points, channels) in _layers(inner, made, inputs).items()
                if not points or pointwise != "none"
            }
            if not kernels:
                raise ValueError("clr finds no convolution of linen to follow: give a convolutional network.")
            everything = named(made.params)
            owned = {name: leaf for name, leaf in everything.items() if re.search(own, name)}
            if not owned:
                raise ValueError(f"clr: own={own!r} finds no parameter: choose from {', '.join(sorted(everything))}.")
            if own == NORM_AND_HEAD and not any(re.match(r"head\b", name) for name in owned):
                raise ValueError(f"clr finds no layer head: give own, to find the last of {', '.join(everything)}.")
            params = {"kernels": kernels, "own": owned}
            banks, states = copies((params, made.model_state), num_tasks)
            network = cut(made.params, owned)
            return Variables(
                params, states, {"network": network, "base": made.frozen, "tasks": banks, "live": jnp.int32(NONE)}
            )

        def answer(variables, at, inputs, **options):
            frozen = variables.frozen
            live = at == frozen["live"]
            mine = jax.tree.map(lambda leaf, bank: jnp.where(live, leaf, bank[at]), variables.params, frozen["tasks"])
            base = Variables(filled(frozen["network"], mine["own"]), variables.model_state, frozen["base"])
            return _reprogrammed(inner, mine["kernels"], base, inputs, **options)

        return Model(init, apply_of_task("clr", num_tasks, answer))

    def init(rng, params, ctx):
        check_tasks("clr", num_tasks, ctx, "kernels")
        return ()

    def begin(s, ts, ctx):
        task = ctx.experience.task
        params = jax.tree.map(lambda bank: bank[task], ts.frozen["tasks"])
        return s, restart(ts._replace(params=params, frozen=ts.frozen | {"live": task}), ctx)

    def update(s, ts, ctx):
        check_rows("clr", ctx)
        return s, ts

    def end(s, ts, ctx):
        tasks = jax.tree.map(lambda bank, leaf: bank.at[ctx.experience.task].set(leaf), ts.frozen["tasks"], ts.params)
        return s, ts._replace(frozen=ts.frozen | {"tasks": tasks, "live": jnp.full_like(ts.frozen["live"], NONE)})

    return Method("clr", init=init, begin=begin, update=update, end=end, model=model, needs=("task", "boundaries"))


def depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[B, H, W, C]`: each channel correlated with its own kernel of `[k, k, C]`, k odd; zeros around the image."""
    side, (height, width) = kernel.shape[0], x.shape[1:3]
    kernel, around = kernel.astype(x.dtype), (side // 2, side // 2)
    padded = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    # Products of shifted images: XLA's own convolution is slow inside a loop on CPU.
    total = jnp.zeros_like(x)
    for i, j in itertools.product(range(side), repeat=2):
        total = total + padded[:, i : i + height, j : j + width] * kernel[i, j]
    return total


def _identity(side: int, channels: int) -> jax.Array:
    return jnp.zeros((side, side, channels)).at[side // 2, side // 2].set(1.0)


def _layers(model: Model, variables: Variables, inputs: jax.Array) -> dict[str, tuple[bool, int]]:
    """Of each convolution that the model calls: whether it is 1x1, and its channels."""
    found = {}

    def see(next_call, args, kwargs, context):
        answer, name = next_call(*args, **kwargs), _name_of(context)
        if name is not None:
            kernel = tuple(context.module.kernel_size)
            if len(kernel) != 2 or answer.ndim != 4:
                raise ValueError(
                    f"clr follows convolutions over [B, H, W, C], and {name} has a kernel {kernel} and answers "
                    f"{list(answer.shape)}: give a network of images."
                )
            found[name] = kernel == (1, 1), answer.shape[-1]
        return answer

    with _intercepted(see):
        jax.eval_shape(lambda v, x: model.apply(v, x)[0], variables, inputs)
    return found


def _reprogrammed(model: Model, kernels: dict[str, jax.Array], variables: Variables, inputs: jax.Array, **options: Any):
    def follow(next_call, args, kwargs, context):
        answer, name = next_call(*args, **kwargs), _name_of(context)
        return depthwise(answer, kernels[name]) if name in kernels else answer

    with _intercepted(follow):
        return model.apply(variables, inputs, **options)


def _intercepted(see: Callable[..., Any]) -> Any:
    import flax.linen as nn

    return nn.intercept_methods(see)


def _name_of(context: Any) -> str | None:
    """Of the convolution that is called, `conv_0`; None of any other call."""
    import flax.linen as nn

    if context.method_name != "__call__" or not isinstance(context.module, nn.Conv | models.Conv):
        return None
    return ".".join(context.module.path)
