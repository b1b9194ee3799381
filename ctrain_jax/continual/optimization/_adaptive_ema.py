"""Adaptive EMA: a slow copy of the weights answers, and chooses at each step how far to follow.

Qiao, Zhang, Tan, Qu, Ding and Xie, "Large Continual Instruction Assistant", ICML 2025, arXiv 2410.10868. The authors'
code was opened (JingyangQiao/CoIN, `CoIN/peft/tuners/lora.py`); of the paper the abstract alone. `rule="norms"` is what
the code computes, a factor 2 included; `rule="quadratic"` is the trade-off that the abstract speaks of, solved exactly
for a diagonal Hessian. Where we differ: training goes on from its own weights, where the authors begin each task from
the slow copy; weights and gradient are of one moment, where the code has the gradient from before the step and the
weights from after it; all parameters are averaged, where the code has adapters alone. The choice of adapters by the
similarity of instructions, the second part of the paper, is left out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Method, PyTree
from ctrain_jax.ops import check_choice, check_fraction, check_positive


class AdaptiveEmaState(NamedTuple):
    """The slow copy, and what the step before looked like."""

    lam: jax.Array  # float32 []
    base: jax.Array  # float32 []
    average: optax.Params  # like params, float32 at least: the weights that answer
    model_state: PyTree  # like model_state, floats float32 at least: of the weights that answer
    grads: optax.Updates  # like params: of the step before
    params: optax.Params | tuple[()]  # like params: of the step before; () for "norms"


def adaptive_ema(rule: str = "norms", *, lam: float = 1.0, base: float = 0.01, per_block: bool = True) -> Method:
    r"""Answer with an average of the weights whose decay follows gradient and curvature.

    With the weights :math:`\theta_t` of a step, their gradient :math:`g_t` and the distance
    :math:`d = \theta^*_{t-1} - \theta_t`, the slow copy becomes

    .. math:: \theta^*_t = (1 - \alpha_t) \, \theta^*_{t-1} + \alpha_t \, \theta_t

    "norms": for each array of parameters

    .. math:: \alpha_t = \frac{2 \, (1 + \|g_t\|_1)}{\lambda \, \|d\|_1 \, \|g_t - g_{t-1}\|_1}

    so that the copy moves about as far in each step, however far behind it is. "quadratic": :math:`1 - \alpha_t` is the
    :math:`\beta` in [0, 1] that makes the loss at :math:`\theta_t + \beta d`, to second order, and
    :math:`\frac{\lambda}{2} (1 - \beta)^2 \|d\|_2^2` together least,

    .. math:: \beta = \frac{\lambda \|d\|_2^2 - g_t \cdot d}{\lambda \|d\|_2^2 + d \cdot H d}, \qquad
              H_{ii} = \frac{(g_t - g_{t-1})_i}{(\theta_t - \theta_{t-1})_i}

    Where that is no minimum, or "norms" gives 1 or more, :math:`\alpha_t` is `base`. Floats in the model's state
    (BatchNorm's statistics) move by the mean of :math:`\alpha_t` over parameters. Training itself is not changed.

    With small batches the secant is mostly noise: "quadratic" with the :math:`\lambda` of 1 that the equation has
    follows at once, and the slow copy is then the network itself; on rotated MNIST it wants 1e4.

    Args:
      rule: "norms" or "quadratic".
      lam: weight of staying; 1 in the authors' code. `inf` with "norms": alpha is `base`, an average of fixed decay.
      base: alpha where the rule gives none; 0.01 in the authors' code.
      per_block: an alpha for each array, as in the authors' code, or one for all of them.

    Returns:
      The method.

    Raises:
      ValueError: another `rule`, a `lam` of 0 or below, a `base` outside of [0, 1].

    Example:
      >>> adaptive_ema(lam=2.0).name
      'adaptive_ema'
    """
    check_choice("rule", rule, ("norms", "quadratic"))
    check_positive("lam", lam)
    check_fraction("base", base)

    def terms(average, params, grads, grads_before, params_before=None):
        d, change = average - params, grads - grads_before
        if params_before is None:
            parts = jnp.abs(d), jnp.abs(grads), jnp.abs(change)
        else:
            step = params - params_before
            still = jnp.abs(step) < 1e-12
            curvature = jnp.where(still, 0.0, change / jnp.where(still, 1.0, step))
            parts = d * d, grads * d, curvature * d * d
        return jnp.stack([part.sum(dtype=jnp.float32) for part in parts])

    def alpha(s, found):
        if rule == "norms":
            bottom = s.lam * found[0] * found[2]
            part = 2 * (1 + found[1]) / jnp.where(bottom > 0, bottom, 1.0)
            fits = (bottom > 0) & (part > 0) & (part < 1)
        else:
            bottom = found[0] + found[2] / s.lam
            fits = bottom > 0
            part = 1 - jnp.clip((found[0] - found[1] / s.lam) / jnp.where(fits, bottom, 1.0), 0.0, 1.0)
        return jnp.where(fits, part, s.base)

    def init(rng, params, ctx):
        return AdaptiveEmaState(
            *map(jnp.float32, (lam, base)),
            average=_wide(params),
            model_state=_wide(ctx.model_state),
            grads=jax.tree.map(jnp.zeros_like, params),
            params=params if rule == "quadratic" else (),
        )

    def update(s, ts, ctx):
        before = (s.grads,) if rule == "norms" else (s.grads, s.params)
        found = jax.tree.map(terms, s.average, ctx.params, ctx.grads, *before)
        if not per_block:
            whole = sum(jax.tree.leaves(found))
            found = jax.tree.map(lambda _: whole, found)
        parts = jax.tree.map(lambda x: alpha(s, x), found)
        average = jax.tree.map(_mix, parts, s.average, ctx.params)
        # Floats: large networks have more parameters than 32 bits count.
        sizes = jax.tree.map(lambda leaf: float(leaf.size), ctx.params)
        weighted, total = jax.tree.map(jnp.multiply, parts, sizes), sum(jax.tree.leaves(sizes))
        mean = jnp.asarray(optax.tree.sum(weighted)) / total
        # The statistics of this step's forward pass belong to ctx.params.
        model_state = jax.tree.map(lambda old, new: _mix(mean, old, new), s.model_state, ts.model_state)
        params = ctx.params if rule == "quadratic" else ()
        return s._replace(average=average, model_state=model_state, grads=ctx.grads, params=params), ts

    def predict(s, ctx):
        batch, params, model_state = ctx.batch, _like(s.average, ctx.params), _like(s.model_state, ctx.model_state)
        return ctx.forward(params, batch["inputs"], model_state=model_state, task=batch.get("task"))[0]

    return Method("adaptive_ema", init=init, update=update, predict=predict)


def _mix(part: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    return (old + part * (new - old)).astype(old.dtype) if _is_float(new) else new


def _wide(tree: PyTree) -> PyTree:
    """Floats of 32 bits at least: with fewer, the small steps of an average are lost to rounding."""
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)) if _is_float(x) else x, tree)


def _like(wide: PyTree, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: x.astype(y.dtype) if _is_float(y) else x, wide, tree)


def _is_float(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
