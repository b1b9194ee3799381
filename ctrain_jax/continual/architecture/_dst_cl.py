"""DST-CL: a sparse network for each task, whose connections move while it trains.

Yildirim et al., "Continual Learning with Dynamic Sparse Training: Exploring Algorithms for Effective Model Updates",
CPAL 2024, arXiv 2308.14831. The authors' code (muratonuryildirim/CL-with-DST) was opened. As there, a task starts on
random weights, those of earlier tasks among them, which it sees and does not train; a weight that was dropped may grow
again in the same change, and keeps its value then. Where we differ: masks have exact sizes, where the code draws each
weight by itself, random growth included; only weights that the task trains are dropped, and only weights that nobody
owns grow, so that the task keeps as many to train as it starts with, where the code lets all move; the share that is
exchanged falls to 0, there to 0.005, and is rounded, there up; free weights start an experience where the model drew
them, where the code leaves them 0; each task has a dense output layer of its own, where the code masks one for all
classes; biases and the scales of a normalisation learn with the first task alone, where the code trains them on and
lets earlier answers move; the last state is kept, where the code takes the best epoch; the momentum of SNFS, which is
part of an optimizer that the user brings, is left out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.continual.architecture._isolation import Named, Parts, isolated
from ctrain_jax.continual.architecture._tasks import check_count, check_rows, check_tasks, only, progress
from ctrain_jax.core import Method
from ctrain_jax.ops import (
    check_choice,
    check_fraction,
    check_pattern,
    check_positive,
    check_size,
    erk_density,
    restart,
    top_k_mask,
)


class DstClState(NamedTuple):
    """When and how much masks change, and which weights are owned."""

    every: jax.Array  # int32 []
    alpha: jax.Array  # float32 []
    owned: Named  # {kernel: bool, like it}, by a task of an earlier experience
    drawn: Named  # {kernel: like it}, as the model drew it


def dst_cl(
    num_tasks: int,
    *,
    density: float = 0.1,
    layers: str = "erk",
    grow: str = "gradient",
    every: int = 100,
    alpha: float = 0.5,
    match: str = r"kernel$",
    own: str | None = r"^head\.",
) -> Method:
    r"""Train a share of the weights for each task, and now and then exchange the smallest for others.

    The mask :math:`M_t` of an experience starts on random weights, :math:`d_l N_l` of a kernel's :math:`N_l`, and never
    changes its size. Weights in it that earlier experiences own are seen and stand still; the others learn, and are
    owned from the end of the experience on. At each multiple :math:`i` of `every` steps of its :math:`T`,

    .. math:: n = \mathrm{round}\Big(\frac{\alpha}{2} \big(1 + \cos \tfrac{\pi i}{T}\big) \, |\text{learning}|\Big)

    of those that learn, the smallest, leave the mask of each kernel, and n free weights grow in it, from 0: random ones
    (SET), or those along which the loss of this step's batch has the largest gradient (RigL).

    An experience starts with a new state of the optimizer. What is said of output layers, other parameters, statistics
    and batches, see `packnet`. A task that comes again is learned anew, with what is free.

    Args:
      num_tasks: masks; tasks are numbered from 0.
      density: share of the weights of all masked kernels that a task sees.
      layers: "erk" gives small kernels more (`ops.erk_density`), "uniform" all the same.
      grow: "gradient" or "random".
      every: steps between two changes of the mask; 100 to 400 in the authors' code.
      alpha: :math:`\alpha`; 0.5 in the authors' code.
      match: pattern (`re.search`) of the kernels that are masked, by names like `dense_0.kernel`.
      own: see `packnet`.

    Returns:
      The method; what it needs: see `packnet`. `frozen` holds the masks, {kernel: bool [num_tasks, ...]}.

    Raises:
      ValueError: `num_tasks` or `every` below 1, a `density` outside of (0, 1], an `alpha` outside of [0, 1], other
        `layers` or `grow`; when a learner is made, a kernel of which nothing is left; otherwise as `packnet`.

    Example:
      >>> dst_cl(5, density=0.05, grow="random").needs
      ('task', 'boundaries')
    """
    check_size("num_tasks", num_tasks)
    check_pattern("match", match)
    check_pattern("own", own)
    check_positive("density", density)
    check_fraction("density", density)
    check_choice("layers", layers, ("erk", "uniform"))
    check_choice("grow", grow, ("gradient", "random"))
    check_size("every", every)
    check_fraction("alpha", alpha)
    parts = Parts(match, own)

    def counts(kernels):
        """Weights in the mask of each kernel."""
        shapes = {name: leaf.shape for name, leaf in kernels.items()}
        share = erk_density(shapes, density) if layers == "erk" else dict.fromkeys(shapes, density)
        return {name: round(share[name] * leaf.size) for name, leaf in kernels.items()}

    def empty(kernels):
        for name, count in counts(kernels).items():
            check_count("dst_cl", density, name, kernels[name], count)
        return {"masks": {name: jnp.zeros((num_tasks, *leaf.shape), bool) for name, leaf in kernels.items()}}

    def see(frozen, name, kernel, task):
        # 0 outside of the mask, where growth asks for the gradient all the same; `moves` keeps it from the optimizer.
        seen = jax.lax.stop_gradient(jnp.where(frozen["masks"][name][task], kernel, 0))
        return seen + (kernel - jax.lax.stop_gradient(kernel))

    def init(rng, params, ctx):
        check_tasks("dst_cl", num_tasks, ctx)
        drawn = parts.kernels(params)
        owned = {name: jnp.zeros(leaf.shape, bool) for name, leaf in drawn.items()}
        return DstClState(jnp.asarray(every, jnp.int32), jnp.asarray(alpha, jnp.float32), owned, drawn)

    def live(masks, ctx):
        return {name: bank[ctx.experience.task] for name, bank in masks.items()}

    def put(ts, masks, kernels, ctx):
        banks = {name: bank.at[ctx.experience.task].set(masks[name]) for name, bank in ts.frozen["masks"].items()}
        return ts._replace(params=parts.put(ts.params, kernels), frozen=ts.frozen | {"masks": banks})

    def begin(s, ts, ctx):
        kernels = parts.kernels(ts.params)
        scores, count = _draw(ctx.rng, kernels), counts(kernels)
        masks = {name: top_k_mask(scores[name], count[name]) for name in kernels}
        kernels = {name: jnp.where(s.owned[name], leaf, s.drawn[name]) for name, leaf in kernels.items()}
        return s, restart(put(ts, masks, kernels, ctx), ctx)

    def moves(s, updates, ctx):
        masks = {name: mask & ~s.owned[name] for name, mask in live(ctx.frozen["masks"], ctx).items()}
        return parts.moves(updates, masks, ctx)

    def update(s, ts, ctx):
        check_rows("dst_cl", ctx)
        done, steps = progress(ts, ctx)

        def change():
            kernels, masks = parts.kernels(ts.params), live(ts.frozen["masks"], ctx)
            scores = _draw(ctx.rng, kernels) if grow == "random" else jax.tree.map(jnp.abs, parts.kernels(ctx.grads))
            rate = s.alpha / 2 * (1 + jnp.cos(jnp.pi * done / steps))
            for name, kernel in kernels.items():
                learning = masks[name] & ~s.owned[name]
                number = jnp.sum(learning)
                away = jnp.round(rate * number).astype(jnp.int32)
                kept = top_k_mask(jnp.where(learning, jnp.abs(kernel), -1), number - away)
                free = ~kept & ~s.owned[name]
                grown = top_k_mask(jnp.where(free, scores[name], -1), away)
                kernels[name] = jnp.where(grown & ~masks[name], 0, kernel)
                masks[name] = (masks[name] & s.owned[name]) | kept | grown
            return put(ts, masks, kernels, ctx)

        return s, jax.lax.cond((done % s.every == 0) & (done < steps), change, lambda: ts)

    def end(s, ts, ctx):
        masks = live(ts.frozen["masks"], ctx)
        return s._replace(owned={name: held | masks[name] for name, held in s.owned.items()}), ts

    return Method(
        "dst_cl",
        init=init,
        begin=begin,
        update=update,
        end=end,
        model=isolated("dst_cl", num_tasks, parts, empty, see),
        optimizer=only(moves),
        needs=("task", "boundaries"),
    )


def _draw(rng: jax.Array, kernels: Named) -> Named:
    """Uniform scores, by which a mask is a random one."""
    keys = jax.random.split(rng, len(kernels))
    return {name: jax.random.uniform(key, kernels[name].shape) for key, name in zip(keys, sorted(kernels), strict=True)}
