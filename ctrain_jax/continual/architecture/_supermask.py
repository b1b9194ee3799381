"""What `supsup` and `exssnet` share: a model whose kernels are seen through a mask for each task."""

import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ctrain_jax.continual.architecture._tasks import (
    NONE,
    by_task,
    check_count,
    check_kernels,
    copies,
    cut,
    filled,
    named,
)
from ctrain_jax.core import Context, Model, TrainState, Variables
from ctrain_jax.ops import (
    check_choice,
    check_fraction,
    check_pattern,
    check_positive,
    check_size,
    restart,
    straight_through,
    top_k_mask,
)

Named = dict[str, jax.Array]


def check_masks(num_tasks: int, density: float, weights: str, match: str) -> None:
    """Arguments that both have."""
    check_size("num_tasks", num_tasks)
    check_positive("density", density)
    check_fraction("density", density)
    check_choice("weights", weights, ("signed", "model"))
    check_pattern("match", match)


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
            everything = named(made.params)
            kernels = {name: leaf for name, leaf in everything.items() if re.search(match, name)}
            check_kernels(who, match, everything, kernels)
            for name, leaf in kernels.items():
                check_count(who, density, name, leaf, round(density * leaf.size))
            scoring, signing = (jax.random.fold_in(rng, i) for i in (1, 2))
            kernels = _weights_of(signing, kernels, weights)
            frozen = {
                "network": cut(made.params, kernels),
                "base": made.frozen,
                "masks": {name: jnp.zeros((num_tasks, *leaf.shape), bool) for name, leaf in kernels.items()},
                "live": jnp.int32(NONE),
            }
            params = {"scores": draw_scores(scoring, kernels)}
            (params if trained else frozen)["weights"] = kernels
            return Variables(params, copies(made.model_state, num_tasks), frozen)

        def network(variables, own):
            params, frozen = variables.params, variables.frozen

            def learned():
                return {
                    name: straight_through(mask, jnp.abs(params["scores"][name]))
                    for name, mask in masks_of(params["scores"], density).items()
                }

            def kept():
                return {name: bank[own].astype(params["scores"][name].dtype) for name, bank in frozen["masks"].items()}

            seen = jax.lax.cond(own == frozen["live"], learned, kept)
            held = (params if trained else frozen)["weights"]

            masked = {name: kernel * seen[name].astype(kernel.dtype) for name, kernel in held.items()}
            return filled(frozen["network"], masked)

        return Model(init, by_task(who, num_tasks, inner, network))

    return model


def start_task(ts: TrainState, ctx: Context) -> TrainState:
    """In `begin`: scores and the optimizer's state anew; the task of the experience is live."""
    params = ts.params | {"scores": draw_scores(ctx.rng, ts.params["scores"])}
    frozen = ts.frozen | {"live": ctx.experience.task}
    return restart(ts._replace(params=params, frozen=frozen), ctx)


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


def _weights_of(rng: jax.Array, kernels: Named, weights: str) -> Named:
    """The weights behind the masks: a kernel of zeros, as that of a new head, would hide every score behind it."""
    keys = jax.random.split(rng, len(kernels))

    def one(key, leaf):
        drawn = jax.random.rademacher(key, leaf.shape, leaf.dtype)
        signed = jnp.where(leaf == 0, drawn, jnp.sign(leaf)) * math.sqrt(2) * _bound(leaf)
        return signed if weights == "signed" else jnp.where(jnp.any(leaf != 0), leaf, signed)

    return {name: one(key, leaf) for key, (name, leaf) in zip(keys, sorted(kernels.items()), strict=True)}


def _bound(kernel: jax.Array) -> float:
    return 1 / math.sqrt(math.prod(kernel.shape[:-1]))
