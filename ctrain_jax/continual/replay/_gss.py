"""GSS: a memory of rows whose gradients point in many directions.

Aljundi et al., "Gradient Based Sample Selection for Online Continual Learning", NeurIPS 2019, arXiv 1903.08671, the
greedy form (algorithm 2), written from what we remember of the paper. Opened: model/GSS_Greedy.py of
rahafaljundi/Gradient-based-Sample-Selection. Where we differ from that code: each row is compared with rows of the
memory, as in the algorithm, not with means over batches of them, and is taken or not by itself, where the code first
asks the whole batch; as in `er`, a step takes one mean over incoming and replayed rows, where the code takes two steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Method
from ctrain_jax.ops import BufferState, append_rows, check_size, memory, wait_for


class GssState(NamedTuple):
    """The memory, and how alike each of its rows was to others when it came."""

    buffer: BufferState  # `size` records: row number and experience; `seen` is how many are held
    scores: jax.Array  # float32 [size], in [0, 2]


def gss(size: int, *, compare: int = 10, batch_size: int | None = None) -> Method:
    r"""Replay rows of a memory that keeps what is unlike the rest of it.

    After a step each incoming row is given a score over rows :math:`x_i` drawn from the memory,

    .. math:: c = 1 + \max_i \cos(\nabla \ell(x), \nabla \ell(x_i))

    A memory with room takes every row. A full one considers those of :math:`c < 1`: a row :math:`i` of it, drawn with
    probability :math:`C_i / \sum_j C_j` by its own score, gives way with probability :math:`C_i / (C_i + c)`. Where an
    experience is much longer than others, its rows do not crowd out the rest. Gradients are of all parameters, in
    evaluation mode. Replay is that of `er`.

    Args:
      size: rows of the memory; 12 bytes each.
      compare: rows of the memory that an incoming row is compared with.
      batch_size: rows replayed in a step; as many as the incoming ones by default.

    Returns:
      The method. A step also costs a gradient for each incoming row and for each of `compare` rows, and as many copies
      of the parameters in memory.

    Raises:
      ValueError: `size`, `compare` or `batch_size` below 1.

    Example:
      >>> gss(300).name
      'gss'

    References:
      Aljundi et al. 2019, arXiv 1903.08671.
    """
    rows = memory(size)
    check_size("compare", compare)
    if batch_size is not None:
        check_size("batch_size", batch_size)

    def init(rng, params, ctx):
        return GssState(rows.init(ctx.spec), jnp.zeros(size))

    def augment(s, batch, ctx):
        records, weights = rows.draw(s.buffer, ctx.rng, batch_size or ctx.spec.batch_size, ctx.incoming)
        return append_rows(batch, ctx.fetch(records) | {"weights": weights})

    def update(s, ts, ctx):
        def directions(batch):
            def loss(params, row):
                one = jax.tree.map(lambda x: x[None], row)
                outputs, _ = ctx.forward(params, one["inputs"], model_state=ts.model_state, task=one.get("task"))
                return ctx.problem.loss(outputs, one)[0]

            def direction(row):
                grads = optax.tree.cast(jax.grad(loss)(ts.params, row), jnp.float32)
                return optax.tree.scale(1 / jnp.maximum(optax.tree.norm(grads), 1e-12), grads)

            return jax.vmap(direction)(batch)

        drawing, choosing = jax.random.split(ctx.rng)
        records, weights = rows.draw(s.buffer, drawing, compare, ctx.incoming)
        products = jax.tree.map(
            lambda a, b: a.reshape(len(a), -1) @ b.reshape(len(b), -1).T,
            directions(ctx.incoming),
            directions(ctx.fetch(records) | {"weights": weights}),
        )
        alike = jnp.stack(jax.tree.leaves(products)).sum(0).max(-1)
        score = 1 + jnp.where(weights.sum() > 0, alike, 0)
        return _taken(s, choosing, ctx.incoming, score, wait_for(ctx.incoming["weights"] > 0, ts.params)), ts

    return Method("gss", init=init, augment=augment, update=update, needs=("labels",))


def _taken(s: GssState, rng: jax.Array, batch: dict[str, jax.Array], score: jax.Array, keep: jax.Array) -> GssState:
    """The memory after each row of a batch had its turn."""
    size = s.scores.shape[0]

    def turn(b, s):
        drawing, deciding = jax.random.split(jax.random.fold_in(rng, b))
        full = s.buffer.seen >= size
        drawn = jax.random.categorical(drawing, jnp.log(s.scores))
        gives_way = jax.random.uniform(deciding) * (s.scores[drawn] + score[b]) < s.scores[drawn]
        slot = jnp.where(full, drawn, s.buffer.seen)
        takes = keep[b] & (~full | (score[b] < 1) & gives_way)
        records = {
            name: x.at[slot].set(jnp.where(takes, batch[name][b].astype(x.dtype), x[slot]))
            for name, x in s.buffer.records.items()
        }
        buffer = s.buffer._replace(records=records, seen=s.buffer.seen + (takes & ~full))
        return GssState(buffer, s.scores.at[slot].set(jnp.where(takes, score[b], s.scores[slot])))

    return jax.lax.fori_loop(0, keep.shape[0], turn, s)
