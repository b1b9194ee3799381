"""Refresh learning: unlearn a little of each batch, then learn it.

Wang, Li, Shen and Huang, "A Unified and General Framework for Continual Learning", ICLR 2024, arXiv 2403.13249. Written
after the authors' code (joey-wang123/CL-refresh-learning, `models/derpp.py`); the paper was not opened. The code scales
the ascent of each tensor to the norm of its parameters, so that the ascent's own rate cancels, and its information is
at the given label alone, times the label's probability; both are taken from there. Where we differ: what other methods
store of a step's outputs (the logits of DER++) is from before the unlearning, where the code has it after.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Method, mask_logits
from ctrain_jax.ops import check_fraction, check_non_negative, fisher_diagonal


class RefreshState(NamedTuple):
    """How far to unlearn, and where not."""

    delta: jax.Array  # float32 []
    noise: jax.Array  # float32 []
    fisher_scale: jax.Array  # float32 []
    decay: jax.Array  # float32 []
    fisher: optax.Params  # like params, float32: information, mean over the rows of each experience, decayed and summed


def refresh(delta: float = 1e-5, *, noise: float = 1e-3, fisher_scale: float = 1e-3, decay: float = 1e-5) -> Method:
    r"""Go up the loss of each batch before the step is taken from there.

    With the gradient :math:`g` of the incoming batch's own loss, for each tensor :math:`\theta`

    .. math:: \theta' = \theta + \delta \, \frac{\|\theta\| \, g / \|g\| + s \, \epsilon}{1 + c F},
              \qquad \epsilon \sim N(0, I)

    after which the optimizer takes its usual step with the whole gradient (memory and penalties included) at
    :math:`\theta'`. When an experience is over, :math:`F \leftarrow \tau F` plus the mean over its rows of
    :math:`p(y | x) \, (\nabla \log p(y | x))^2`. Cost: one gradient more a
    step, and as many normal draws as there are parameters, which for small batches on CPU cost the most.

    It takes the gradient anew: put it before methods that change gradients (`agem`, `gem`) and after those that change
    updates (`gpm`), which then see the unlearning as well. BatchNorm's statistics and the recorded loss of a step are
    those at :math:`\theta`.

    Args:
      delta: relative size of the unlearning; 1e-5 in the authors' code. 0 is plain training.
      noise: s; 1e-3 there.
      fisher_scale: c; 1e-3 there.
      decay: tau in [0, 1], what stays of the information at each new experience; 1e-5 there.

    Returns:
      The method.

    Raises:
      ValueError: a negative `delta`, `noise` or `fisher_scale`, a `decay` outside of [0, 1].

    Example:
      >>> refresh(1e-4).name
      'refresh'
    """
    for name, value in (("delta", delta), ("noise", noise), ("fisher_scale", fisher_scale)):
        check_non_negative(name, value)
    check_fraction("decay", decay)

    def init(rng, params, ctx):
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        return RefreshState(*map(jnp.float32, (delta, noise, fisher_scale, decay)), fisher=zeros)

    def optimizer(tx):
        def update(updates, state, params=None, **extra):
            s, ctx = extra["method_state"], extra["ctx"]

            def unlearn(p, g, fisher, epsilon):
                length = jnp.linalg.norm(g)
                ascent = jnp.linalg.norm(p) / jnp.where(length > 0, length, 1.0) * g
                return p + (s.delta * (ascent + s.noise * epsilon) / (1 + s.fisher_scale * fisher)).astype(p.dtype)

            ascent = ctx.grad_fn(params, batch=ctx.incoming, penalties=False)
            there = jax.tree.map(unlearn, params, ascent, s.fisher, optax.tree.random_like(ctx.rng, updates))
            value, grads = ctx.value_fn(there), ctx.grad_fn(there)
            moved = ctx.replace(params=there, value=value, grads=grads)
            given = {**extra, "value": value, "grad": grads, "ctx": moved}
            updates, state = tx.update(grads, state, there, **given)
            return jax.tree.map(lambda u, q, p: u + (q - p), updates, there, params), state

        return optax.GradientTransformationExtraArgs(tx.init, update)

    def end(s, ts, ctx):
        def forward(params, inputs):
            return ctx.forward(params, inputs)[0].logits

        def add(total, batch, b):
            classes = batch.get("classes")
            scores = mask_logits(forward(ts.params, batch["inputs"]), classes)
            probability = jnp.take_along_axis(jax.nn.softmax(scores), batch["labels"][:, None], axis=-1)[:, 0]
            part = fisher_diagonal(
                forward,
                ts.params,
                batch["inputs"],
                ctx.rng,
                labels=batch["labels"],
                weights=batch["weights"] * probability,
                mode="empirical",
                class_mask=classes,
            )
            return jax.tree.map(jnp.add, total, part)

        total = ctx.scan(add, jax.tree.map(jnp.zeros_like, s.fisher))
        fisher = jax.tree.map(lambda old, new: s.decay * old + new / ctx.experience.size, s.fisher, total)
        return s._replace(fisher=fisher), ts

    return Method("refresh", init=init, end=end, optimizer=optimizer, needs=("boundaries", "classes"))
