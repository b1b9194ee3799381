"""Feature distillation: the features of new inputs stay where the network before this experience put them.

Smith et al., "A Closer Look at Rehearsal-Free Continual Learning", CVPR Workshops 2023, arXiv 2203.17269, one of the
four penalties that it compares; before it Jung et al., "Less-forgetting Learning in Deep Neural Networks", 2016, arXiv
1607.00122, who freeze the last layer. Opened: learners/kd.py of shaunak27/data-free-continual-learning, by one of the
authors; the papers were not. Where we differ: that code takes 5 times the mean over features, a `lam` of 5 / D here; it
distils in the first experience too, towards a network that was trained before; and never without distilling answers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.continual._head import body, with_body
from ctrain_jax.core import Method, Variables, weighted_mean
from ctrain_jax.ops import check_non_negative


class FeatureDistillationState(NamedTuple):
    """The network before this experience."""

    lam: jax.Array  # float32 []
    teacher: Variables  # params (without head) and model_state as the experience before left them


def feature_distillation(lam: float) -> Method:
    r"""Keep the features of the new inputs near those that the network before this experience gave them.

    From the second experience on, training adds the mean over the batch of

    .. math:: \lambda \, \lVert \phi_\theta(x) - \phi_{\theta_{t-1}}(x) \rVert_2^2

    with the features :math:`\phi` [D] under the last layer; the last layer itself is free. Rows that another method
    appended are distilled as well.

    Args:
      lam: the strength; the squared distance is a sum over D features.

    Returns:
      The method. It costs one more forward pass, and reads no labels.

    Raises:
      ValueError: a negative `lam`.

    Example:
      >>> feature_distillation(0.1).name
      'feature_distillation'
    """
    check_non_negative("lam", lam)

    def init(rng, params, ctx):
        return FeatureDistillationState(jnp.asarray(lam, jnp.float32), Variables(body(params), ctx.model_state))

    def loss(s, params, ctx):
        batch = ctx.batch
        old = with_body(params, s.teacher.params)
        teacher, _ = ctx.forward(old, batch["inputs"], model_state=s.teacher.model_state, task=batch.get("task"))
        moved = jnp.square(ctx.outputs.features - teacher.features).sum(-1)
        moved = moved.reshape(len(moved), -1).mean(-1)  # over tokens, where a row has some
        strength = jnp.where(ctx.experience.index > 0, s.lam, 0.0)
        return strength * weighted_mean(moved, batch["weights"]), {}

    def end(s, ts, ctx):
        return s._replace(teacher=Variables(body(ts.params), ts.model_state)), ts

    return Method("feature_distillation", init=init, loss=loss, end=end, needs=("boundaries", "features"))
