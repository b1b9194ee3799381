"""ER-ACE: experience replay with an asymmetric cross-entropy.

Caccia et al., "New Insights on Reducing Abrupt Representation Change in Online Continual Learning", ICLR 2022, arXiv
2104.05025. The paper was not opened; the code of its authors (pclucas14/AML) and of aimagelab/mammoth was, and agrees:
the two losses are means of their own, added, each with a forward pass of its own in training mode. As in Mammoth (and
in the authors' code where tasks are known), the first experience is plain training. Where we differ: classes that were
never seen are those of later experiences, where the code takes all with a larger number than any seen; the linear head
stays, where Mammoth puts a scaled cosine by default.
"""

from typing import NamedTuple

import jax.numpy as jnp

from ctrain_jax.continual._classes import told_apart
from ctrain_jax.continual.replay._pass import replay_pass
from ctrain_jax.core import Method, weighted_mean
from ctrain_jax.ops import BufferState, check_size, memory


class ErAceState(NamedTuple):
    """The memory."""

    buffer: BufferState  # `size` records: row number and experience (and label, for policies by class)


def er_ace(size: int, *, batch_size: int | None = None, policy: str = "reservoir") -> Method:
    r"""Replay rows, and let incoming ones push only against the classes that came with them.

    From the second experience on, a step minimises

    .. math:: \frac{1}{|B|} \sum_{b \in B} \ell_{C_B \cup U}(f(x_b), y_b)
              + \frac{1}{|M|} \sum_{m \in M} \ell(f(x_m), y_m)

    over the incoming batch :math:`B` and rows :math:`M` drawn from the memory. The softmax of the incoming rows is over
    the classes :math:`C_B` of the batch and those :math:`U` that never came, so that new rows do not move the logits of
    old classes; that of the replayed rows is over all. Where a stream restricts the classes of a row (`heads`), both
    keep to that as well. The two means are added: by comparison with `er`, which takes one mean over all rows, the
    gradient is twice as large.

    Args:
      size: rows of the memory; row numbers are stored, 8 bytes each.
      batch_size: rows replayed in a step; as many as the incoming ones by default.
      policy: as in `er`.

    Returns:
      The method. It adds `classes` to the batch: methods that append rows come before it in a chain.

    Raises:
      ValueError: `size` or `batch_size` below 1, an unknown policy.

    Example:
      >>> er_ace(500).name
      'er_ace'
    """
    rows = memory(size, policy)
    if batch_size is not None:
        check_size("batch_size", batch_size)

    def init(rng, params, ctx):
        return ErAceState(rows.init(ctx.spec))

    def augment(s, batch, ctx):
        arrived = ctx.incoming["weights"] > 0
        present = jnp.zeros(ctx.spec.num_classes, bool).at[ctx.incoming["labels"]].max(arrived)
        return told_apart(batch, present | ~ctx.experience.seen | (ctx.experience.index == 0), ctx)

    def loss(s, params, ctx):
        num, later = batch_size or ctx.spec.batch_size, ctx.experience.index > 0
        outputs, _, batch, model_state = replay_pass(
            rows, s.buffer, num, params, ctx, ctx.rng, ctx.model_state, replays=later
        )
        return weighted_mean(ctx.problem.loss(outputs, batch), batch["weights"]), {"model_state": model_state}

    def update(s, ts, ctx):
        return ErAceState(rows.add(s.buffer, ctx.rng, ctx.incoming, ts.params)), ts

    return Method("er_ace", init=init, augment=augment, loss=loss, update=update, needs=("boundaries", "classes"))
