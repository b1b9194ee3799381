"""A-GEM: averaged gradient episodic memory.

Chaudhry, Ranzato, Rohrbach and Elhoseiny, "Efficient Lifelong Learning with A-GEM", ICLR 2019, arXiv 1812.00420.
Opened: the projection in the authors' code (facebookresearch/agem; not how it fills its memory), and the step and the
memory of GMvandeVen/continual-learning (`models/classifier.py`) and aimagelab/mammoth (`models/agem.py`). Where we
differ: all rows of an experience are offered to the memory when it is over, where mammoth stores one batch of each
experience, and van de Ven 100 random rows of each class, which here is `agem(100 * num_classes, policy="ring")`; their
separate draws for each earlier task, where tasks have heads of their own, are one draw here.
"""

from typing import NamedTuple

import optax

from ctrain_jax.core import Method
from ctrain_jax.ops import BufferState, check_size, memory
from ctrain_jax.optim import project_agem


class AgemState(NamedTuple):
    """The memory."""

    buffer: BufferState  # `size` records: row number and experience (and label, for policies by class)


def agem(size: int, *, batch_size: int | None = None, policy: str = "reservoir") -> Method:
    r"""Let no step go up the mean loss of rows of earlier experiences.

    With the gradient :math:`g` of the step and the gradient :math:`r` of the task's own loss over rows drawn from the
    memory, at the same parameters, the optimizer is given

    .. math:: \tilde g = g - \frac{\min(\langle g, r \rangle, 0)}{\langle r, r \rangle} \, r

    in place of :math:`g`. :math:`g` is all that is minimised, with the penalties and the replayed rows of other methods
    of a chain; :math:`r` has no penalties. The memory is filled when an experience is over, so that :math:`r` is of
    earlier experiences alone; in the first one it is empty and a step is a plain one. Cost: a forward and a backward
    pass of `batch_size` rows a step. The projection is before the optimizer, as published: an adaptive optimizer behind
    it turns the step again.

    Args:
      size: rows of the memory; row numbers are stored, 8 bytes each.
      batch_size: rows drawn for the reference in a step; as many as the incoming ones by default.
      policy: "reservoir" (uniform over all that was seen), "class_balanced" (a reservoir that keeps classes even) or
        "ring" (the latest rows of each class in a random order: `size // num_classes` random rows of each).

    Returns:
      The method.

    Raises:
      ValueError: `size` or `batch_size` below 1, an unknown policy.

    Example:
      >>> agem(500).name
      'agem'
    """
    rows = memory(size, policy)
    if batch_size is not None:
        check_size("batch_size", batch_size)
    projection = project_agem()

    def init(rng, params, ctx):
        return AgemState(rows.init(ctx.spec))

    def optimizer(tx):
        def update(updates, state, params=None, **extra):
            ctx = extra["ctx"]
            records, weights = rows.draw(
                extra["method_state"].buffer, ctx.rng, batch_size or ctx.spec.batch_size, ctx.incoming
            )
            batch = ctx.fetch(records) | {"weights": weights}
            # `params` and not ctx.params: an optimizer around this one may have moved them before it took the gradient.
            reference = ctx.grad_fn(params, batch=batch, penalties=False)
            updates, _ = projection.update(updates, optax.EmptyState(), reference=reference)
            return tx.update(updates, state, params, **extra)

        return optax.GradientTransformationExtraArgs(tx.init, update)

    def end(s, ts, ctx):
        return AgemState(rows.offer(s.buffer, ctx, ts.params)), ts

    return Method("agem", init=init, end=end, optimizer=optimizer, needs=("boundaries", "labels"))
