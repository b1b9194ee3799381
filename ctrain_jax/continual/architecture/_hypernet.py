"""What hypernetworks share: the network of a task is generated from its embedding, and what is generated is kept.

von Oswald et al., "Continual Learning with Hypernetworks", ICLR 2020, arXiv 1906.00695. The authors' code
(chrhenning/hypercl) was opened. As there, the penalty is a mean over earlier tasks of a sum over weights, their
embeddings stand still, and an experience starts with a new state of the optimizer. Where we differ: the penalty looks
at the hypernetwork as it is, the code by default at where a step of the task's own loss would take it; and the output
weights of classes that a task does not have are kept like all others.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from ctrain_jax.continual.architecture._tasks import by_task, check_rows, check_tasks, copies, only
from ctrain_jax.core import Context, Method, Model, PyTree, Variables, tag
from ctrain_jax.ops import restart


class HypernetState(NamedTuple):
    """What earlier tasks are given."""

    beta: PyTree  # float32 [], one or one for each part of `kept`
    known: jax.Array  # bool [num_tasks], tasks of the experiences that are over
    kept: PyTree  # [num_tasks, N] for each strength: what was generated for each when this experience began


class Hypernet(NamedTuple):
    """A pair of pure functions; `params["embeddings"]` `[num_tasks, ...]` are learned, each by its own task."""

    make: Callable[[jax.Array, PyTree], tuple[dict, PyTree]]  # (rng, a drawn network) -> (params, what is fixed)
    generate: Callable[[PyTree, PyTree, jax.Array], PyTree]  # (params, what is fixed, task) -> the network


def hypernetwork(
    name: str,
    num_tasks: int,
    beta: PyTree,
    net: Hypernet,
    *,
    keep: Callable[[PyTree, PyTree, jax.Array, jax.Array], PyTree] | None = None,
    moves: Callable[[PyTree, Context], PyTree] | None = None,
) -> Method:
    """The method that trains a hypernetwork in place of the network.

    Args:
      name: of the method.
      num_tasks: tasks, numbered from 0.
      beta: strength of the penalty, or one for each part of what is kept: a prefix of that tree.
      net: the hypernetwork.
      keep: `(params, what is fixed, task, number of the experience) -> tree` whose distance is the penalty;
        `net.generate` by default.
      moves: `(params, ctx) -> masks`, what may move besides the embedding of the task alone; all by default.
    """
    tasks, keep = jnp.arange(num_tasks), keep or (lambda params, fixed, task, index: net.generate(params, fixed, task))

    def model(inner):
        def init(rng, inputs):
            made = inner.init(rng, inputs)
            params, fixed = net.make(tag(rng, name), made.params)
            return Variables(params, copies(made.model_state, num_tasks), {"base": made.frozen, "fixed": fixed})

        def network(variables, task):
            return net.generate(variables.params, variables.frozen["fixed"], task)

        return Model(init, by_task(name, num_tasks, inner, network))

    def everything(params, frozen, index):
        def one(task):
            parts = keep(params, frozen["fixed"], task, index)
            return jax.tree.map(lambda _, part: ravel_pytree(part)[0], beta, parts)

        return jax.vmap(one)(tasks)

    def init(rng, params, ctx):
        check_tasks(name, num_tasks, ctx, "embeddings")
        # The first experience fills it as it begins.
        kept = optax.tree.zeros_like(jax.eval_shape(everything, params, ctx.frozen, jnp.int32(0)))
        strengths = jax.tree.map(lambda strength: jnp.asarray(strength, jnp.float32), beta)
        return HypernetState(strengths, jnp.zeros(num_tasks, bool), kept)

    def begin(s, ts, ctx):
        return s._replace(kept=everything(ts.params, ts.frozen, ctx.experience.index)), restart(ts, ctx)

    def loss(s, params, ctx):
        earlier = s.known & (tasks != ctx.experience.task)
        now = everything(params, ctx.frozen, ctx.experience.index)
        penalties = jax.tree.map(
            lambda strength, new, old: strength * jnp.square(new - old).sum(1), s.beta, now, s.kept
        )
        total = sum(jax.tree.leaves(penalties))
        return jnp.where(earlier, total, 0).sum() / jnp.maximum(earlier.sum(), 1), {}

    def masks(s, updates, ctx):
        moving = moves(updates, ctx) if moves else jax.tree.map(lambda _: True, updates)
        if "embeddings" not in updates:
            return moving

        def row(leaf):
            return (tasks == ctx.experience.task).reshape(-1, *[1] * (leaf.ndim - 1))

        return moving | {"embeddings": jax.tree.map(row, updates["embeddings"])}

    def update(s, ts, ctx):
        check_rows(name, ctx)
        return s, ts

    def end(s, ts, ctx):
        return s._replace(known=s.known.at[ctx.experience.task].set(True)), ts

    return Method(
        name,
        init=init,
        begin=begin,
        update=update,
        end=end,
        loss=loss,
        model=model,
        optimizer=only(masks),
        needs=("task", "boundaries"),
    )


def spreads(start: PyTree) -> tuple[PyTree, PyTree]:
    """Of the leaves of a network that is drawn: the entry that all of a leaf share, or 0; how far entries lie apart.

    Leaves of one value (biases, scales of a normalisation) take the smallest spread of the others.
    """
    flat = jax.tree.map(lambda leaf: jnp.max(leaf) == jnp.min(leaf), start)
    apart = jax.tree.map(lambda leaf, same: jnp.where(same, jnp.inf, jnp.std(leaf)), start, flat)
    least = jnp.min(jnp.stack(jax.tree.leaves(apart)))
    centre = jax.tree.map(lambda leaf, same: jnp.where(same, leaf, 0), start, flat)
    return centre, jax.tree.map(lambda spread: jnp.where(jnp.isinf(spread), least, spread), apart)
