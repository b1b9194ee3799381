"""Interpolation of the weights before and after each stage.

The merging that Roth, Udandarao, Dziadzio et al. recommend in "A Practitioner's Guide to Continual Multimodal
Pretraining", 2024, arXiv 2408.14471 (FoMo-in-Flux): training goes on from the merged weights, and they are the ones
that answer. Opened at the source: `ema_paint.py` in a copy of ExplainableML/fomo_in_flux; the paper was not. Where we
differ: the optimizer's state is kept (the authors start it anew for each stage, with every method); the first
experience is the pre-training, whose start has learned nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual.optimization._between import between
from ctrain_jax.core import Method, PyTree
from ctrain_jax.ops import check_fraction


class WeightInterpolationState(NamedTuple):
    """How far to go, and from where."""

    alpha: jax.Array  # float32 []
    params: optax.Params  # like params, at the start of the experience
    model_state: PyTree  # like model_state, likewise


def weight_interpolation(alpha: float = 0.5) -> Method:
    r"""Take a part of the way from the weights before an experience to those after it.

    When experience :math:`t` is over, and it is not the first,

    .. math:: \theta_t \leftarrow (1 - \alpha) \, \theta_{t-1} + \alpha \, \theta_t

    and likewise for what is counted in floats in the model's state (BatchNorm's statistics).

    Args:
      alpha: the part that is new, in [0, 1]; 1 is plain training, 0 learns nothing after the first experience.

    Returns:
      The method.

    Raises:
      ValueError: an `alpha` outside of [0, 1].

    Example:
      >>> weight_interpolation(0.5).name
      'weight_interpolation'
    """
    check_fraction("alpha", alpha)

    def init(rng, params, ctx):
        return WeightInterpolationState(jnp.asarray(alpha, jnp.float32), params, ctx.model_state)

    def begin(s, ts, ctx):
        return s._replace(params=ts.params, model_state=ts.model_state), ts

    def end(s, ts, ctx):
        part = jnp.where(ctx.experience.index == 0, 1.0, s.alpha)
        params, model_state = between((s.params, s.model_state), (ts.params, ts.model_state), part)
        return s, ts._replace(params=params, model_state=model_state)

    return Method("weight_interpolation", init=init, begin=begin, end=end, needs=("boundaries",))
