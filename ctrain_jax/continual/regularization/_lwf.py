"""LwF: learning without forgetting.

Li and Hoiem, "Learning without Forgetting", ECCV 2016, arXiv 1606.09282. Written from the equations; the code of van de
Ven and Tolias (GMvandeVen/continual-learning) was opened for what the paper leaves open: streams with one head for all
experiences. Where we differ: no warm-up of the new head alone, and no weight decay of our own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.core import Method, Variables, mask_logits, weighted_mean
from ctrain_jax.losses import softened_cross_entropy
from ctrain_jax.ops import check_non_negative, check_positive


class LwfState(NamedTuple):
    """The network before this experience, and what it was asked."""

    lam: jax.Array  # float32 []
    temperature: jax.Array  # float32 []
    teacher: Variables  # params and model_state as the experience before left them
    heads: jax.Array  # bool [T, C], the classes of each experience that is over


def lwf(lam: float = 1.0, *, temperature: float = 2.0) -> Method:
    r"""Keep answering the new inputs as the network did before this experience.

    With the logits :math:`z(x)` of the network and :math:`v(x)` of its copy from before experience :math:`t`, training
    adds the mean over the batch of

    .. math:: \lambda \sum_{s < t} \Big( - \sum_{c \in C_s} p_c(v(x) / \tau) \log p_c(z(x) / \tau) \Big)

    one term for each earlier experience. Where tasks have heads of their own, :math:`C_s` and both softmaxes are those
    of task :math:`s`, as in the paper. Where one head is for all, the terms are the same: over all classes, or, where
    classes compete once they were seen, over those seen by now, with the teacher's over those seen before. Then the
    losses of new and old relate as :math:`1 : t - 1`, as in van de Ven and Tolias. Rows that another method appended
    are distilled as well.

    Args:
      lam: weight of an earlier experience; the paper uses 1.
      temperature: of both softmaxes; the paper uses 2.

    Returns:
      The method. It costs one more forward pass, and reads no labels.

    Raises:
      ValueError: a negative `lam`, a `temperature` of 0 or below.

    Example:
      >>> lwf().name
      'lwf'
    """
    check_non_negative("lam", lam)
    check_positive("temperature", temperature)

    def init(rng, params, ctx):
        heads = jnp.zeros((ctx.spec.num_experiences, ctx.spec.num_classes), bool)
        teacher = Variables(params, ctx.model_state)
        return LwfState(jnp.asarray(lam, jnp.float32), jnp.asarray(temperature, jnp.float32), teacher, heads)

    def loss(s, params, ctx):
        batch, logits = ctx.batch, ctx.outputs.logits
        teacher = ctx.forward(
            s.teacher.params, batch["inputs"], model_state=s.teacher.model_state, task=batch.get("task")
        )[0].logits
        if ctx.spec.heads == "task":
            of_heads = softened_cross_entropy(logits[:, None], teacher[:, None], s.temperature, s.heads)
            distance = of_heads.sum(-1)
        else:
            seen = None if ctx.spec.heads == "all" else ctx.experience.seen
            before = mask_logits(teacher, None if seen is None else s.heads.any(0))
            distance = s.heads.any(-1).sum() * softened_cross_entropy(logits, before, s.temperature, seen)
        return s.lam * weighted_mean(distance, batch["weights"]), {}

    def end(s, ts, ctx):
        heads = s.heads.at[ctx.experience.index].set(ctx.experience.classes)
        return s._replace(teacher=Variables(ts.params, ts.model_state), heads=heads), ts

    return Method("lwf", init=init, loss=loss, end=end, needs=("boundaries",))
