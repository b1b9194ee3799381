"""A batch of three parts: new rows, rows of earlier updates, rows of the pre-training.

The data mixture of Roth, Udandarao, Dziadzio et al., "A Practitioner's Guide to Continual Multimodal Pretraining",
2024, arXiv 2408.14471 (FoMo-in-Flux). Opened at the source: `flops_computation.py` and `buffer.py` in a copy of
ExplainableML/fomo_in_flux; the paper was not. Where we differ: the incoming batch is the new part and the others are
added to it (the authors divide a batch of fixed size); one memory has a share of `size` rows for each experience.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.core import Method, tag
from ctrain_jax.ops import BufferState, append_rows, check_non_negative, check_positive, memory

_PARTS = ("earlier", "pre-training")


class ThreeWayState(NamedTuple):
    """The memory."""

    buffer: BufferState  # `size` records, the same share of each experience: row number, experience


def three_way(size: int, *, ratios: Sequence[float] = (1.0, 1.0, 1.0)) -> Method:
    r"""Add rows of earlier experiences, and of the first one, to each batch in fixed ratios.

    Of :math:`B` incoming rows and ratios :math:`r` (new, earlier, pre-training),

    .. math:: B_e = \mathrm{round}(B \, r_e / r_n), \qquad B_p = \mathrm{round}(B \, r_p / r_n)

    rows are added, drawn uniformly and with repetition from what is held, and every row weighs alike. The first
    experience is the pre-training: nothing is added to it, and to the second only of the first; rows that are missing
    have weight 0. An experience enters the memory when it is over.

    Args:
      size: rows of the memory, `size // T` for each experience; 8 bytes each.
      ratios: of new, earlier and pre-training rows, in any unit; even in the authors' default. The first is above 0.

    Returns:
      The method.

    Raises:
      ValueError: a `size` below 1 (or below the number of experiences, when the learner is made), ratios that are not
        three, a first one that is not above 0, a negative one.

    Example:
      >>> three_way(500, ratios=(0.5, 0.25, 0.25)).name
      'three_way'
    """
    rows = memory(size, "experience")
    if len(ratios) != 3:
        raise ValueError(f"ratios must be of new, earlier and pre-training rows, got {len(ratios)}: give three.")
    new, *others = ratios
    check_positive("The ratio of new rows", new)
    for name, ratio in zip(_PARTS, others, strict=True):
        check_non_negative(f"The ratio of {name} rows", ratio)

    def init(rng, params, ctx):
        return ThreeWayState(rows.init(ctx.spec))

    def augment(s, batch, ctx):
        held, records, incoming = rows.held(s.buffer), s.buffer.records, ctx.incoming
        first = records["experience"] == 0
        for name, slots, ratio in zip(_PARTS, (held & ~first, held & first), others, strict=True):
            num = round(ctx.spec.batch_size * ratio / new)
            if num == 0:
                continue
            drawn = jax.random.categorical(tag(ctx.rng, name), jnp.where(slots, 0.0, -jnp.inf), shape=(num,))
            copies = jnp.arange(num) % ctx.spec.batch_size
            some = {k: jnp.where(slots.any(), x[drawn], incoming[k][copies]) for k, x in records.items()}
            weights = jnp.full(num, slots.any(), jnp.float32)
            batch = append_rows(batch, ctx.fetch(some) | {"weights": weights})
        return batch

    def end(s, ts, ctx):
        return ThreeWayState(rows.offer(s.buffer, ctx, ts.params)), ts

    return Method("three_way", init=init, augment=augment, end=end, needs=("boundaries", "labels"))
