"""CheckFree: a lost stage is made again from its neighbours.

Blagoev, Ersoy, Chen, "All is Not Lost: LLM Recovery without Checkpoints", 2025, arXiv 2506.15461. Opened at the source:
the abstract and the authors' simulator (github.com/gensyn-ai/CheckFree at 8d7d547,
simulate_training/convergence_training.py, "ours-grad-avg", and convergence_training_2.py with the swaps); the text of
the paper was not. The simulator settles three things: a weight is the norm of the neighbour's last gradient, not its
square, plus 1e-4; the rate of a stage that was lost is 1.1 or 1.2 times the base's from then on, however often it is
lost; its optimizer is made anew, step count and schedule included. Written from the equations.
Where we differ: the simulator clips the gradient of each stage to norm 1 and weighs by what is left, we weigh by the
gradient as it is; there each stage may be lost in any step, here one interior stage at most, so that both neighbours
are always there; a stage is one block.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Method, PyTree
from ctrain_jax.ops import check_choice, check_fraction, check_positive


class CheckfreeState(NamedTuple):
    """A float for each stage."""

    failure_rate: jax.Array  # float32 []
    lr_scale: jax.Array  # float32 []
    scale: jax.Array  # float32 [S], of the learning rate: 1, and lr_scale once the stage was lost


def neighbour_recover(stacked_params: PyTree, lost: jax.Array | int, weights: jax.Array) -> PyTree:
    r"""Make a lost stage again from the two beside it.

    .. math:: \theta_s \leftarrow \frac{w_{s-1} \theta_{s-1} + w_{s+1} \theta_{s+1}}{w_{s-1} + w_{s+1}}, \qquad
              w_i = \|g_i\| + 10^{-4}

    The first and the last stage have one neighbour and become its copy, as in CheckFree+: good if they were trained in
    swapped order, see `swap_order`.

    Args:
      stacked_params: leaves `[S, ...]`, the stages in order; what is in the lost one is not read.
      lost: the stage that is lost, int32 scalar, from 0 on.
      weights: `[S]`, the norm of each stage's last gradient.

    Returns:
      The stages, the lost one replaced.

    Raises:
      ValueError: fewer than 2 stages, or weights of another shape.

    Example:
      >>> neighbour_recover(jnp.array([1.0, jnp.nan, 4.0]), 1, jnp.array([2.0, 0.0, 1.0])).round(3).tolist()
      [1.0, 2.0, 4.0]
    """
    num_stages = jnp.shape(weights)[0] if jnp.ndim(weights) else 0
    wrong = {jnp.shape(x)[:1] for x in jax.tree.leaves(stacked_params)} - {(num_stages,)}
    if num_stages < 2 or wrong:
        raise ValueError(
            f"neighbour_recover expects at least 2 stages on the first axis of every leaf and a weight for each, got "
            f"weights of shape {jnp.shape(weights)} and leaves of {sorted(wrong)}: stack the stages."
        )
    places = jnp.arange(num_stages)
    share = jnp.where(jnp.abs(places - lost) == 1, weights + 1e-4, 0.0)
    share = share / share.sum()

    def mix(p):
        each = share.reshape(-1, *[1] * (p.ndim - 1))
        # Not a plain product: what is left of the lost stage may be nan.
        mean = jnp.where(each > 0, each * p, 0.0).sum(0).astype(p.dtype)
        return p.at[lost].set(mean)

    return jax.tree.map(mix, stacked_params)


def swap_order(num_stages: int, micro_id: jax.Array | int) -> jax.Array:
    """In which order a micro-batch passes through the stages, in CheckFree+.

    Micro-batches of odd number pass through the first two stages, and through the last two, in swapped order. So each
    of the four learns to do its neighbour's work, and a lost end can be replaced by a copy of the stage beside it.

    Args:
      num_stages: at least 4, so that no stage is swapped twice.
      micro_id: number of the micro-batch, int32 scalar.

    Returns:
      int32 `[num_stages]`: which stage runs first, second, and so on.

    Raises:
      ValueError: fewer than 4 stages.

    Example:
      >>> swap_order(6, 0).tolist(), swap_order(6, 1).tolist()
      ([0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 5, 4])
    """
    if num_stages < 4:
        raise ValueError(f"num_stages must be at least 4, got {num_stages}: the swaps at the two ends would overlap.")
    order = jnp.arange(num_stages, dtype=jnp.int32)
    swapped = order.at[jnp.array([0, 1, -2, -1])].set(order[jnp.array([1, 0, -1, -2])])
    return jnp.where(jnp.asarray(micro_id) % 2 == 1, swapped, order)


def checkfree(
    failure_rate: float, *, stages: str = "block_", lr_scale: float = 1.1, recover: str = "average"
) -> Method:
    """Lose a stage now and then, and go on without a checkpoint.

    After each step, with probability `failure_rate`, one interior stage is lost, drawn uniformly. It is replaced by
    `neighbour_recover` with the norms of this step's gradient; its optimizer starts again, and its learning rate is
    `lr_scale` times that of the others from then on. As on a pipeline each stage, and what belongs to none, has an
    optimizer of its own: one that looks at the norm of all gradients sees those of a stage. The gradient is still at
    hand where a failure is simulated, so the one float that is kept for a stage is its learning rate.

    Args:
      failure_rate: of a step, in [0, 1]; 0 is plain training. The simulator's are 0.0006 to 0.01 for each stage.
      stages: what the names of the stages begin with, followed by a number: at least 3 entries of params, of equal
        shapes. The blocks of `models.GPT` and `models.ViT` are "block_0", "block_1" and so on.
      lr_scale: of a stage that was lost; the simulator's are 1.1 and 1.2.
      recover: "average"; or what it is compared with, "copy" (of the stage before) or "random" (a new start).

    Returns:
      The method.

    Raises:
      ValueError: a rate outside of [0, 1], an `lr_scale` that is not positive, an unknown `recover`; where the learner
        is made, fewer than 3 stages, or stages that differ.

    Example:
      >>> checkfree(0.01).name
      'checkfree'
    """
    check_fraction("failure_rate", failure_rate)
    check_positive("lr_scale", lr_scale)
    check_choice("recover", recover, ("average", "copy", "random"))

    def init(rng, params, ctx):
        rates = jnp.asarray(failure_rate, jnp.float32), jnp.asarray(lr_scale, jnp.float32)
        return CheckfreeState(*rates, jnp.ones(len(_names(params, stages))))

    def optimizer(tx):
        def apart(params):
            names = _names(params, stages)
            labels = {name: name if name in names else "rest" for name in params}
            parts: dict[Any, Any] = dict.fromkeys(labels.values(), tx)
            return optax.partition(parts, labels)

        def start(params):
            return apart(params).init(params)

        def update(updates, state, params=None, **extra):
            return apart(updates).update(updates, state, params, **extra)

        return optax.GradientTransformationExtraArgs(start, update)

    def update(s, ts, ctx):
        names = _names(ts.params, stages)
        when, which, anew = jax.random.split(ctx.rng, 3)
        failed = jax.random.bernoulli(when, s.failure_rate)
        lost = jax.random.randint(which, (), 1, len(names) - 1)

        def faster(scale, old, new):
            # The update is proportional to the rate. Without a failure it must stay what it was, to the bit.
            return jax.tree.map(lambda p, q: jnp.where(scale == 1, q, p + scale * (q - p)).astype(q.dtype), old, new)

        moved = {name: faster(s.scale[k], ctx.params[name], ts.params[name]) for k, name in enumerate(names)}

        def repair(params, opt_state):
            stacked = _stack(params, names)
            if recover == "average":
                norms = jnp.stack([optax.tree.norm(ctx.grads[name]) for name in names])
                stacked = neighbour_recover(stacked, lost, norms)
            else:
                source, place = stacked, lost - 1
                if recover == "random":
                    source, place = _stack(ctx.model.init(anew, ctx.batch["inputs"]).params, names), lost
                stacked = jax.tree.map(lambda p, q: p.at[lost].set(q[place]), stacked, source)
            params = {**params, **{name: jax.tree.map(lambda p, k=k: p[k], stacked) for k, name in enumerate(names)}}

            def reset(path, old, new):
                # A stage's own optimizer, and what others keep of its parameters, have its name on their way.
                own = [k for k, name in enumerate(names) if any(getattr(key, "key", None) == name for key in path)]
                return jnp.where(lost == own[0], new, old) if own else old

            fresh = ctx.optimizer.init(params)
            return params, jax.tree_util.tree_map_with_path(reset, opt_state, fresh)

        start = {**ts.params, **moved}, ts.opt_state
        params, opt_state = jax.lax.cond(failed, repair, lambda *same: same, *start)
        scale = jnp.where(failed & (jnp.arange(len(names)) == lost), s.lr_scale, s.scale)
        return s._replace(scale=scale), ts._replace(params=params, opt_state=opt_state)

    return Method("checkfree", init=init, optimizer=optimizer, update=update)


def _stack(params: PyTree, names: list[str]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *[params[name] for name in names])


def _names(params: PyTree, stages: str) -> list[str]:
    """The stages from first to last: block_10 comes after block_9."""
    found = {name: re.fullmatch(re.escape(stages) + r"(\d+)", name) for name in params if isinstance(name, str)}
    numbers = {name: int(match[1]) for name, match in found.items() if match}
    names = sorted(numbers, key=lambda name: numbers[name])
    if len(names) < 3:
        raise ValueError(
            f"checkfree expects at least 3 stages named {stages}<number> among the parameters, got {sorted(found)}: "
            "give what their names begin with as stages."
        )
    shapes = [jax.tree.map(jnp.shape, params[name]) for name in names]
    different = [name for name, shape in zip(names, shapes, strict=True) if shape != shapes[0]]
    if different:
        raise ValueError(
            f"checkfree expects stages of equal shapes, got {', '.join(different)} unlike {names[0]}: only a stage of "
            "the same shapes can stand in for its neighbour."
        )
    return names
