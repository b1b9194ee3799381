"""ER: experience replay.

Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019, arXiv 1902.10486; the reservoir is algorithm R
of Vitter, ACM TOMS 1985. Written from the papers; no code was opened.
"""

from typing import NamedTuple

from ctrain_jax.core import Method
from ctrain_jax.ops import BufferState, append_rows, check_size, memory


class ErState(NamedTuple):
    """The memory."""

    buffer: BufferState  # `size` records: row number and experience (and label, for policies by class)


def er(size: int, *, batch_size: int | None = None, policy: str = "reservoir") -> Method:
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
      policy: "reservoir" (uniform over all that was seen), "class_balanced" (a reservoir that keeps classes even) or
        "ring" (the latest rows of each class, `size // num_classes` each).

    Returns:
      The method.

    Raises:
      ValueError: `size` or `batch_size` below 1, an unknown policy.

    Example:
      >>> er(500).name
      'er'
    """
    rows = memory(size, policy)
    if batch_size is not None:
        check_size("batch_size", batch_size)

    def init(rng, params, ctx):
        return ErState(rows.init(ctx.spec))

    def augment(s, batch, ctx):
        records, weights = rows.draw(s.buffer, ctx.rng, batch_size or ctx.spec.batch_size, ctx.incoming)
        return append_rows(batch, ctx.fetch(records) | {"weights": weights})

    def update(s, ts, ctx):
        return ErState(rows.add(s.buffer, ctx.rng, ctx.incoming, ts.params)), ts

    return Method("er", init=init, augment=augment, update=update, needs=("labels",))
