"""DER++: dark experience replay.

Buzzega et al., "Dark Experience for General Continual Learning: a Strong, Simple Baseline", NeurIPS 2020, arXiv
2004.07211. As in the authors' code, the two memory draws are independent, each is a forward pass of its own in training
mode (so BatchNorm sees three batches a step), and the stored logits are those of the pass before the update.
Written from the equations.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.continual.replay._der import add_logits, logit_buffer, logit_distance
from ctrain_jax.continual.replay._pass import replay_pass
from ctrain_jax.core import Method, tag, weighted_mean
from ctrain_jax.ops import BufferState, check_non_negative, check_size, memory


class DerppState(NamedTuple):
    """The memory and the two weights."""

    buffer: BufferState  # `size` records: row number, experience, logits float32 [C]
    alpha: jax.Array  # float32 []
    beta: jax.Array  # float32 []


def derpp(
    size: int,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    batch_size: int | None = None,
    policy: str = "reservoir",
) -> Method:
    r"""Replay rows together with the logits that the model gave them when they arrived.

    With two independent draws :math:`M', M''` from the memory and stored logits :math:`z`, the step adds

    .. math:: \alpha \, \frac{1}{|M'| C} \sum_{m \in M'} \| f(x_m) - z_m \|_2^2
              + \beta \, \frac{1}{|M''|} \sum_{m \in M''} \ell(f(x_m), y_m)

    to the loss of the incoming batch. `beta=0` is DER; `der` saves the second pass.

    Args:
      size: rows of the memory; a row number and C logits are stored for each.
      alpha: weight of the stored logits; the paper uses 0.1 to 1.
      beta: weight of the stored labels; the paper uses 0.5 to 1.
      batch_size: rows of each draw; as many as the incoming ones by default.
      policy: as in `er`.

    Returns:
      The method.

    Raises:
      ValueError: `size` or `batch_size` below 1, a negative weight, an unknown policy.

    Example:
      >>> derpp(500, alpha=0.2).name
      'derpp'
    """
    rows = memory(size, policy)
    check_non_negative("alpha", alpha)
    check_non_negative("beta", beta)
    if batch_size is not None:
        check_size("batch_size", batch_size)

    def init(rng, params, ctx):
        return DerppState(logit_buffer(rows, ctx), jnp.asarray(alpha, jnp.float32), jnp.asarray(beta, jnp.float32))

    def loss(s, params, ctx):
        num = batch_size or ctx.spec.batch_size
        distance, model_state = logit_distance(rows, s.buffer, num, params, ctx)
        rng = tag(ctx.rng, "labels")
        outputs, _, batch, model_state = replay_pass(rows, s.buffer, num, params, ctx, rng, model_state)
        labels = weighted_mean(ctx.problem.loss(outputs, batch), batch["weights"])
        return s.alpha * distance + s.beta * labels, {"model_state": model_state}

    def update(s, ts, ctx):
        return s._replace(buffer=add_logits(rows, s.buffer, ts.params, ctx)), ts

    return Method("derpp", init=init, loss=loss, update=update, needs=("labels",))
