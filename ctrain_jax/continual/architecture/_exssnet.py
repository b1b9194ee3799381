"""ExSSNeT: a mask for each task, and weights of its own where no earlier mask looks.

Yadav and Bansal, "Exclusive Supermask Subnetwork Training for Continual Learning", Findings of ACL 2023, arXiv
2210.10209. The authors' code (prateeky2806/exessnet) was opened. Where we differ: updates are masked after the
optimizer as well, so that the promise holds under weight decay; a task ends in its last state, where the code goes on
from the epoch, of either stage, that was best on held out rows; the two stages share one optimizer, which
`optax.partition` over "scores" and "weights" gives two rates; scores start anew, without the transfer from similar
tasks by k nearest neighbours; and what is said of `supsup`. Compared as there, weights too are the code's to rounding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.continual.architecture._supermask import check_masks, keep_mask, masked, start_task
from ctrain_jax.continual.architecture._tasks import check_rows, check_tasks, only, progress
from ctrain_jax.core import Method, PyTree
from ctrain_jax.ops import check_fraction, restart


class ExssnetState(NamedTuple):
    """When masks are done, and which weights are in the last one alone."""

    mask_share: jax.Array  # float32 []
    exclusive: PyTree  # {kernel: bool, like it}


def exssnet(
    num_tasks: int,
    *,
    density: float = 0.1,
    mask_share: float = 0.5,
    weights: str = "signed",
    match: str = r"kernel$",
) -> Method:
    r"""Find a mask as `supsup` does; then train the weights in it that are in no earlier one.

    In the first steps of experience :math:`t` its scores learn, and weights stand still. Then the mask :math:`M_t` is
    fixed, and weights learn at

    .. math:: E_t = M_t \setminus (M_1 \cup \ldots \cup M_{t-1}),

    which no earlier task looks at: nothing is forgotten, and a task reads what earlier ones have trained where masks
    overlap. A task that comes again gets a new mask, and trains in it what no mask of another task has. Each stage
    starts with a new state of the optimizer. Batches and statistics: see `supsup`.

    Args:
      num_tasks: masks; tasks are numbered from 0.
      density: share of each kernel's weights that a task sees; the paper uses 0.02 to 0.1.
      mask_share: share of an experience's steps that find the mask; 1 is `supsup`.
      weights: see `supsup`.
      match: see `supsup`.

    Returns:
      The method; what it needs: see `supsup`. Parameters are `scores` and `weights`; `frozen` holds the masks.

    Raises:
      ValueError: `mask_share` outside of [0, 1]; otherwise as `supsup`.

    Example:
      >>> exssnet(5, density=0.05).needs
      ('task', 'boundaries')
    """
    check_masks(num_tasks, density, weights, match)
    check_fraction("mask_share", mask_share)

    def init(rng, params, ctx):
        check_tasks("exssnet", num_tasks, ctx)
        exclusive = {name: jnp.zeros(leaf.shape, bool) for name, leaf in params["weights"].items()}
        return ExssnetState(jnp.asarray(mask_share, jnp.float32), exclusive)

    def fix(s, ts, task):
        """The mask is kept, and found are its weights that no other has."""
        ts = keep_mask(ts, task, density)
        # By all other masks, not by who trained a weight first: a task that comes again shares what it once trained.
        others = jnp.arange(num_tasks) != task
        return s._replace(
            exclusive={
                name: bank[task] & ~jnp.any(bank & others.reshape(-1, *[1] * (bank.ndim - 1)), axis=0)
                for name, bank in ts.frozen["masks"].items()
            }
        ), ts

    def moves(s, updates, ctx):
        finding = ctx.frozen["live"] >= 0
        return {
            "scores": dict.fromkeys(updates["scores"], finding),
            "weights": {name: ~finding & own for name, own in s.exclusive.items()},
        }

    def fix_in_time(s, ts, ctx):
        done, steps = progress(ts, ctx)
        finding = jnp.round(s.mask_share * steps)

        def switch():
            new, fixed = fix(s, ts, ctx.experience.task)
            return new, restart(fixed, ctx)

        return jax.lax.cond((ts.frozen["live"] >= 0) & (done >= finding), switch, lambda: (s, ts))

    def begin(s, ts, ctx):
        return fix_in_time(s, start_task(ts, ctx), ctx)

    def update(s, ts, ctx):
        check_rows("exssnet", ctx)
        return fix_in_time(s, ts, ctx)

    def end(s, ts, ctx):
        return jax.lax.cond(ts.frozen["live"] >= 0, lambda: fix(s, ts, ctx.experience.task), lambda: (s, ts))

    model = masked("exssnet", num_tasks, density, weights, match, trained=True)
    return Method(
        "exssnet",
        init=init,
        begin=begin,
        update=update,
        end=end,
        model=model,
        optimizer=only(moves),
        needs=("task", "boundaries"),
    )
