"""PackNet: weights that a task can do without are the next one's.

Mallya and Lazebnik, "PackNet: Adding Multiple Tasks to a Single Network by Iterative Pruning", CVPR 2018, arXiv
1711.05769. The authors' code (arunmallya/packnet) was opened. As there, a layer is pruned by the magnitude of the
task's own weights, what is pruned starts at 0 for the next task, each stage starts with a new optimizer, and biases
and the scales of a normalisation learn with the first task alone. Where we differ: an experience is both stages, pruned
at a given share of its steps, where the code trains for 20 epochs, prunes, and trains on for 10 at a tenth of the rate;
updates are masked after the optimizer as well, so that the promise holds under weight decay; statistics of BatchNorm
are kept for each task, where the code fixes them after the first; the first task starts from the model as it is drawn,
where the authors' starts from ImageNet.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.continual.architecture._isolation import Parts, isolated
from ctrain_jax.continual.architecture._tasks import check_rows, check_tasks, only, progress
from ctrain_jax.core import Method
from ctrain_jax.ops import check_fraction, check_pattern, check_size, restart, top_k_mask

FREE = jnp.iinfo(jnp.int32).max  # of `frozen["owner"]`


class PacknetState(NamedTuple):
    """How much is pruned, and when."""

    share: jax.Array  # float32 []
    retrain_share: jax.Array  # float32 []
    pruned: jax.Array  # bool [], in this experience


def packnet(
    num_tasks: int,
    *,
    share: float = 0.75,
    retrain_share: float = 1 / 3,
    match: str = r"kernel$",
    own: str | None = r"^head\.",
) -> Method:
    r"""Train the weights that are free, free the smallest of them again, and train on with those that are left.

    Experience t begins with all free weights as its own. After its first steps it keeps, in each kernel, of its own
    :math:`n` weights the :math:`n - \mathrm{round}(\mathrm{share} \cdot n)` of the largest magnitude; the others are 0
    and free, until the next experience. Through the rest of its steps what it keeps trains on, with a new state of the
    optimizer. A task sees what belonged to anyone when its experience ended:

    .. math:: \text{kernel}_t = w \odot [\mathrm{owner} \le t]

    Weights of earlier experiences never move, and nothing is forgotten. Each task has an output layer of its own. All
    other parameters learn in the first experience alone; `own=r"^head\.|bias$|scale$"` gives these to each task as
    well. Statistics of BatchNorm are kept for each task.

    One network serves a batch. A row whose task is not that of the batch's first gets answers that are not finite;
    methods that append rows are refused. A task that comes again learns with what is free then, from its own output
    layer.

    Args:
      num_tasks: output layers; tasks are numbered from 0.
      share: of the weights that an experience begins with, those that it frees; 0.5 to 0.75 in the paper.
      retrain_share: share of an experience's steps that come after.
      match: pattern (`re.search`) of the kernels that are divided, by names like `dense_0.kernel`.
      own: pattern of the parameters that each task has for itself; None for an output layer that is divided too, as
        where all tasks have the same classes.

    Returns:
      The method. It needs the task of a row in tests as well: `streams.task_incremental`,
      `streams.permuted(..., task_known=True)`. Parameters are those of the model, with a copy for each task of those in
      `own`; `frozen` holds `owner`, the number of an experience for each weight, and `last` [num_tasks], the experience
      that a task was learned in.

    Raises:
      ValueError: `num_tasks` below 1, a share outside of [0, 1]; when a learner is made, a pattern that finds nothing,
        a `match` that finds a vector, or more experiences than `num_tasks`.

    Example:
      >>> packnet(5, share=0.5).needs
      ('task', 'boundaries')
    """
    check_size("num_tasks", num_tasks)
    check_pattern("match", match)
    check_pattern("own", own)
    check_fraction("share", share)
    check_fraction("retrain_share", retrain_share)
    parts = Parts(match, own)

    def free(kernels):
        owner = {name: jnp.full(leaf.shape, FREE, jnp.int32) for name, leaf in kernels.items()}
        return {"owner": owner, "last": jnp.full(num_tasks, -1, jnp.int32)}

    def see(frozen, name, kernel, task):
        return jnp.where(frozen["owner"][name] <= frozen["last"][task], kernel, 0)

    def init(rng, params, ctx):
        check_tasks("packnet", num_tasks, ctx)
        return PacknetState(
            jnp.asarray(share, jnp.float32), jnp.asarray(retrain_share, jnp.float32), jnp.asarray(False)
        )

    def begin(s, ts, ctx):
        index = ctx.experience.index
        owner = {name: jnp.where(held == FREE, index, held) for name, held in ts.frozen["owner"].items()}
        last = ts.frozen["last"].at[ctx.experience.task].set(index)
        ts = ts._replace(frozen=ts.frozen | {"owner": owner, "last": last})
        return s._replace(pruned=jnp.zeros_like(s.pruned)), restart(ts, ctx)

    def prune(s, ts, ctx):
        owner, kernels = dict(ts.frozen["owner"]), parts.kernels(ts.params)
        for name, kernel in kernels.items():
            mine = owner[name] == ctx.experience.index
            number = jnp.sum(mine)
            kept = top_k_mask(jnp.where(mine, jnp.abs(kernel), -1), number - _part(s.share, number))
            owner[name] = jnp.where(mine & ~kept, FREE, owner[name])
            kernels[name] = jnp.where(mine & ~kept, 0, kernel)
        ts = ts._replace(params=parts.put(ts.params, kernels), frozen=ts.frozen | {"owner": owner})
        return s._replace(pruned=jnp.ones_like(s.pruned)), restart(ts, ctx)

    def moves(s, updates, ctx):
        mine = {name: held == ctx.experience.index for name, held in ctx.frozen["owner"].items()}
        return parts.moves(updates, mine, ctx)

    def update(s, ts, ctx):
        check_rows("packnet", ctx)
        done, steps = progress(ts, ctx)
        due = ~s.pruned & (done >= steps - _part(s.retrain_share, steps))
        return jax.lax.cond(due, lambda: prune(s, ts, ctx), lambda: (s, ts))

    def end(s, ts, ctx):
        return jax.lax.cond(s.pruned, lambda: (s, ts), lambda: prune(s, ts, ctx))

    return Method(
        "packnet",
        init=init,
        begin=begin,
        update=update,
        end=end,
        model=isolated("packnet", num_tasks, parts, free, see),
        optimizer=only(moves),
        needs=("task", "boundaries"),
    )


def _part(share: jax.Array, number: jax.Array) -> jax.Array:
    return jnp.round(share * number).astype(jnp.int32)
