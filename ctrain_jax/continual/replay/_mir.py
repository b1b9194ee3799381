"""MIR: maximally interfered retrieval.

Aljundi et al., "Online Continual Learning with Maximally Interfered Retrieval", NeurIPS 2019, arXiv 1908.04742, the
form for experience replay with the criterion MI-1. The paper was not opened again; its authors' code
(optimass/Maximally_Interfered_Retrieval) was. Where we differ: as in `er`, a step takes one mean over incoming and
replayed rows, where the code adds two means (the same direction with as many of both, half as long: double the learning
rate); their code replays rows of earlier tasks alone, from the second task on, where nothing here knows of tasks;
candidates are scored with the running statistics of BatchNorm.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.core import Method
from ctrain_jax.ops import BufferState, append_rows, check_positive, check_size, memory


class MirState(NamedTuple):
    """The memory, and the virtual step."""

    buffer: BufferState  # `size` records: row number and experience (and label, for policies by class)
    lr: jax.Array  # float32 []


def mir(
    size: int, *, lr: float, candidates: int = 50, batch_size: int | None = None, policy: str = "reservoir"
) -> Method:
    r"""Replay the rows of the memory that the next step would harm most.

    With a virtual step of SGD on the incoming batch :math:`B` alone, :math:`\theta^v = \theta - \eta \nabla L_B`, the
    rows with the largest

    .. math:: \ell(f_{\theta^v}(x), y) - \ell(f_\theta(x), y)

    of some drawn from the memory join the batch, as in `er`. A step costs about two of `er`, and two forward passes of
    the candidates.

    Args:
      size: rows of the memory; row numbers are stored, 8 bytes each.
      lr: of the virtual step; the optimizer's own in the paper.
      candidates: rows drawn from the memory and scored; the paper uses 50.
      batch_size: rows replayed, at most `candidates`; as many as the incoming ones by default (the paper has 10 of
        both).
      policy: as in `er`.

    Returns:
      The method.

    Raises:
      ValueError: `size`, `candidates` or `batch_size` below 1, an `lr` of 0 or below, an unknown policy; less
        candidates than rows to replay, when the learner is made.

    Example:
      >>> mir(500, lr=0.05).name
      'mir'
    """
    rows = memory(size, policy)
    check_positive("lr", lr)
    check_size("candidates", candidates)
    if batch_size is not None:
        check_size("batch_size", batch_size)

    def init(rng, params, ctx):
        num = batch_size or ctx.spec.batch_size
        if candidates < num:
            raise ValueError(
                f"mir expects at least as many candidates as rows to replay, got candidates={candidates} for {num} "
                "rows: give more candidates, or a smaller batch_size."
            )
        return MirState(rows.init(ctx.spec), jnp.asarray(lr, jnp.float32))

    def augment(s, batch, ctx):
        records, weights = rows.draw(s.buffer, ctx.rng, candidates, ctx.incoming)
        # Of a memory with less rows than candidates, each is one candidate, not several.
        weights = weights * (jnp.arange(candidates) < rows.held(s.buffer).sum())
        drawn = ctx.fetch(records) | {"weights": weights}
        grads = ctx.grad_fn(ctx.params, batch=ctx.incoming, penalties=False)
        virtual = jax.tree.map(lambda p, g: p - s.lr * g, ctx.params, grads)

        def losses(params):
            outputs, _ = ctx.forward(params, drawn["inputs"], task=drawn["task"])
            return ctx.problem.loss(outputs, drawn)

        harm = jnp.where(weights > 0, losses(virtual) - losses(ctx.params), -jnp.inf)
        _, worst = jax.lax.top_k(harm, batch_size or ctx.spec.batch_size)
        return append_rows(batch, jax.tree.map(lambda x: x[worst], drawn))

    def update(s, ts, ctx):
        return s._replace(buffer=rows.add(s.buffer, ctx.rng, ctx.incoming, ts.params)), ts

    return Method("mir", init=init, augment=augment, update=update, needs=("labels",))
