"""LUCIR: learning a unified classifier incrementally via rebalancing.

Hou, Pan, Loy, Wang and Lin, CVPR 2019 (not on arXiv). Written from the equations; the authors' code
(hshustc/CVPR19_Incremental_Learning) was opened. As in the code, the strength of the less-forget constraint grows with
the number of old classes, the ranking loss is the mean over the hard classes, and the old classes' weights are fixed.
Where we differ: no start of new weights at the mean feature of their class, no fine-tuning on a balanced set; the last
activation is the model's own, where the authors remove the ReLU.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual._head import cosines, head_kernel, with_head_kernel
from ctrain_jax.continual.replay._rehearsal import ask, old_classes
from ctrain_jax.core import Method, Model, Variables, weighted_mean
from ctrain_jax.ops import ExemplarState, check_non_negative, check_positive, check_size, exemplars, unit


class LucirState(NamedTuple):
    """Exemplars, the network before this experience, and the weights of the losses."""

    lam: jax.Array  # float32 []
    margin: jax.Array  # float32 []
    kept: ExemplarState  # m rows of each class
    teacher: Variables  # params (without head and eta) and model_state as the experience before left them


def lucir(size: int, *, lam: float = 5.0, margin: float = 0.5, num_hard: int = 2, eta: float = 1.0) -> Method:
    r"""Cosines in place of logits, features that keep their direction, and a margin around the old classes.

    With unit features :math:`\bar f` and unit weight vectors :math:`\bar w_c` of the last layer, the logits are
    :math:`\eta \langle \bar w_c, \bar f \rangle` with a trained scale :math:`\eta`; its bias is not used. Over the
    union of the experience and the exemplars, with :math:`n` old and :math:`m` new classes and the unit features
    :math:`\bar f^*` of the network before this experience, training adds

    .. math:: \lambda \sqrt{n / m} \, \big(1 - \langle \bar f^*, \bar f \rangle\big)

    to the loss of each row, and to the whole, over the exemplars of old classes with the :math:`K` new classes
    :math:`k` that are nearest to each, the mean of

    .. math:: \frac{1}{K} \sum_k \max(\mu - \langle \bar w_y, \bar f \rangle + \langle \bar w_k, \bar f \rangle, 0)

    The weight vectors of old classes stay as they are. The first experience only trains with cosines.
    In the paper only the classes seen so far compete: give the stream `heads="seen"`.

    Args:
      size: exemplars of each class, 9 bytes each; the paper uses 20.
      lam: of the less-forget constraint; the paper uses 5 on CIFAR-100, 10 on ImageNet.
      margin: :math:`\mu`; the paper uses 0.5.
      num_hard: :math:`K`; the paper uses 2.
      eta: where the scale starts; the authors' code starts it at 1, which wants a large learning rate.

    Returns:
      The method; it needs features of the model, and a last layer that is called `head`. It adds the scale to the
      parameters as `eta`.

    Raises:
      ValueError: `size` or `num_hard` below 1, a negative `lam` or `margin`, an `eta` of 0 or below; when a learner is
        made, a model without `head`.

    Example:
      >>> lucir(20).needs
      ('boundaries', 'classes', 'features')
    """
    rows = exemplars(size)
    check_non_negative("lam", lam)
    check_non_negative("margin", margin)
    check_size("num_hard", num_hard)
    check_positive("eta", eta)

    def model(inner):
        def init(rng, inputs):
            made = inner.init(rng, inputs)
            head_kernel(made.params, "lucir")
            return made._replace(params={**made.params, "eta": jnp.asarray(eta, jnp.float32)})

        def apply(variables, inputs, **options):
            params = {name: leaf for name, leaf in variables.params.items() if name != "eta"}
            outputs, model_state = inner.apply(variables._replace(params=params), inputs, **options)
            near = cosines(outputs.features, params, "lucir")
            return outputs._replace(logits=variables.params["eta"] * near), model_state

        return Model(init, apply)

    def init(rng, params, ctx):
        strength, gap = (jnp.asarray(x, jnp.float32) for x in (lam, margin))
        return LucirState(strength, gap, rows.init(ctx.spec), Variables(_body(params), ctx.model_state))

    def begin(s, ts, ctx):
        return s._replace(teacher=Variables(_body(ts.params), ts.model_state)), ts

    def augment(s, batch, ctx):
        return rows.join(s.kept, batch, ctx)

    def loss(s, params, ctx):
        batch, features, old, new = ctx.batch, ctx.outputs.features, old_classes(ctx), ctx.experience.classes
        teacher = s.teacher._replace(params={**params, **s.teacher.params})
        turned = 1 - jnp.sum(unit(features) * unit(ask(teacher, batch, ctx).features), -1)
        forgotten = jnp.sqrt(old.sum() / new.sum()) * weighted_mean(turned, batch["weights"])

        near = cosines(features, params, "lucir")
        own = jnp.take_along_axis(near, batch["labels"][:, None], 1)
        rivals = jnp.where(new & batch.get("classes", True), near, -jnp.inf)
        hardest = jax.lax.top_k(rivals, min(num_hard, near.shape[-1]))[0]
        short = jnp.mean(jnp.maximum(s.margin - own + hardest, 0), -1)
        exemplar = (old[batch["labels"]] & (batch["weights"] > 0)).astype(jnp.float32)
        return s.lam * forgotten + weighted_mean(short, exemplar), {}

    def optimizer(tx):
        def update(updates, state, params=None, **extra):
            updates, state = tx.update(updates, state, params, **extra)
            kernel = jnp.where(old_classes(extra["ctx"]), 0, head_kernel(updates, "lucir"))
            return with_head_kernel(updates, kernel), state

        return optax.GradientTransformationExtraArgs(tx.init, update)

    def end(s, ts, ctx):
        return s._replace(kept=rows.herd(s.kept, ctx, ts)), ts

    return Method(
        "lucir",
        init=init,
        begin=begin,
        augment=augment,
        loss=loss,
        end=end,
        model=model,
        optimizer=optimizer,
        needs=("boundaries", "classes", "features"),
    )


def _body(params: Any) -> optax.Params:
    """What features depend on."""
    return {name: leaf for name, leaf in params.items() if name not in ("head", "eta")}
