"""MAS: memory aware synapses.

Aljundi et al., "Memory Aware Synapses: Learning what (not) to forget", ECCV 2018, arXiv 1711.09601.
Opened at the source: the authors' code (rahafaljundi/MAS-Memory-Aware-Synapses) and that of Chaudhry
(facebookresearch/agem); of the paper the abstract alone.
Where we differ: the absolute value is taken example by example, as the importance is defined; the authors' code takes
it of the gradient of a batch, the same for batches of one (its `b1`). As there, experiences add up.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual.regularization._quadratic import quadratic
from ctrain_jax.core import Method
from ctrain_jax.ops import absolute_gradients, check_non_negative


class MasState(NamedTuple):
    """How sensitive the outputs are to each parameter, and where it was."""

    lam: jax.Array  # float32 []
    omega: optax.Params  # like params, float32: mean over examples, summed over experiences
    anchor: optax.Params  # like params: at the end of the last experience


def mas(lam: float) -> Method:
    r"""Anchor each parameter by how much it moves the outputs; no labels are needed.

    After an experience of :math:`N` rows, with the logits :math:`f` (of a row's own head, where heads are restricted),

    .. math:: \Omega_i \leftarrow \Omega_i
              + \frac{1}{N} \sum_n \left| \frac{\partial \|f(x_n)\|_2^2}{\partial \theta_i} \right|

    and the anchor moves to the parameters. Training adds :math:`\lambda \sum_i \Omega_i (\theta_i - \theta^*_i)^2`.

    Args:
      lam: the strength; 1 in the authors' experiments.

    Returns:
      The method.

    Raises:
      ValueError: a negative `lam`.

    Example:
      >>> mas(1.0).name
      'mas'
    """
    check_non_negative("lam", lam)

    def init(rng, params, ctx):
        zeros = optax.tree.zeros_like(params, dtype=jnp.float32)
        return MasState(jnp.asarray(lam, jnp.float32), zeros, params)

    def loss(s, params, ctx):
        return s.lam * quadratic(s.omega, params, s.anchor), {}

    def end(s, ts, ctx):
        def add(total, batch, b):
            return jax.tree.map(jnp.add, total, importance(ctx, ts, batch))

        total = ctx.scan(add, optax.tree.zeros_like(s.omega))
        omega = jax.tree.map(lambda old, new: old + new / ctx.experience.size, s.omega, total)
        return s._replace(omega=omega, anchor=ts.params), ts

    return Method("mas", init=init, loss=loss, end=end, needs=("boundaries",))


def importance(ctx: Any, ts: Any, batch: Any) -> Any:
    """The sum over rows of |d ||f||^2 / d theta|, each as often as its weight says."""
    allowed = batch.get("classes", True)
    return absolute_gradients(
        lambda params, inputs: ctx.forward(params, inputs, model_state=ts.model_state)[0].logits,
        ts.params,
        batch["inputs"],
        lambda logits: jnp.sum(jnp.square(logits), axis=1, where=allowed),
        weights=batch["weights"],
    )
