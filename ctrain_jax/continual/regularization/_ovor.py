"""OVOR: virtual outliers around an experience tighten what its classes claim.

Huang, Chen and Hsu, "OVOR: OnePrompt with Virtual Outlier Regularization for Rehearsal-Free Class-Incremental
Learning", ICLR 2024, arXiv 2402.04129; the outliers follow NPOS, Tao et al., ICLR 2023, arXiv 2303.02966. Opened:
learners/ood.py, learners/default.py and configs/common.yaml of jpmorganchase/ovor; the papers were not. Where we
differ: the regularization alone is here, for any network; noise is around features of the border, as the papers are
described (the code finds them, and then takes noise around 0), and in units of the spread of the features; distances
are those of the features themselves, where the code scales those of the data to length 1; outliers are drawn once for
an experience, in the code anew for each of 4 epochs; Adam and its cosine begin anew, where the code goes on with those
of training, of whose rate a quarter is left; rows are not augmented. On the same features and outliers, loss and
gradient are the code's to 2e-7.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual._head import check_head, linear_head, own_parts, with_linear_head
from ctrain_jax.core import Method
from ctrain_jax.ops import check_non_negative, check_positive, check_size, fit_head, labeled_features


class OvorState(NamedTuple):
    """How strongly, how far out, and where scores are to be."""

    lam: jax.Array  # float32 []
    noise: jax.Array  # float32 []
    inside: jax.Array  # float32 []
    outside: jax.Array  # float32 []
    learning_rate: jax.Array  # float32 []


def ovor(
    lam: float = 0.1,
    *,
    noise: float = 3.0,
    inside: float = 15.0,
    outside: float = 3.0,
    steps: int = 200,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    num: int = 400,
    k: int = 50,
    border: int = 50,
    candidates: int = 600,
) -> Method:
    r"""When an experience is over, train its columns of the head against outliers.

    With :math:`d_k` the distance to the k-th nearest feature of the experience, the features of the largest :math:`d_k`
    are its border. Around each of these Gaussian noise makes candidates; those of the largest :math:`d_k` are the
    outliers :math:`o`. Then the head takes steps of Adam down the cross-entropy over the classes :math:`C_t` of the
    experience, plus

    .. math:: \lambda \left( H([m_{in} - s(\phi)]_+) + H([s(o) - m_{out}]_+) \right), \quad
      s = \log \sum_{c \in C_t} \exp z_c

    with the Huber function :math:`H`: high scores belong to features of the experience alone, so that logits of
    experiences that were never trained together can be compared. Other columns, and the network, stay as they are. It
    is meant for a network that hardly moves, and for training with the loss over :math:`C_t` alone:
    `chain(local_loss(), ovor())`, or `chain(ovor(), slca(steps=0))`, in this order, for a network that learns slowly.

    Args:
      lam: the strength, :math:`\lambda`.
      noise: standard deviation of the noise, in the root of the mean variance of a feature. Of 0.3, 1, 3 and 10, 3 was
        best on features of a small CNN.
      inside: :math:`m_{in}`, above which scores of features are.
      outside: :math:`m_{out}`, below which scores of outliers are.
      steps: of Adam, after each experience.
      learning_rate: of Adam, decayed to 0 by a cosine.
      batch_size: features in a step, and outliers.
      num: of outliers; the code has 40 for each of 10 classes.
      k: which neighbour; a feature is its own first.
      border: how many features are the border.
      candidates: around each of these.

    Returns:
      The method; it needs features of the model.

    Raises:
      ValueError: a negative `lam` or `noise`, a `learning_rate` of 0 or below, `outside` above `inside`, a size below
        1; more outliers than candidates; when the learner is started: no layer `head` with a kernel,
        or features that are not what it is given.

    Example:
      >>> ovor(steps=100).needs
      ('boundaries', 'classes', 'features')
    """
    check_non_negative("lam", lam)
    check_non_negative("noise", noise)
    check_non_negative("inside - outside", inside - outside)
    check_positive("learning_rate", learning_rate)
    sizes = {"steps": steps, "batch_size": batch_size, "num": num, "k": k, "border": border, "candidates": candidates}
    for name, size in sizes.items():
        check_size(name, size)
    if num > border * candidates:
        raise ValueError(f"ovor keeps num={num} of border * candidates = {border * candidates} outliers: lower num.")

    def init(rng, params, ctx):
        check_head(params, ctx, "ovor")
        return OvorState(*(jnp.asarray(x, jnp.float32) for x in (lam, noise, inside, outside, learning_rate)))

    def end(s, ts, ctx):
        features, labels = labeled_features(ctx, ts)
        size, classes, key = ctx.experience.size, ctx.experience.classes, ctx.rng
        far = virtual_outliers(
            jax.random.fold_in(key, 0), features, size, s.noise, num=num, k=k, border=border, candidates=candidates
        )

        def draw(i):
            one, other = jax.random.split(jax.random.fold_in(key, i + 1))
            rows = jax.random.randint(one, (batch_size,), 0, size)
            chosen = far[jax.random.randint(other, (batch_size,), 0, num)]
            return jnp.concatenate([features[rows], chosen]), jnp.concatenate([labels[rows], jnp.full(batch_size, -1)])

        def loss(logits, labels):
            score = jax.nn.logsumexp(logits, -1, where=classes)
            real = labels >= 0
            fit = jnp.where(real, score - jnp.take_along_axis(logits, labels[:, None], 1)[:, 0], 0.0)
            # Half of the rows are features, half outliers: the means of both add up.
            return 2 * (fit + s.lam * jnp.where(real, hinge(s.inside - score), hinge(score - s.outside)))

        start = jax.tree.map(lambda x: x.astype(jnp.float32), linear_head(ts.params, "ovor"))
        tx = own_parts(ts.params, optax.adam(optax.cosine_decay_schedule(s.learning_rate, steps)))
        head = fit_head(start, draw, loss, tx, steps)
        return s, ts._replace(params=with_linear_head(ts.params, head))

    return Method("ovor", init=init, end=end, needs=("boundaries", "classes", "features"))


def hinge(excess: jax.Array) -> jax.Array:
    """The Huber function of what is above 0."""
    return optax.losses.huber_loss(jnp.maximum(excess, 0.0))


def virtual_outliers(
    rng: jax.Array,
    features: jax.Array,
    size: jax.Array,
    noise: jax.Array,
    *,
    num: int,
    k: int,
    border: int,
    candidates: int,
) -> jax.Array:
    """Points [num, D] beyond the border of the first `size` of some features [N, D]."""
    real = jnp.arange(len(features)) < size
    # Far from 0 little would be left of distances, which are differences of squares.
    mean = jnp.mean(features, 0, where=real[:, None])
    features = features - mean
    squares = jnp.sum(jnp.square(features), -1)
    number = min(k, len(features))

    def remoteness(points):
        """Squared distances [M] of points [M, D] to their k-th nearest feature, or the last one."""

        def one(point):
            distances = jnp.sum(jnp.square(point)) + squares - 2 * jnp.matmul(features, point, precision="highest")
            nearest = -jax.lax.top_k(-jnp.where(real, distances, jnp.inf), number)[0]
            return nearest[jnp.minimum(size, number) - 1]

        # All distances at once would be as many as the square of the rows.
        return jax.lax.map(one, points, batch_size=256)

    order = jax.lax.top_k(jnp.where(real, remoteness(features), -jnp.inf), min(border, len(features)))[1]
    chosen = features[order[jnp.arange(border) % jnp.minimum(size, len(order))]]
    spread = jnp.sqrt(jnp.var(features, 0, where=real[:, None]).mean())

    def around(given):
        key, centre = given
        points = centre + noise * spread * jax.random.normal(key, (candidates, features.shape[1]))
        return points, remoteness(points)

    points, remote = jax.lax.map(around, (jax.random.split(rng, border), chosen))
    return mean + points.reshape(-1, features.shape[1])[jax.lax.top_k(remote.ravel(), num)[1]]
