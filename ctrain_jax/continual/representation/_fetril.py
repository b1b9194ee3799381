"""FeTrIL: features of new classes, moved to where old classes were.

Petit, Popescu, Schindler, Picard and Delezoide, "FeTrIL: Feature Translation for Exemplar-Free Class-Incremental
Learning", WACV 2023, arXiv 2211.13131. Written from the equations; the authors' code (GregoirePetit/FeTrIL) was opened,
the paper was not. Where we differ: the authors fit a LinearSVC for each class to all features at once; we fit one
softmax head by Adam to batches in which every class seen is as frequent. The lender is the nearest class by cosine, as
the paper is described; the code takes the Euclidean distance.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Method, mask_logits
from ctrain_jax.ops import LinearHead, check_positive, check_size, fit_head, labeled_features, unit


class FetrilState(NamedTuple):
    """Where each class was, and the head."""

    learning_rate: jax.Array  # float32 []
    means: jax.Array  # float32 [C, D], of the features
    counts: jax.Array  # float32 [C], rows seen of each class
    head: LinearHead  # on features of length 1


def fetril(*, steps: int = 500, learning_rate: float = 0.05, batch_size: int = 128) -> Method:
    r"""Freeze the network after the first experience; then fit a head to new features and translated ones.

    A mean :math:`\mu_c` of the features is kept of each class. For an old class :math:`P`, the class :math:`N` of the
    experience whose mean is nearest by cosine lends its features:

    .. math:: \hat\phi = \phi(x) + \mu_P - \mu_N, \quad x \text{ of class } N

    They have the mean of :math:`P` and the covariance of :math:`N`. When an experience is over, a softmax head is fit
    from 0 to these and to the real features of the new classes, all of length 1; it answers from then on, over the
    classes seen. The first experience is plain training of the network. A class that comes again lends to itself.

    Args:
      steps: of the fit after each experience.
      learning_rate: of Adam, decayed to 0 by a cosine.
      batch_size: features in a step of the fit.

    Returns:
      The method; it needs features of the model.

    Raises:
      ValueError: `steps` or `batch_size` below 1, a `learning_rate` of 0 or below.

    Example:
      >>> fetril(steps=100).needs
      ('boundaries', 'classes', 'features')
    """
    check_size("steps", steps)
    check_size("batch_size", batch_size)
    check_positive("learning_rate", learning_rate)

    def init(rng, params, ctx):
        classes, width = ctx.spec.num_classes, ctx.spec.outputs.features.shape[-1]
        head = LinearHead(jnp.zeros((width, classes)), jnp.zeros(classes))
        rate = jnp.asarray(learning_rate, jnp.float32)
        return FetrilState(rate, jnp.zeros((classes, width)), jnp.zeros(classes), head)

    def update(s, ts, ctx):
        first = ctx.experience.index == 0
        new, old = (ts.params, ts.model_state), (ctx.params, ctx.model_state)
        params, model_state = jax.tree.map(lambda new, old: jnp.where(first, new, old), new, old)
        return s, ts._replace(params=params, model_state=model_state)

    def end(s, ts, ctx):
        classes = len(s.means)
        features, labels = labeled_features(ctx, ts)
        # Class C holds what is beyond the experience.
        number = jnp.bincount(labels, length=classes + 1)
        arriving = number[:classes].astype(jnp.float32)
        sums = jax.ops.segment_sum(features, labels, classes + 1)[:classes]
        here = sums / jnp.maximum(arriving, 1.0)[:, None]
        counts = s.counts + arriving
        # To the bit: a class without a row stays, and the mean of a new one is that of its rows here.
        means = s.means + (sums - arriving[:, None] * s.means) / jnp.maximum(counts, 1.0)[:, None]
        lender = lenders(means, here, arriving > 0)
        order, first = jnp.argsort(labels, stable=True), jnp.cumsum(number) - number
        seen, key = counts > 0, ctx.rng

        def draw(i):
            which, among = jax.random.split(jax.random.fold_in(key, i))
            wanted = jax.random.categorical(which, jnp.where(seen, 0.0, -jnp.inf), shape=(batch_size,))
            lent = lender[wanted]
            place = jax.random.randint(among, (batch_size,), 0, number[lent])
            drawn = features[order[first[lent] + place]]
            return unit(translate(drawn, here[lent], means[wanted])), wanted

        def loss(logits, wanted):
            return optax.softmax_cross_entropy_with_integer_labels(mask_logits(logits, seen), wanted)

        tx = optax.adam(optax.cosine_decay_schedule(s.learning_rate, steps))
        head = fit_head(jax.tree.map(jnp.zeros_like, s.head), draw, loss, tx, steps)
        return s._replace(means=means, counts=counts, head=head), ts

    def predict(s, ctx):
        logits = mask_logits(s.head(unit(ctx.outputs.features)), s.counts > 0)
        return ctx.outputs._replace(logits=jnp.where(jnp.any(s.counts > 0), logits, ctx.outputs.logits))

    return Method(
        "fetril",
        init=init,
        update=update,
        end=end,
        predict=predict,
        needs=("boundaries", "classes", "features"),
    )


def translate(features: jax.Array, mean_from: jax.Array, mean_to: jax.Array) -> jax.Array:
    """Features of one mean as features of another."""
    return features + (mean_to - mean_from)


def lenders(means: jax.Array, here: jax.Array, arrived: jax.Array) -> jax.Array:
    """int32 [C]: itself for a class that arrived (bool [C]), else the one of these that is nearest by cosine."""
    cosines = jnp.where(arrived, unit(means) @ unit(here).T, -jnp.inf)
    return jnp.where(arrived, jnp.arange(len(means)), cosines.argmax(-1))
