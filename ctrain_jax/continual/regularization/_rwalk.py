"""RWalk: the Riemannian walk.

Chaudhry, Dokania, Ajanthan and Torr, "Riemannian Walk for Incremental Learning: Understanding Forgetting and
Intransigence", ECCV 2018, arXiv 1801.10112.
Opened at the source: the first author's code (facebookresearch/agem) and Avalanche's plugin (ContinualAI/avalanche),
not the paper. The small memory that the paper adds is `er`, chained with this.
Where we differ: the distance of an interval is measured by the moving average that includes it (as in Avalanche), not
by the one before, which is 0 at first; the squares of an interval are of its own steps, where the author's code goes on
adding to those of earlier ones; the steps after the last whole interval of an experience are an interval of their own,
not dropped; scores are averaged as (old + new) / 2 (as in Avalanche), where the author's code takes (3 old + new) / 2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual.regularization._quadratic import quadratic
from ctrain_jax.core import Method
from ctrain_jax.ops import check_fraction, check_non_negative, check_positive, check_size


class RwalkState(NamedTuple):
    """The walk of the interval and of the experience, and what it left."""

    lam: jax.Array  # float32 []
    alpha: jax.Array  # float32 []
    damping: jax.Array  # float32 []
    steps: jax.Array  # int32 [], steps of the interval
    squares: optax.Params  # like params, float32: squared gradients, summed over the steps of the interval
    path: optax.Params  # like params, float32: the decrease of the loss that is owed to each entry, in the interval
    origin: optax.Params  # like params: where the interval began
    fisher: optax.Params  # like params, float32: moving average over intervals
    score: optax.Params  # like params, float32: the averaged scores, and on top those of this experience
    omega: optax.Params  # like params, float32: the importance, in [0, 2]
    anchor: optax.Params  # like params: at the end of the last experience


def rwalk(lam: float, *, alpha: float = 0.9, period: int = 10, damping: float = 1e-3) -> Method:
    r"""Anchor each parameter by its Fisher information (EWC++) and by its share of the loss's decrease per distance.

    Steps go in intervals of `period`. With the gradient :math:`g` of the task's own loss at each step, and the
    displacement :math:`\delta` that it ended in, the interval's end brings

    .. math:: F_i \leftarrow \alpha \, \overline{g_i^2} + (1 - \alpha) F_i, \qquad
              s_i \leftarrow s_i + \max\Big(0,
              \frac{- \sum g_i \delta_i}{\frac12 F_i (\sum \delta_i)^2 + \epsilon}\Big)

    When an experience is over, its scores are averaged with those before, :math:`\bar s \leftarrow (\bar s + s) / 2`
    (the first are taken whole), and :math:`F` and :math:`\bar s`, each brought to [0, 1] over all parameters, are the
    importance: training adds :math:`\lambda \sum_i (\tilde F_i + \tilde s_i) (\theta_i - \theta^*_i)^2`.

    The squares are of the gradient of a batch, which training computes anyway: no pass over the rows at the end.

    Args:
      lam: the strength.
      alpha: weight of the newest interval in the moving average; 0.9 in the author's code.
      period: steps of an interval; 10 in the author's code.
      damping: the epsilon above, in nats; 1e-3 in the author's code.

    Returns:
      The method.

    Raises:
      ValueError: a negative `lam`, an `alpha` outside of [0, 1], a `period` below 1, a `damping` of 0 or below.

    Example:
      >>> rwalk(100.0, period=5).name
      'rwalk'
    """
    check_non_negative("lam", lam)
    check_fraction("alpha", alpha)
    check_size("period", period)
    check_positive("damping", damping)

    def init(rng, params, ctx):
        zeros = optax.tree.zeros_like(params, dtype=jnp.float32)
        return RwalkState(
            lam=jnp.asarray(lam, jnp.float32),
            alpha=jnp.asarray(alpha, jnp.float32),
            damping=jnp.asarray(damping, jnp.float32),
            steps=jnp.int32(0),
            squares=zeros,
            path=zeros,
            origin=params,
            fisher=zeros,
            score=zeros,
            omega=zeros,
            anchor=params,
        )

    def close(s, params):
        def share(score, w, f, new, old):
            return score + jnp.maximum(w / (f / 2 * jnp.square(new - old) + s.damping), 0)

        fisher = jax.tree.map(lambda f, q: s.alpha * q / s.steps + (1 - s.alpha) * f, s.fisher, s.squares)
        zeros = optax.tree.zeros_like(s.path)
        return s._replace(
            steps=jnp.int32(0),
            squares=zeros,
            path=zeros,
            origin=params,
            fisher=fisher,
            score=jax.tree.map(share, s.score, s.path, fisher, params, s.origin),
        )

    def loss(s, params, ctx):
        return s.lam * quadratic(s.omega, params, s.anchor), {}

    def update(s, ts, ctx):
        grads = ctx.grad_fn(ctx.params, penalties=False)
        s = s._replace(
            steps=s.steps + 1,
            squares=jax.tree.map(lambda q, g: q + jnp.square(g), s.squares, grads),
            path=jax.tree.map(lambda w, g, new, old: w - g * (new - old), s.path, grads, ts.params, ctx.params),
        )
        return jax.lax.cond(s.steps == period, close, lambda s, params: s, s, ts.params), ts

    def end(s, ts, ctx):
        s = jax.lax.cond(s.steps > 0, close, lambda s, params: s, s, ts.params)
        score = optax.tree.scale(jnp.where(ctx.experience.index > 0, 0.5, 1.0), s.score)
        omega = jax.tree.map(jnp.add, _normalised(s.fisher), _normalised(score))
        return s._replace(score=score, omega=omega, anchor=ts.params), ts

    return Method("rwalk", init=init, loss=loss, update=update, end=end, needs=("boundaries",))


def _normalised(tree: optax.Params) -> optax.Params:
    """Brought to [0, 1] by the least and the largest entry of the whole tree."""
    low, high = jnp.asarray(optax.tree.min(tree)), jnp.asarray(optax.tree.max(tree))
    return jax.tree.map(lambda x: (x - low) / jnp.maximum(high - low, jnp.finfo(jnp.float32).tiny), tree)
