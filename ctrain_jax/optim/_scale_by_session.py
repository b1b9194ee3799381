"""Updates that shrink with what was learned before: by the share of new classes among all that were seen.

The regularisation of CPE-CLIP: D'Alessandro et al., "Multimodal Parameter-Efficient Few-Shot Class Incremental
Learning", ICCV workshops 2023, arXiv 2303.04751. Opened: the authors' code (neuraptic/cpe-clip, CoLeLib/training/
strategies/clip_pe.py), which settles the factor; the paper was not. Where we differ: the code has the factor itself, no
factor, or one of 0 (which leaves the map of the prompts trained), and here these are powers of it; it scales gradients
in front of an SGD that is made anew in each session, so that its weight decay is not scaled and its momentum carries
nothing into the next session. A transcription of it differs from SGD with this behind it by 1e-7 in the first session,
later by what momentum carries over; and by 2e-7 where both go on with their momentum and this stands in front of SGD.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax.ops import check_non_negative, check_size


def scale_by_session(
    session_lens: Sequence[int], num_new: Sequence[int], *, damping: float = 1.0
) -> optax.GradientTransformationExtraArgs:
    r"""Multiply the updates of each session by the share of classes that are new in it.

    With :math:`n_k` new classes in session :math:`k`, its factor is

    .. math:: \left( \frac{n_k}{\sum_{j \le k} n_j} \right)^{damping}

    that of the first session is 1, and after the last one its factor stays. It belongs after an adaptive optimizer,
    which would undo a factor of its gradient: `optax.chain(optax.adam(1e-3), scale_by_session(...))`. It counts the
    updates that it is given: a method that starts the optimizer anew in each experience, as `packnet` does
    (`ops.restart`), starts the sessions anew as well, and a step that is skipped does not count.

    Args:
      session_lens: steps of each session, as `learner.spec.steps`.
      num_new: new classes of each session.
      damping: 1 in the authors' code; 0 changes nothing, `math.inf` lets nothing move after the first session. A tracer
        will do, so that it can be swept.

    Returns:
      The transform; its state is the number of steps.

    Raises:
      ValueError: no session, lists of two lengths, a session without a step or a new class, a negative `damping`.

    Example:
      >>> tx = scale_by_session([1, 1], [6, 2])
      >>> state, updates = tx.init(jnp.ones(1)), []
      >>> for _ in range(3):
      ...   update, state = tx.update(jnp.ones(1), state)
      ...   updates.append(update.tolist())
      >>> updates
      [[1.0], [0.25], [0.25]]
    """
    lens, new = list(session_lens), list(num_new)
    if not lens or len(lens) != len(new):
        raise ValueError(
            f"scale_by_session expects steps and new classes of each session, got {len(lens)} and {len(new)} of them."
        )
    for what, values in (("session_lens", lens), ("num_new", new)):
        for value in values:
            check_size(f"Each entry of {what}", value)
    check_non_negative("damping", damping)
    shares = np.divide(new, np.cumsum(new)).astype(np.float32)
    starts = np.asarray(list(itertools.accumulate(lens[:-1])), np.int32)

    def factor(step):
        return jnp.power(shares, damping)[jnp.searchsorted(starts, step, side="right")]

    return optax.with_extra_args_support(optax.scale_by_schedule(factor))
