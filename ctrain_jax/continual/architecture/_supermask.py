"""What `supsup` and `exssnet` share: a model whose kernels are seen through a mask for each task."""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ctrain_jax.core import Context, Model, Outputs, TrainState, Variables
from ctrain_jax.ops import check_choice, check_fraction, check_positive, check_size, straight_through, top_k_mask

Named = dict[str, jax.Array]
NONE = -1  # of `frozen["live"]`


def check_masks(num_tasks: int, density: float, weights: str) -> None:
    """Arguments that both have."""
    check_size("num_tasks", num_tasks)
    check_positive("density", density)
    check_fraction("density", density)
    check_choice("weights", weights, ("signed", "model"))


def masked(
    who: str, num_tasks: int, density: float, weights: str, match: str, trained: bool
) -> Callable[[Model], Model]:
    """The model of masks: the task of a batch selects the one through which its kernels are seen.

    `params` is `{"scores": {kernel: like it}}` of the task that is being learned, and `"weights"` where they are
    `trained`; `frozen` holds the weights otherwise, all other parameters, `masks` `{kernel: bool [T, ...]}`, and
    `live`, the task whose mask is that of the scores (-1: none; every mask is then the one that is kept). `model_state`
    has a copy for each task.
    """

    def model(inner):
        def init(rng, inputs):
            made = inner.init(rng, inputs)
            named = {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(made.params)}
            kernels = {name: leaf for name, leaf in named.items() if re.search(match, name)}
            _refuse(who, match, density, named, kernels)
            if weights == "signed":
                kernels = {name: jnp.sign(leaf) * math.sqrt(2) * _bound(leaf) for name, leaf in kernels.items()}
            frozen = {
                "network": jax.tree_util.tree_map_with_path(
                    lambda path, leaf: () if name_of(path) in kernels else leaf, made.params
                ),
                "base": made.frozen,
                "masks": {name: jnp.zeros((num_tasks, *leaf.shape), bool) for name, leaf in kernels.items()},
                "live": jnp.int32(NONE),
            }
            params = {"scores": draw_scores(jax.random.fold_in(rng, 1), kernels)}
            (params if trained else frozen)["weights"] = kernels
            states = jax.tree.map(lambda leaf: jnp.stack([leaf] * num_tasks), made.model_state)
            return Variables(params, states, frozen)

        def apply(variables, inputs, *, train=False, rng=None, task=None):
            if task is None:
                raise ValueError(f"{who} needs the task of a batch: use a stream with task_known=True.")
            params, frozen = variables.params, variables.frozen
            tasks = jnp.asarray(task)
            own = tasks.reshape(-1)[0]

            def learned():
                return {
                    name: straight_through(mask, jnp.abs(params["scores"][name]))
                    for name, mask in masks_of(params["scores"], density).items()
                }

            def kept():
                return {name: bank[own].astype(jnp.float32) for name, bank in frozen["masks"].items()}

            seen = jax.lax.cond(own == frozen["live"], learned, kept)
            held = (params if trained else frozen)["weights"]

            def whole(path, leaf):
                name = name_of(path)
                return held[name] * seen[name].astype(held[name].dtype) if name in held else leaf

            network = jax.tree_util.tree_map_with_path(whole, frozen["network"], is_leaf=_cut)
            state = jax.tree.map(lambda leaf: leaf[own], variables.model_state)
            base = Variables(network, state, frozen["base"])
            outputs, state = inner.apply(base, inputs, train=train, rng=rng, task=task)
            if train:
                new = jax.tree.map(lambda bank, leaf: bank.at[own].set(leaf), variables.model_state, state)
            else:
                new = variables.model_state
            # One mask serves a whole batch: a row of another task is no number, not the answer of a wrong mask.
            fits = (tasks == own) & (tasks >= 0) & (tasks < num_tasks)
            return _only_where(fits, outputs), new

        return Model(init, apply)

    return model


def check_tasks(who: str, num_tasks: int, ctx: Context) -> None:
    """In `init`: a mask for each experience."""
    if ctx.spec.num_experiences > num_tasks:
        raise ValueError(
            f"{who} has masks for {num_tasks} tasks, and the stream has {ctx.spec.num_experiences} experiences: give "
            "num_tasks."
        )


def check_rows(who: str, ctx: Context) -> None:
    """In `update`: nobody appended rows."""
    if ctx.batch["weights"].shape != ctx.incoming["weights"].shape:
        raise ValueError(
            f"{who} learns one task a batch, and a method before it appends rows: leave that out, nothing is forgotten."
        )


def start_task(ts: TrainState, ctx: Context) -> TrainState:
    """In `begin`: scores and the optimizer's state anew; the task of the experience is live."""
    params = ts.params | {"scores": draw_scores(ctx.rng, ts.params["scores"])}
    frozen = ts.frozen | {"live": ctx.experience.task}
    return restart(ts._replace(params=params, frozen=frozen), ctx)


def restart(ts: TrainState, ctx: Context) -> TrainState:
    """The state of the optimizer anew."""
    fresh = ctx.optimizer.init(ts.params)
    return ts._replace(
        opt_state=jax.tree.map(lambda new, old: jax.lax.convert_element_type(new, old.dtype), fresh, ts.opt_state)
    )


def keep_mask(ts: TrainState, task: jax.Array, density: float) -> TrainState:
    """The mask of the scores is that of the task from now on, and none is live."""
    chosen = masks_of(ts.params["scores"], density)
    masks = {name: bank.at[task].set(chosen[name]) for name, bank in ts.frozen["masks"].items()}
    return ts._replace(frozen=ts.frozen | {"masks": masks, "live": jnp.full_like(ts.frozen["live"], NONE)})


def masks_of(scores: Named, density: float) -> Named:
    """Exactly round(density * N) weights of each kernel: those of the largest absolute scores."""
    return {name: top_k_mask(jnp.abs(leaf), round(density * leaf.size)) for name, leaf in scores.items()}


def draw_scores(rng: jax.Array, kernels: Named) -> Named:
    """Uniform within 1 / sqrt(fan_in), as the authors draw them."""
    keys = jax.random.split(rng, len(kernels))
    return {
        name: _bound(leaf) * jax.random.uniform(key, leaf.shape, leaf.dtype, -1.0, 1.0)
        for key, (name, leaf) in zip(keys, sorted(kernels.items()), strict=True)
    }


def name_of(path: tuple) -> str:
    """`head.kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _cut(leaf: Any) -> bool:
    """The place of a kernel in the frozen network."""
    return isinstance(leaf, tuple) and not leaf


def _bound(kernel: jax.Array) -> float:
    return 1 / math.sqrt(math.prod(kernel.shape[:-1]))


def _only_where(fits: jax.Array, outputs: Outputs) -> Outputs:
    def one(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return jnp.where(fits.reshape(*fits.shape, *[1] * (leaf.ndim - fits.ndim)), leaf, jnp.nan)

    features = None if outputs.features is None else one(outputs.features)
    return outputs._replace(logits=one(outputs.logits), features=features)


def _refuse(who: str, match: str, density: float, named: Named, kernels: Named) -> None:
    if not kernels:
        raise ValueError(f"{who}: match={match!r} finds no parameter: choose from {', '.join(sorted(named))}.")
    for name, leaf in kernels.items():
        if leaf.ndim < 2:
            raise ValueError(f"{who} masks kernels of two axes or more, got {name} {leaf.shape}: narrow match.")
        if round(density * leaf.size) < 1:
            raise ValueError(f"{who}: density={density} leaves no weight of {name} {leaf.shape}: raise it.")
