"""iCaRL: incremental classifier and representation learning.

Rebuffi, Kolesnikov, Sperl and Lampert, CVPR 2017, arXiv 1611.07725. Written from the equations; the code of van de Ven
and Tolias (GMvandeVen/continual-learning) was opened for their variant, `temperature=2`. Where we differ: each class
has the same number of exemplars from the start (the paper shares a fixed total among the classes seen so far); a step
sees as many exemplars as new rows and weighs them, in place of batches drawn from the union; no weight decay of our
own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual.replay._rehearsal import ask, old_classes
from ctrain_jax.core import Method, Problem, Variables
from ctrain_jax.ops import ExemplarState, check_positive, exemplars, unit


class IcarlState(NamedTuple):
    """Exemplars, their means, and the network before this experience."""

    temperature: jax.Array  # float32 []
    kept: ExemplarState  # m rows of each class
    means: jax.Array  # float32 [C, D], of the normalised features of a class's exemplars, normalised
    teacher: Variables  # params and model_state as the experience before left them


def icarl(size: int, *, temperature: float = 1.0) -> Method:
    r"""Sigmoid outputs that keep the old network's answers for old classes, and the nearest mean of exemplars.

    Over the union of the experience and the exemplars, with the logits :math:`z` of the network and :math:`v` of its
    copy from before this experience, each row of label :math:`y` costs the binary cross-entropies

    .. math:: \sum_{c \in S} \mathrm{BCE}(\sigma(z_c), q_c), \qquad
              q_c = \sigma(v_c / \tau) \text{ for old classes, else } [c = y]

    where :math:`S` are the classes seen so far, and where rows are told apart from fewer, these. Afterwards herding
    chooses the exemplars of each class of the experience, and the answer is the class whose mean of normalised
    exemplar features is nearest: the logits are cosines.

    A class is old if it was seen before and not in this experience. Where all classes come again (domain-incremental),
    nothing is distilled, and a class shares its exemplars among its experiences.

    Args:
      size: exemplars of each class, 9 bytes each; the paper has 2,000 in all for 100 classes.
      temperature: of the old network's answers; the paper uses 1, van de Ven and Tolias 2.

    Returns:
      The method; it needs features of the model. Until its first experience is over it answers nothing.

    Raises:
      ValueError: `size` below 1, a `temperature` of 0 or below.

    Example:
      >>> icarl(20).needs
      ('boundaries', 'classes', 'features')
    """
    rows = exemplars(size)
    check_positive("temperature", temperature)

    def init(rng, params, ctx):
        means = jnp.zeros((ctx.spec.num_classes, ctx.spec.outputs.features.shape[-1]))
        teacher = Variables(params, ctx.model_state)
        return IcarlState(jnp.asarray(temperature, jnp.float32), rows.init(ctx.spec), means, teacher)

    def begin(s, ts, ctx):
        return s._replace(teacher=Variables(ts.params, ts.model_state)), ts

    def problem(plain):
        def loss(outputs, batch):
            targets = batch.get("targets", jax.nn.one_hot(batch["labels"], outputs.logits.shape[-1]))
            costs = optax.sigmoid_binary_cross_entropy(outputs.logits, targets)
            return jnp.sum(costs, where=batch.get("known", batch.get("classes", True)), axis=-1)

        return Problem(loss, plain.metrics)

    def augment(s, batch, ctx):
        batch = rows.join(s.kept, batch, ctx)
        teacher = ask(s.teacher, batch, ctx)
        labels = jax.nn.one_hot(batch["labels"], ctx.spec.num_classes)
        targets = jnp.where(old_classes(ctx), jax.nn.sigmoid(teacher.logits / s.temperature), labels)
        known = jnp.broadcast_to(ctx.experience.seen, labels.shape) & batch.get("classes", True)
        return batch | {"targets": targets, "known": known}

    def end(s, ts, ctx):
        kept, network = rows.herd(s.kept, ctx, ts), Variables(ts.params, ts.model_state)

        def mean(batch):
            return unit(batch["weights"] @ unit(ask(network, batch, ctx).features))

        return s._replace(kept=kept, means=rows.each(kept, ctx, mean)), ts

    def predict(s, ctx):
        nearness = unit(ctx.outputs.features) @ s.means.T
        # No cosine is as low as that of a class without exemplars.
        return ctx.outputs._replace(logits=jnp.where(s.kept.held.any(-1), nearness, -2.0))

    return Method(
        "icarl",
        init=init,
        begin=begin,
        problem=problem,
        augment=augment,
        end=end,
        predict=predict,
        needs=("boundaries", "classes", "features"),
    )
