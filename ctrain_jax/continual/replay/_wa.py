"""WA: weight aligning.

Zhao, Xiao, Gan, Zhang and Xia, "Maintaining Discrimination and Fairness in Class Incremental Learning", CVPR 2020,
arXiv 1911.07053. Written from the equations; of the paper the abstract was opened, and the code of PyCIL (G-U-N/PyCIL).
Where we differ: as PyCIL, we leave out the clipping that keeps the weights of the last layer positive in training; each
class has the same number of exemplars from the start.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.continual._head import head_kernel, with_head_kernel
from ctrain_jax.continual.replay._rehearsal import ask, distil, old_classes
from ctrain_jax.core import Method, Variables
from ctrain_jax.ops import ExemplarState, check_positive, exemplars


class WaState(NamedTuple):
    """Exemplars, and the network before this experience."""

    temperature: jax.Array  # float32 []
    kept: ExemplarState  # m rows of each class
    teacher: Variables  # params and model_state as the experience before left them, aligned


def wa(size: int, *, temperature: float = 2.0) -> Method:
    r"""Distil the old classes, then make the new classes' weights as long as theirs.

    Over the union of the experience and the exemplars, with :math:`n` old classes of :math:`n + m` seen, the logits
    :math:`z` of the network and :math:`v` of its copy from before this experience, training minimises

    .. math:: \Big(1 - \frac{n}{n + m}\Big) \ell(z, y)
              - \frac{n}{n + m} \sum_{c \text{ old}} p_c(v / \tau) \log p_c(z / \tau)

    with both softmaxes over the old classes. When the experience is over, the weight vectors :math:`w_c` of its classes
    in the last layer are multiplied by

    .. math:: \gamma = \mathrm{mean}_{c \text{ old}} \|w_c\|_2 \,/\, \mathrm{mean}_{c \text{ new}} \|w_c\|_2

    and herding chooses their exemplars. The first experience is plain training.
    In the paper only the classes seen so far compete: give the stream `heads="seen"`.

    Args:
      size: exemplars of each class, 9 bytes each.
      temperature: of both softmaxes; PyCIL uses 2.

    Returns:
      The method; it needs features of the model, and a last layer that is called `head`.

    Raises:
      ValueError: `size` below 1, a `temperature` of 0 or below; when a learner starts, a model without `head`.

    Example:
      >>> wa(20).name
      'wa'
    """
    rows = exemplars(size)
    check_positive("temperature", temperature)

    def init(rng, params, ctx):
        head_kernel(params, "wa")
        return WaState(jnp.asarray(temperature, jnp.float32), rows.init(ctx.spec), Variables(params, ctx.model_state))

    def begin(s, ts, ctx):
        return s._replace(teacher=Variables(ts.params, ts.model_state)), ts

    def augment(s, batch, ctx):
        return rows.join(s.kept, batch, ctx)

    def loss(s, params, ctx):
        return distil(ask(s.teacher, ctx.batch, ctx).logits, s.temperature, ctx), {}

    def end(s, ts, ctx):
        kernel, old, new = head_kernel(ts.params, "wa"), old_classes(ctx), ctx.experience.classes
        lengths = jnp.linalg.norm(kernel, axis=0)
        gamma = jnp.mean(lengths, where=old) / jnp.mean(lengths, where=new)
        aligned = jnp.where(new & old.any(), gamma * kernel, kernel)
        return s._replace(kept=rows.herd(s.kept, ctx, ts)), ts._replace(params=with_head_kernel(ts.params, aligned))

    return Method(
        "wa",
        init=init,
        begin=begin,
        augment=augment,
        loss=loss,
        end=end,
        needs=("boundaries", "classes", "features"),
    )
