"""L2 anchor: stay near the parameters of the last experience, all of them with the same strength.

The L2 penalty that Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, arXiv
1612.00796, compare EWC with; Lee et al., "Overcoming Catastrophic Forgetting by Incremental Moment Matching", NeurIPS
2017, arXiv 1703.08475, call it L2-transfer.
Where we differ: nowhere that is known; the papers and their code were not opened.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Method
from ctrain_jax.ops import check_non_negative


class L2AnchorState(NamedTuple):
    """Where to stay."""

    lam: jax.Array  # float32 []
    anchor: optax.Params  # like params: at the end of the last experience


def l2_anchor(lam: float) -> Method:
    r"""Keep every parameter near where the last experience ended, all with the same strength.

    From the second experience on, training adds :math:`\frac{\lambda}{2} \|\theta - \theta_{t-1}\|_2^2`. EWC with an
    importance of 1 for every parameter: the baseline that shows what knowing the importance is worth.

    Args:
      lam: the strength.

    Returns:
      The method.

    Raises:
      ValueError: a negative `lam`.

    Example:
      >>> l2_anchor(0.1).name
      'l2_anchor'
    """
    check_non_negative("lam", lam)

    def init(rng, params, ctx):
        return L2AnchorState(jnp.asarray(lam, jnp.float32), params)

    def loss(s, params, ctx):
        strength = jnp.where(ctx.experience.index > 0, s.lam, 0.0)
        return strength / 2 * optax.tree.norm(optax.tree.sub(params, s.anchor), squared=True), {}

    def end(s, ts, ctx):
        return s._replace(anchor=ts.params), ts

    return Method("l2_anchor", init=init, loss=loss, end=end, needs=("boundaries",))
