"""PRD: prototypes of old classes that move with the features of new rows.

Asadi, Davari, Mudur, Aljundi and Belilovsky, "Prototype-Sample Relation Distillation: Towards Replay-Free Continual
Learning", ICML 2023, arXiv 2303.14771. Of the paper the abstract was read; the authors' code
(naderAsadi/Probing-Continual-Learning, methods/repe.py) was opened. As the paper is described, an old class is
distilled by its softmax over the rows of the batch; the code's softmax is over the classes of an old task, of features
that are not normalised, at temperature 1, and its losses of old tasks add up where we take the mean over classes. Where
we differ: the contrast is of the features themselves, where the code puts a projection of two layers between them
(which no model here has), and is not multiplied by temperature / 0.07, so that `alpha` and `beta` weigh more; the view
of a second augmentation is there where `augment_fn` makes it; prototypes are trained by the learner's optimizer, where
the code gives them a learning rate of their own. As there, the old network sees the batch as the new one does, in
training mode.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual._head import body, by_cosines, cosines, head_kernel, unasked, with_body, with_head_kernel
from ctrain_jax.core import Method, mask_logits, tag, weighted_mean
from ctrain_jax.losses import supervised_contrastive
from ctrain_jax.ops import append_rows, check_non_negative, check_positive


class PrdState(NamedTuple):
    """The weights of the losses, and the prototypes and the network before this experience."""

    alpha: jax.Array  # float32 []
    beta: jax.Array  # float32 []
    temperature: jax.Array  # float32 []
    prototypes: jax.Array  # float32 [D, C], as the experience before left them
    teacher: optax.Params  # params without head, of the same moment


def prd(
    beta: float = 4.0,
    *,
    alpha: float = 2.0,
    temperature: float = 0.1,
    augment_fn: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Method:
    r"""Learn features by contrast and a prototype for each class, and keep what old prototypes say of new rows.

    The prototypes :math:`p_c` are the weight vectors of the last layer; its bias is not used, and the logit of a class
    is the cosine :math:`\bar p_c \cdot \bar z` with the features :math:`z`. In place of the problem's loss, training
    minimises :math:`L_{SC} + \alpha L_p + \beta L_d` over the rows :math:`i` of a batch: the supervised contrast of
    the features as in `scr`, the distance of a prototype from features that it does not move, and for old classes the
    distance of what they say of the rows from what they said before this experience (:math:`p^*, z^*`):

    .. math:: L_p = \frac{1}{B} \sum_i \big(1 - \bar p_{y_i} \cdot \mathrm{stop}(\bar z_i)\big), \qquad
              L_d = \frac{1}{|O|} \sum_{c \in O} \mathrm{KL}\big(P^*_c \,\|\, P_c\big), \quad
              P_c(i) = \frac{\exp(\bar p_c \cdot \bar z_i / \tau)}{\sum_j \exp(\bar p_c \cdot \bar z_j / \tau)}

    So old prototypes move with the features, and no row is stored. :math:`O` are the classes that were seen before
    this experience and are not in it. Nothing compares new classes with old ones: it is meant for streams that give
    the task; where classes compete it stayed at the level of plain training in what we measured.

    Args:
      beta: of the distillation; 4 in the authors' command.
      alpha: of the prototypes' own loss; 2 in the authors' command.
      temperature: :math:`\tau`, of the contrast as well; 0.1 there in the authors' command.
      augment_fn: `(rng, inputs [B, ...]) -> inputs`, the second view; none by default.

    Returns:
      The method; it needs features of the model, and a last layer that is called `head`.
      Methods of a chain that take the problem's own gradient (`agem`, `gem`, `mir`, `refresh`, `rwalk`, `si`) find
      none.

    Raises:
      ValueError: a negative `beta` or `alpha`, a `temperature` of 0 or below; when a learner is made, a model without
        `head`.

    Example:
      >>> prd().needs
      ('boundaries', 'classes', 'features')
    """
    check_non_negative("beta", beta)
    check_non_negative("alpha", alpha)
    check_positive("temperature", temperature)

    def init(rng, params, ctx):
        a, b, tau = (jnp.asarray(x, jnp.float32) for x in (alpha, beta, temperature))
        return PrdState(a, b, tau, head_kernel(params, "prd"), body(params))

    def begin(s, ts, ctx):
        return s._replace(prototypes=head_kernel(ts.params, "prd"), teacher=body(ts.params)), ts

    def augment(s, batch, ctx):
        if augment_fn is None:
            return batch
        return append_rows(batch, batch | {"inputs": augment_fn(ctx.rng, batch["inputs"])})

    def loss(s, params, ctx):
        batch, outputs, weights = ctx.batch, ctx.outputs, ctx.batch["weights"]
        contrast = supervised_contrastive(outputs.features, batch["labels"], s.temperature, weights > 0)
        near = cosines(jax.lax.stop_gradient(outputs.features), params, "prd")
        own = jnp.take_along_axis(near, batch["labels"][:, None], 1)[:, 0]
        # A pass like the student's, with its random numbers: the same views and dropout, statistics of the batch.
        then = with_head_kernel(with_body(params, s.teacher), s.prototypes)
        before, _ = ctx.forward(then, batch["inputs"], train=True, rng=tag(ctx.key, "forward"), task=batch.get("task"))
        moved = relation_distance(outputs.logits, before.logits, s.temperature, weights > 0)
        old = ctx.experience.seen & ~ctx.experience.classes
        return (
            weighted_mean(contrast, weights)
            + s.alpha * weighted_mean(1 - own, weights)
            + s.beta * weighted_mean(moved, old)
        ), {}

    return Method(
        "prd",
        init=init,
        begin=begin,
        augment=augment,
        loss=loss,
        model=by_cosines("prd"),
        problem=unasked,
        needs=("boundaries", "classes", "features"),
    )


def relation_distance(near: jax.Array, before: jax.Array, temperature: jax.Array, where: jax.Array) -> jax.Array:
    """For each class the divergence of its softmax over rows from that of before: [C] of two [B, C]."""
    now, then = (jax.nn.log_softmax(mask_logits(x.T / temperature, where)) for x in (near, before))
    return optax.losses.kl_divergence_with_log_targets(now, then)
