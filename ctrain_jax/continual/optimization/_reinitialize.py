"""Independent: each experience is learned from scratch.

The reference of Bornschein, Galashov, Hemsley, Rannen-Triki et al., "NEVIS'22: A Stream of 100 Tasks Sampled from 30
Years of Computer Vision Research", 2022, arXiv 2211.11747, from which forward transfer is read; the strategy
`INDEPENDENT` of google-deepmind/dm_nevis (`finetuning_dknn_learner.py`, opened). Where we differ: nothing of earlier
experiences is kept, so the answers are those of the latest network alone.
"""

import jax
import jax.numpy as jnp

from ctrain_jax.core import Method
from ctrain_jax.ops import restart


def reinitialize() -> Method:
    r"""Draw parameters, statistics and the optimizer's state anew when an experience starts.

    .. math:: \theta \sim p(\theta_0) \quad \text{before each experience but the first}

    The first starts from what the learner was given, trained variables included. Put it first in a chain: methods after
    it see the new network when they begin.

    Returns:
      The method.

    Raises:
      ValueError: on a stream that hides boundaries, when the learner is made.

    Example:
      >>> reinitialize().needs
      ('boundaries',)
    """

    def begin(s, ts, ctx):
        fresh = ctx.model.init(ctx.rng, jnp.zeros_like(ctx.spec.batch["inputs"]))
        old = (ts.params, ts.model_state)
        new = (fresh.params, fresh.model_state)
        first = ctx.experience.index == 0
        params, model_state = jax.tree.map(lambda a, b: jnp.where(first, a, b), old, new)
        return s, restart(ts._replace(params=params, model_state=model_state), ctx)

    return Method("reinitialize", begin=begin, needs=("boundaries",))
