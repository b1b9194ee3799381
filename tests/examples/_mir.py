"""MIR: maximally interfered retrieval.

Aljundi et al., "Online Continual Learning with Maximally Interfered Retrieval", NeurIPS 2019, arXiv 1908.04742, the
form for experience replay with the criterion MI-1. Written from the paper; no code was opened. Where we differ: the
candidates are scored with the running statistics of BatchNorm.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax import core, ops


class MirState(NamedTuple):
    """The memory, and the virtual step."""

    buffer: ops.BufferState  # `size` records: row number and experience
    lr: jax.Array  # float32 []


def mir(size: int, *, lr: float, candidates: int = 64, batch_size: int | None = None) -> core.Method:
    r"""Replay the rows of the memory that the next step would harm most.

    With a virtual step on the incoming batch, :math:`\theta^v = \theta - \eta \nabla L(\theta)`, the rows with the
    largest :math:`\ell(f_{\theta^v}(x), y) - \ell(f_\theta(x), y)` of some drawn from the memory join the batch.

    Args:
      size: rows of the memory.
      lr: of the virtual step; the optimizer's own in the paper.
      candidates: rows drawn from the memory and scored.
      batch_size: rows replayed; as many as the incoming ones by default.

    Returns:
      The method.
    """
    memory = ops.memory(size)

    def init(rng, params, ctx):
        return MirState(memory.init(ctx.spec), jnp.asarray(lr, jnp.float32))

    def augment(s, batch, ctx):
        records, weights = memory.draw(s.buffer, ctx.rng, candidates, ctx.incoming)
        drawn = ctx.fetch(records) | {"weights": weights}
        grads = ctx.grad_fn(ctx.params, batch=ctx.incoming, penalties=False)
        virtual = jax.tree.map(lambda p, g: p - s.lr * g, ctx.params, grads)

        def losses(params):
            outputs, _ = ctx.forward(params, drawn["inputs"], task=drawn["task"])
            return ctx.problem.loss(outputs, drawn)

        _, worst = jax.lax.top_k(losses(virtual) - losses(ctx.params), batch_size or ctx.spec.batch_size)
        return ops.append_rows(batch, jax.tree.map(lambda x: x[worst], drawn))

    def update(s, ts, ctx):
        return s._replace(buffer=memory.add(s.buffer, ctx.rng, ctx.incoming, ts.params)), ts

    return core.Method("mir", init=init, augment=augment, update=update, needs=("labels",))
