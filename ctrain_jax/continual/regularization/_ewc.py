"""EWC: elastic weight consolidation.

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, arXiv 1612.00796; the online
form of Schwarz et al., "Progress & Compress", ICML 2018, arXiv 1805.06370.
Where we differ: the sum of the penalties of all experiences is kept as one quadratic form, the same function up to a
constant in the memory of one experience; the Fisher information is per example and exact by default, where many codes
square the gradient of a batch mean. Written from the equations; no code was opened.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual.regularization._quadratic import quadratic
from ctrain_jax.core import Method
from ctrain_jax.ops import check_choice, check_fraction, check_non_negative, fisher_diagonal


class EwcState(NamedTuple):
    """The quadratic form around what was learned."""

    lam: jax.Array  # float32 []
    fisher: optax.Params  # like params, float32: diagonal Fisher, mean over examples, summed over experiences
    anchor: optax.Params  # like params: the minimum of the form


def ewc(lam: float, *, online: bool = False, decay: float = 1.0, fisher: str = "exact") -> Method:
    r"""Anchor each parameter by its Fisher information.

    After experience :math:`t`, with the diagonal Fisher information :math:`F_t` (mean over its examples) at the
    parameters :math:`\theta_t`, training adds

    .. math:: \frac{\lambda}{2} \sum_i \sum_{s \le t} F_{s,i} (\theta_i - \theta_{s,i})^2

    which up to a constant is :math:`\frac{\lambda}{2} \sum_i \bar F_i (\theta_i - \bar\theta_i)^2` with
    :math:`\bar F = \sum_s F_s` and :math:`\bar\theta = \sum_s F_s \theta_s / \bar F`. Online,
    :math:`\bar F \leftarrow \gamma \bar F + F_t` and the anchor is the latest :math:`\theta_t`.

    Args:
      lam: the strength; the best value depends on the protocol and ranges from 1e2 to 1e10 in published tables.
      online: keep one anchor, the latest.
      decay: the online form's gamma in [0, 1].
      fisher: "exact" (expectation over the model's own label distribution: one gradient pass a class), "sampled"
        (one label from it), "predicted" (its most probable label), or "empirical" (the given labels).

    Returns:
      The method.

    Raises:
      ValueError: a negative `lam`, a `decay` outside of [0, 1] or without `online`, an unknown `fisher`.

    Example:
      >>> ewc(100.0, online=True, decay=0.9).name
      'ewc'
    """
    check_non_negative("lam", lam)
    check_fraction("decay", decay)
    check_choice("fisher", fisher, ("exact", "sampled", "predicted", "empirical"))
    if not online and isinstance(decay, int | float) and decay != 1.0:
        raise ValueError(f"decay belongs to the online form, got decay={decay} with online=False: pass online=True.")

    def init(rng, params, ctx):
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        return EwcState(jnp.asarray(lam, jnp.float32), zeros, params)

    def loss(s, params, ctx):
        return s.lam / 2 * quadratic(s.fisher, params, s.anchor), {}

    def end(s, ts, ctx):
        def forward(params, inputs):
            return ctx.forward(params, inputs)[0].logits

        def add(total, batch, b):
            part = fisher_diagonal(
                forward,
                ts.params,
                batch["inputs"],
                jax.random.fold_in(ctx.rng, b),
                labels=batch.get("labels"),
                weights=batch["weights"],
                mode=fisher,
                class_mask=batch.get("classes"),
            )
            return jax.tree.map(jnp.add, total, part)

        total = ctx.scan(add, jax.tree.map(jnp.zeros_like, s.fisher))
        new = jax.tree.map(lambda f: f / ctx.experience.size, total)
        if online:
            merged = jax.tree.map(lambda old, f: decay * old + f, s.fisher, new)
            return s._replace(fisher=merged, anchor=ts.params), ts

        merged = jax.tree.map(jnp.add, s.fisher, new)

        def centre(old, f, whole, a, p):
            # Where the Fisher is 0 the anchor has no effect.
            return jnp.where(whole > 0, (old * a + f * p) / jnp.where(whole > 0, whole, 1.0), p).astype(p.dtype)

        anchor = jax.tree.map(centre, s.fisher, new, merged, s.anchor, ts.params)
        return s._replace(fisher=merged, anchor=anchor), ts

    needs = ("boundaries", "labels") if fisher == "empirical" else ("boundaries",)
    return Method("ewc", init=init, loss=loss, end=end, needs=needs)
