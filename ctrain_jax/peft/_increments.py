"""Low-rank increments of dense kernels for each experience, the earlier ones frozen, and a gate that weighs them."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ctrain_jax.core import Context, Method, Model, PyTree, TrainState, Variables
from ctrain_jax.ops import check_pattern, check_size, check_wrapped, permute_index, restart, unit
from ctrain_jax.peft._base import adapted, beside_dense, check_dense, dense_layers, frozen_base

Frozen = dict[str, PyTree]
Gate = Callable[[str, jax.Array], jax.Array]
"""`(kernel, x A [..., T, r]) -> [..., T, r]`: by how much each row of B is added."""


def increments(
    name: str,
    num_tasks: int,
    rank: int,
    match: str,
    train: str | None,
    keep: Callable[[Model, Variables, jax.Array], Frozen],
    route: Callable[[Model, Frozen, jax.Array, Any], Gate],
    learn: Callable[[Frozen, Context], Frozen] = lambda frozen, ctx: frozen,
    see: bool = False,
) -> Method:
    """A method that adds `gate(x A) B` to the dense layers of a frozen model, with ranks for each experience.

    Args:
      name: of the method.
      num_tasks: T, of which all have room from the start.
      rank: r, of one experience.
      match, train: patterns, as of `lora`.
      keep: `(model, its variables, inputs)` to what else is frozen.
      route: `(model, frozen, inputs, task)` to the gate of a forward pass; `live(frozen)` are the experiences so far.
      learn: `(frozen, ctx)` to what is frozen when an experience starts.
      see: whether A starts at what its layer sees of rows of the experience, and not at random.

    Returns:
      The method. `params["new"]` is `{kernel: {"a": [d, r], "b": [r, k]}}` of the experience that is being learned;
      `frozen` holds the base, `past` `{kernel: {"a": [T, d, r], "b": [T, r, k]}}`, 0 where there is nothing yet, and
      `task`, the number of this experience.
    """
    check_size("num_tasks", num_tasks)
    check_pattern("match", match)
    check_pattern("train", train)
    check_size("rank", rank)

    def model(inner):
        def extend(rng, inputs, base):
            kernels, inside = adapted(base, match, train), dense_layers(inner, base, inputs)
            check_dense(name, kernels, inside)
            return _draw(
                rng,
                {
                    kernel: (math.prod(leaf.shape[: inside[kernel]]), math.prod(leaf.shape[inside[kernel] :]))
                    for kernel, leaf in kernels.items()
                },
                rank,
            )

        def added(new, base, inputs, **options):
            own, frozen = new
            past, now = frozen["past"], jnp.arange(num_tasks) == frozen["task"]
            gate = route(inner, frozen, inputs, options.get("task"))

            def add(kernel, x):
                if kernel not in own:
                    return None
                mine, old = jax.tree.map(lambda leaf: leaf.astype(x.dtype), (own[kernel], past[kernel]))
                seen = jnp.einsum("...d,tdr->...tr", x, old["a"])
                seen = gate(kernel, jnp.where(now[:, None], (x @ mine["a"])[..., None, :], seen))
                latest = jnp.where(now[:, None], seen, 0).sum(-2)
                return jnp.einsum("...tr,trk->...k", seen, old["b"]) + latest @ mine["b"]

            return beside_dense(inner, base, inputs, add, **options)

        whole = frozen_base(inner, train, extend, added)

        def init(rng, inputs):
            made = whole.init(rng, inputs)
            past = jax.tree.map(lambda leaf: jnp.zeros((num_tasks, *leaf.shape)), made.params["new"])
            more = {"past": past, "task": jnp.int32(0), **keep(inner, made, inputs)}
            return made._replace(frozen=made.frozen | more)

        def apply(variables, inputs, **options):
            new = variables.params["new"], variables.frozen
            return whole.apply(variables._replace(params=variables.params | {"new": new}), inputs, **options)

        return Model(init, apply)

    def init(rng, params, ctx):
        if ctx.spec.num_experiences > num_tasks:
            raise ValueError(
                f"{name} has ranks for {num_tasks} experiences, and the stream has {ctx.spec.num_experiences}: give "
                "num_tasks."
            )
        check_wrapped(name, ctx.frozen, "past")
        return ()

    def begin(s, ts, ctx):
        task = ctx.experience.index
        later, own, past = task > 0, ts.params["new"], ts.frozen["past"]
        fresh = _draw(ctx.rng, {kernel: (len(leaf["a"]), leaf["b"].shape[1]) for kernel, leaf in own.items()}, rank)
        past = jax.tree.map(lambda bank, leaf: jnp.where(later, bank.at[task - 1].set(leaf), bank), past, own)
        own = jax.tree.map(lambda new, old: jnp.where(later, new, old), fresh, own)
        if see:
            own = _seen(ts, ctx, own, rank)
        frozen = learn(ts.frozen | {"past": past, "task": task}, ctx)
        return s, restart(ts._replace(params=ts.params | {"new": own}, frozen=frozen), ctx)

    return Method(name, init=init, begin=begin, model=model, needs=("boundaries",))


def _seen(ts: TrainState, ctx: Context, drawn: PyTree, rank: int) -> PyTree:
    """Each A [d, rank] at what its layer sees of rows of the experience, of length 1; else as it was drawn."""
    from flax.core import tracers

    rows, tokens = jax.random.split(ctx.rng)
    size = ctx.experience.size
    place = permute_index(rows, jnp.arange(rank) % size, size)
    batch = ctx.fetch({"row": ctx.experience.rows[place], "experience": ctx.experience.origin[place]})
    outside, found = tracers.current_trace(), {}

    def note(kernel, x):
        # What a layer inside of nn.remat is given does not outlive the call.
        if kernel not in drawn or tracers.current_trace() != outside:
            return
        x = x.reshape(-1, x.shape[-1])
        share = max(len(x) // rank, 1)
        at = (jnp.arange(rank) * share + jax.random.randint(tokens, (rank,), 0, share)) % len(x)
        seen = unit(x[at].astype(jnp.float32))
        # Ranks that start alike stay alike, and one at 0 stays there: a has no gradient where b is 0.
        cosines = jnp.where(jnp.eye(rank, dtype=bool), 0, seen @ seen.T)
        alone = (jnp.tril(cosines).max(1) < 1 - 1e-5) & seen.any(1)
        found[kernel] = jnp.where(alone, seen.T, drawn[kernel]["a"])

    beside_dense(ctx.model, Variables(ts.params, ts.model_state, ts.frozen), batch["inputs"], note, task=batch["task"])
    return {kernel: {**pair, "a": found.get(kernel, pair["a"])} for kernel, pair in drawn.items()}


def live(frozen: Frozen, num_tasks: int) -> jax.Array:
    """bool [T]: the experiences so far."""
    return jnp.arange(num_tasks) <= frozen["task"]


def largest(scores: jax.Array, k: int) -> jax.Array:
    """True at the k largest of the last axis; of equal ones, the first."""
    one, other = scores[..., :, None], scores[..., None, :]
    place = jnp.arange(scores.shape[-1])
    # Comparisons of all pairs are faster than a sort where there are few.
    ahead = (other > one) | ((other == one) & (place < place[:, None]))
    return ahead.sum(-1) < k


def _draw(rng: jax.Array, shapes: dict[str, tuple[int, int]], rank: int) -> PyTree:
    keys = jax.random.split(rng, len(shapes))
    return {
        kernel: {"a": jax.random.normal(key, (rows, rank)) / math.sqrt(rows), "b": jnp.zeros((rank, columns))}
        for key, (kernel, (rows, columns)) in zip(keys, shapes.items(), strict=True)
    }
