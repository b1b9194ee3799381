"""BiC: bias correction.

Wu, Chen, Wang, Ye, Liu, Guo and Fu, "Large Scale Incremental Learning", CVPR 2019, arXiv 1905.13260. Written from the
equations; the authors' code (wuyuebupt/LargeScaleIncrementalLearning) was opened. As in the code, the rows that the
correction is fit on are never trained on, the teacher's newest classes are corrected before they are distilled, and the
shift is penalised. Where we differ: each class has the same number of rows from the start; the two parameters are fit
by full-batch Adam.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual.replay._rehearsal import ask, distil, old_classes
from ctrain_jax.core import Method, Variables, mask_logits, weighted_mean
from ctrain_jax.ops import ExemplarState, check_positive, check_size, exemplars, holds

_STEPS = 500  # of the fit: the parameters move by 5 at most


class Correction(NamedTuple):
    """A linear map of each class's logit; 1 and 0 but for the newest classes."""

    scale: jax.Array  # float32 [C]
    shift: jax.Array  # float32 [C]


class BicState(NamedTuple):
    """Exemplars to train and to correct on, and the network before this experience."""

    temperature: jax.Array  # float32 []
    kept: ExemplarState  # rows of each class that are trained on
    held_out: ExemplarState  # rows of each class that are not
    teacher: Variables  # params and model_state as the experience before left them
    told: Correction  # of the teacher
    correction: Correction  # of the network, once its experience is over


def bic(size: int, *, held_out: int | None = None, temperature: float = 2.0) -> Method:
    r"""Distil the old classes, then correct the new classes' logits by two numbers that rows held out choose.

    Over the union of the experience and the exemplars, with :math:`n` old classes of :math:`n + m` seen, the logits
    :math:`z` of the network and :math:`v` of its corrected copy from before this experience, training minimises

    .. math:: \Big(1 - \frac{n}{n + m}\Big) \ell(z, y)
              - \frac{n}{n + m} \sum_{c \text{ old}} p_c(v / \tau) \log p_c(z / \tau)

    with both softmaxes over the old classes. When the experience is over, the logits of its classes are answered as
    :math:`\alpha z_c + \beta`, where :math:`\alpha, \beta` minimise the cross-entropy over the classes seen, plus
    :math:`0.05 \beta^2`, on rows held out: as many of each new class as of each old one. Rows of a new class are held
    out at random before it is trained. The first experience is plain training without them.
    In the paper only the classes seen so far compete: give the stream `heads="seen"`.

    Args:
      size: exemplars of each class, 9 bytes each, with those held out.
      held_out: how many of them are held out; a tenth by default, as in the paper, and at least 1.
      temperature: of both softmaxes; the paper uses 2.

    Returns:
      The method; it needs features of the model (to choose exemplars by herding).

    Raises:
      ValueError: `size` below 2, a `held_out` that is not below it, a `temperature` of 0 or below.

    Example:
      >>> bic(20, held_out=4).name
      'bic'
    """
    check_size("size", size)
    held = max(1, size // 10) if held_out is None else held_out
    check_size("held_out", held)
    if held >= size:
        raise ValueError(f"held_out must be below size, got {held} of {size}: keep at least one row to train on.")
    check_positive("temperature", temperature)
    rows, others = exemplars(size - held), exemplars(held)

    def init(rng, params, ctx):
        nothing = _nothing(ctx.spec.num_classes)
        return BicState(
            jnp.asarray(temperature, jnp.float32),
            rows.init(ctx.spec),
            others.init(ctx.spec),
            Variables(params, ctx.model_state),
            nothing,
            nothing,
        )

    def begin(s, ts, ctx):
        new = s._replace(
            held_out=others.sample(s.held_out, ctx),
            teacher=Variables(ts.params, ts.model_state),
            told=s.correction,
            correction=_nothing(ctx.spec.num_classes),
        )
        return new, ts

    def augment(s, batch, ctx):
        trained = jnp.where(holds(s.held_out, batch), 0.0, batch["weights"])
        return rows.join(s.kept, batch | {"weights": trained}, ctx)

    def loss(s, params, ctx):
        teacher = _corrected(ask(s.teacher, ctx.batch, ctx).logits, s.told)
        return distil(teacher, s.temperature, ctx), {}

    def end(s, ts, ctx):
        network, new = Variables(ts.params, ts.model_state), ctx.experience.classes

        def answer(batch):
            told_apart = batch.get("classes", ctx.experience.seen)
            return mask_logits(ask(network, batch, ctx).logits, told_apart), batch["labels"], batch["weights"]

        logits, labels, weights = jax.tree.map(
            lambda x: x.reshape(-1, *x.shape[2:]), others.each(s.held_out, ctx, answer)
        )

        def objective(pair):
            losses = optax.softmax_cross_entropy_with_integer_labels(_corrected(logits, _of(new, pair)), labels)
            return weighted_mean(losses, weights) + 0.05 * jnp.square(pair[1])

        pair = jnp.where(old_classes(ctx).any(), _fit(objective), jnp.array([1.0, 0.0]))
        return s._replace(kept=rows.herd(s.kept, ctx, ts, s.held_out), correction=_of(new, pair)), ts

    def predict(s, ctx):
        return ctx.outputs._replace(logits=_corrected(ctx.outputs.logits, s.correction))

    return Method(
        "bic",
        init=init,
        begin=begin,
        augment=augment,
        loss=loss,
        end=end,
        predict=predict,
        needs=("boundaries", "classes", "features"),
    )


def _nothing(num_classes: int) -> Correction:
    return Correction(jnp.ones(num_classes), jnp.zeros(num_classes))


def _of(new: jax.Array, pair: jax.Array) -> Correction:
    return Correction(jnp.where(new, pair[0], 1.0), jnp.where(new, pair[1], 0.0))


def _corrected(logits: jax.Array, correction: Correction) -> jax.Array:
    return correction.scale * logits + correction.shift


def _fit(objective) -> jax.Array:
    """The two parameters that minimise a convex function, from 1 and 0."""
    tx = optax.adam(optax.cosine_decay_schedule(0.02, _STEPS))
    start = jnp.array([1.0, 0.0])

    def step(_, carry):
        pair, state = carry
        updates, state = tx.update(jax.grad(objective)(pair), state)
        return optax.apply_updates(pair, updates), state

    return jax.lax.fori_loop(0, _STEPS, step, (start, tx.init(start)))[0]
