"""ER: experience replay.

Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019, arXiv 1902.10486; the reservoir is algorithm R
of Vitter, ACM TOMS 1985. Written from the papers. The form that van de Ven, Tuytelaars and Tolias compare with others
("Three types of incremental learning", 2022) is `er(100 * num_classes, policy="ring", fill="end",
weighting="experiences")`, after their code (GMvandeVen/continual-learning, opened), which draws from the memory without
repetition and one batch for each earlier task where tasks have heads of their own.
"""

from typing import NamedTuple

import jax.numpy as jnp

from ctrain_jax.core import Method
from ctrain_jax.ops import BufferState, append_rows, check_choice, check_size, memory


class ErState(NamedTuple):
    """The memory."""

    buffer: BufferState  # `size` records: row number and experience (and label, for policies by class)


def er(
    size: int,
    *,
    batch_size: int | None = None,
    policy: str = "reservoir",
    fill: str = "step",
    weighting: str = "rows",
) -> Method:
    r"""Replay rows of a small memory with every batch.

    Each step minimises the mean loss over the incoming batch :math:`B` and rows :math:`M` drawn uniformly from the
    memory, in one forward pass,

    .. math:: \frac{1}{|B| + |M|} \sum_{b \in B \cup M} \ell(f(x_b), y_b)

    and then offers the incoming rows to the memory. While the memory is empty :math:`M` is copies of incoming rows with
    weight 0, so that the first step is a plain one, BatchNorm included. A row that comes again in a later epoch is
    offered again, and may be held twice.

    Args:
      size: rows of the memory; row numbers are stored, 8 bytes each.
      batch_size: rows replayed in a step; as many as the incoming ones by default.
      policy: "reservoir" (uniform over all that was seen), "class_balanced" (a reservoir that keeps classes even),
        "greedy_balanced" (as GDumb stores them), "ring" (the latest rows of each class, `size // num_classes` each) or
        "experience" (the same for each experience, where labels come again).
      fill: "step" offers each batch after its step; "end" offers all rows of an experience, in random order, when it is
        over, so that rows of earlier experiences alone are replayed.
      weighting: "rows" weighs every row alike; "experiences" weighs every experience alike: in the :math:`t`-th the
        mean loss of the incoming rows counts :math:`1 / t` and that of the replayed ones :math:`1 - 1 / t`.

    Returns:
      The method.

    Raises:
      ValueError: `size` or `batch_size` below 1, an unknown policy, `fill` or `weighting`.

    Example:
      >>> er(500).name
      'er'
    """
    rows = memory(size, policy)
    if batch_size is not None:
        check_size("batch_size", batch_size)
    check_choice("fill", fill, ("step", "end"))
    check_choice("weighting", weighting, ("rows", "experiences"))

    def init(rng, params, ctx):
        return ErState(rows.init(ctx.spec))

    def augment(s, batch, ctx):
        records, weights = rows.draw(s.buffer, ctx.rng, batch_size or ctx.spec.batch_size, ctx.incoming)
        if weighting == "experiences":
            # The weights of a batch are relative: new to replayed as 1 to t - 1, in sum.
            earlier = ctx.experience.index.astype(jnp.float32)
            weights = weights * earlier * ctx.incoming["weights"].sum() / jnp.maximum(weights.sum(), 1.0)
        return append_rows(batch, ctx.fetch(records) | {"weights": weights})

    def update(s, ts, ctx):
        if fill == "end":
            return s, ts
        return ErState(rows.add(s.buffer, ctx.rng, ctx.incoming, ts.params)), ts

    def end(s, ts, ctx):
        if fill == "step":
            return s, ts
        return ErState(rows.offer(s.buffer, ctx, ts.params)), ts

    told = ("boundaries",) if fill == "end" or weighting == "experiences" else ()
    return Method("er", init=init, augment=augment, update=update, end=end, needs=(*told, "labels"))
