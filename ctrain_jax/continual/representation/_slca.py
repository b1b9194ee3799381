"""SLCA: a network that learns slowly, and a head aligned on samples of all classes.

Zhang, Wang, Kang, Chen and Wei, "SLCA: Slow Learner with Classifier Alignment for Continual Learning on a Pre-trained
Model", ICCV 2023, arXiv 2303.05118; extended as SLCA++, arXiv 2408.08295, of which nothing is here (adapters, a
symmetric loss, features scaled by age). Opened: models/slca.py, models/slca_pp.py, models/base.py and convs/linears.py
of GengDavid/SLCA; the papers were not. Where we differ: the rates are a scale of what the learner's optimizer does;
logits are divided by their length over all classes seen, where the code takes the mean of lengths by experience (with
five of these that is about our loss at a temperature lower by the root of 5; with one, gradients agree to 4e-7); an
alignment is as long with few classes as with many, and each step has as many samples of every class, where the code
shuffles 256 of each five times, 5 steps for each class, under a cosine by passes; means of old classes are not shrunk
(by a tenth at most in the code); a covariance is over the number of rows, with a thousandth of the mean variance on the
diagonal, in the code over one row fewer, with 1e-4; a diagonal one is ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual._alignment import aligned, measured
from ctrain_jax.continual._classes import told_apart
from ctrain_jax.continual._head import check_head, linear_head, own_parts
from ctrain_jax.core import Method, after, mask_logits
from ctrain_jax.losses import normalized_cross_entropy
from ctrain_jax.ops import (
    ClassGaussians,
    LinearHead,
    check_choice,
    check_non_negative,
    check_positive,
    check_size,
    class_gaussians,
)


class SlcaState(NamedTuple):
    """How slow, how aligned, and the classes so far."""

    scale: jax.Array  # float32 []
    temperature: jax.Array  # float32 []
    learning_rate: jax.Array  # float32 []
    gaussians: ClassGaussians  # of the features of each class when it was learned
    head: LinearHead  # the aligned one, which answers


def slca(
    scale: float = 0.01,
    *,
    steps: int = 160,
    samples: int = 8,
    temperature: float = 0.1,
    learning_rate: float = 0.01,
    covariance: str = "full",
) -> Method:
    r"""Train all but the head slowly; then align a head on samples of a Gaussian for each class.

    The update of every parameter under the layer `head` is `scale` times that of the optimizer. A row is told apart
    from the classes of its experience alone, and columns of the head that belong to other classes stay as they are.

    When an experience is over, mean and covariance of the features of its classes are kept. From the second one on a
    copy of the head takes steps of SGD (momentum 0.9, decay 5e-4, a cosine) on features
    :math:`\phi \sim N(\mu_c, \Sigma_c)` of all classes seen, down

    .. math:: -\log \mathrm{softmax}\left(\frac{z}{\tau \|z\|_2}\right)_c, \quad z = W^\top \phi + b

    and answers, over the classes seen, until the next experience is over. The network never changes by it: the next
    alignment starts from the head that training left. A class that comes again is measured anew.

    Args:
      scale: of updates under the head. 0.01 of the paper: 1e-4 by SGD, and 0.01 of the head.
      steps: of an alignment. The paper draws 256 features of each class 5 times; so do 160 steps of 8. 0: no alignment,
        the slow learner alone.
      samples: of each class in a step.
      temperature: :math:`\tau`.
      learning_rate: of the alignment.
      covariance: "full", or "diagonal" for less memory.

    Returns:
      The method; methods that append rows come before it in a chain, and those that change the head when an experience
      is over (`ovor`), as a copy of it answers.

    Raises:
      ValueError: a negative `scale`; `steps` below 0, `samples` below 1; a `temperature` or `learning_rate` of 0 or
        below; an unknown `covariance`; when the learner is started: no layer `head` with a kernel, or
        features that are not what it is given.

    Example:
      >>> slca(covariance="diagonal").needs
      ('boundaries', 'classes', 'features')
    """
    check_non_negative("scale", scale)
    if steps != 0:
        check_size("steps", steps)
    check_size("samples", samples)
    check_positive("temperature", temperature)
    check_positive("learning_rate", learning_rate)
    check_choice("covariance", covariance, ("full", "diagonal"))

    def init(rng, params, ctx):
        check_head(params, ctx, "slca")
        head = jax.tree.map(lambda x: jnp.zeros(x.shape), linear_head(params, "slca"))
        width, classes = head.kernel.shape
        numbers = jnp.asarray(scale, jnp.float32), jnp.asarray(temperature, jnp.float32)
        rate = jnp.asarray(learning_rate, jnp.float32)
        return SlcaState(*numbers, rate, class_gaussians(classes, width, covariance), head)

    def augment(s, batch, ctx):
        return told_apart(batch, ctx.experience.classes, ctx)

    def slow(updates, state, params=None, **extra):
        s, classes = extra["method_state"], extra["ctx"].experience.classes
        # Momentum and weight decay would move columns that have no gradient.
        head = jax.tree.map(lambda u: jnp.where(classes, u, 0), updates["head"])
        return jax.tree.map(lambda u: (s.scale * u).astype(u.dtype), updates) | {"head": head}, state

    def end(s, ts, ctx):
        gaussians = measured(s.gaussians, ts, ctx)

        def loss(logits, labels, where):
            return normalized_cross_entropy(logits, labels, s.temperature, where)

        rate = optax.cosine_decay_schedule(s.learning_rate, max(steps, 1))
        tx = own_parts(ts.params, optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rate, 0.9)))
        trained = jax.tree.map(lambda x: x.astype(jnp.float32), linear_head(ts.params, "slca"))
        moved = aligned(trained, gaussians, ctx.rng, loss, tx, steps, samples)
        head = jax.tree.map(lambda a, b: jnp.where(ctx.experience.index > 0, a, b), moved, trained)
        return s._replace(gaussians=gaussians, head=head), ts

    def predict(s, ctx):
        seen = s.gaussians.counts > 0
        logits = mask_logits(s.head(ctx.outputs.features), seen)
        return ctx.outputs._replace(logits=jnp.where(jnp.any(seen), logits, ctx.outputs.logits))

    return Method(
        "slca",
        init=init,
        augment=augment,
        end=end,
        predict=predict,
        optimizer=after(optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), slow)),
        needs=("boundaries", "classes", "features"),
    )
