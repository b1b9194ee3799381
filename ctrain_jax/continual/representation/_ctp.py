"""CTP: two towers that learn pairs stage after stage, with keys between the old and the new network.

Zhu, Wei, Liang, Zhang and Zhao, "CTP: Towards Vision-Language Continual Pretraining via Compatible Momentum Contrast
and Topology Preservation", ICCV 2023, arXiv 2308.07146. Opened: the authors' code (KevinLight831/CTP, models/
clip_pretrain.py and train/train_CTP.py), which settles what the abstract leaves open; the paper was not. Where we
differ: the masked-language losses are left out, as no tower here fuses text with an image; a queue that is not yet full
holds nothing, where theirs holds random vectors; the old and the slow network see the batch in training mode, with the
random numbers of the new one, where theirs are in evaluation mode (the slow one from the second stage on); the
optimizer goes on, where theirs starts anew with each stage. With a full queue and no dropout the steps of two stages
are theirs, written out for two towers, to 2e-7 in the loss and 5e-7 in a parameter.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Method, Problem, mask_logits, tag, weighted_mean
from ctrain_jax.losses import info_nce
from ctrain_jax.ops import check_fraction, check_non_negative, check_positive, check_size, unit


class CtpState(NamedTuple):
    """The network that makes keys, the network of before, and keys of the last rows."""

    alpha: jax.Array  # float32 []
    lam: jax.Array  # float32 []
    temperature: jax.Array  # float32 []
    momentum: jax.Array  # float32 [2], of the first experience and of the others
    mix: jax.Array  # float32 []
    slow: optax.Params  # like params, float32 at least: as momentum keeps them
    teacher: optax.Params  # params, as the experience before left them
    queue: jax.Array  # float32 [K, 2, D], the newest first
    filled: jax.Array  # bool [K]


def ctp(
    lam: float = 1.0,
    *,
    alpha: float = 1.0,
    temperature: float = 0.07,
    momentum: float = 0.9,
    first_momentum: float = 0.995,
    mix: float = 0.5,
    queue: int = 1024,
) -> Method:
    r"""Contrast of pairs, with compatible momentum and a topology that is preserved.

    The model places the two views of row :math:`i` at :math:`a_i` and :math:`b_i` in one space. In place of the
    problem's loss, training minimises :math:`L_C + \alpha L_M + \lambda L_T`. :math:`L_C` is `losses.info_nce` within
    the batch, the mean of both directions. :math:`L_M` is the same with the keys of a slow network :math:`\theta_m`, of
    the batch and of the rows before it in a queue. From the second experience on, with :math:`\theta'` the network
    before the experience, it stays compatible with both:

    .. math:: \theta_m \leftarrow m \theta_m + (1 - m) \big((1 - \mu) \theta + \mu \theta'\big)

    In the first one :math:`\mu` is 0. :math:`L_T` keeps how rows lie to each other as it was, whatever their places:
    with the softmax :math:`P` of their similarities over :math:`\tau`,

    .. math:: L_T = \tfrac{1}{2} \sum_{(u, v) \in \{(a, b), (b, a), (a, a), (b, b)\}}
              \frac{1}{B} \sum_i \mathrm{KL}\big(P'_{uv}(i) \,\|\, P_{uv}(i)\big), \quad
              P_{uv}(i)_j = \frac{\exp(u_i \cdot v_j / \tau)}{\sum_k \exp(u_i \cdot v_k / \tau)}

    A row is left out of its own relations within one view, and is one of those across views. No label is read and no
    row is stored. What is scored as `accuracy` is the share of rows whose other view is the nearest in their batch (of
    the test, 512 rows unless the learner is told another number), the mean of both directions.

    What is kept of old stages costs something in new ones: on halves of digits it found more pairs at the end than
    contrast alone where a stage had 10,000 rows, and fewer where it had 1,000.

    Args:
      lam: :math:`\lambda`; 1 in the authors' code.
      alpha: 1 there. With `lam` 0 as well it is plain contrast.
      temperature: :math:`\tau`; 0.07 there.
      momentum: :math:`m`; 0.9 there.
      first_momentum: that of the first experience; 0.995 there.
      mix: :math:`\mu`; 0.5 there. At 0 the slow network is the usual moving average.
      queue: how many keys of rows before the batch are kept, those of an earlier stage too; 1024 there.

    Returns:
      The method. Its model answers `[B, 2, D]`, as `models.TwoTower` does. A step costs two more forward passes.
      Methods of a chain that take the problem's own gradient (`agem`, `gem`, `gss`, `mir`, `rwalk`, `si`) find none.

    Raises:
      ValueError: a negative `lam` or `alpha`, a `temperature` of 0 or below, a `momentum` or `mix` outside [0, 1], a
        `queue` below 1; when a learner is made, a model that answers something else.

    Example:
      >>> ctp().needs
      ('boundaries',)
    """
    for name, value in (("lam", lam), ("alpha", alpha)):
        check_non_negative(name, value)
    check_positive("temperature", temperature)
    for name, value in (("momentum", momentum), ("first_momentum", first_momentum), ("mix", mix)):
        check_fraction(name, value)
    check_size("queue", queue)

    def init(rng, params, ctx):
        shape = ctx.spec.outputs.logits.shape
        if len(shape) != 3 or shape[1] != 2:
            raise ValueError(
                f"ctp expects where the two views of each row lie, [B, 2, D], got {shape}: use models.TwoTower, or a "
                "model that answers in this form."
            )
        a, b, tau, m, mu = (
            jnp.asarray(x, jnp.float32) for x in (alpha, lam, temperature, (first_momentum, momentum), mix)
        )
        empty = jnp.zeros((queue, *shape[1:])), jnp.zeros(queue, bool)
        return CtpState(a, b, tau, m, mu, _wide(params), params, *empty)

    def begin(s, ts, ctx):
        return s._replace(slow=_wide(ts.params), teacher=ts.params), ts

    def loss(s, params, ctx):
        batch, weights = ctx.batch, ctx.batch["weights"]

        def places(then):
            # A pass like the student's, with its random numbers: the same dropout, statistics of the batch.
            key = tag(ctx.key, "forward")
            return unit(ctx.forward(then, batch["inputs"], train=True, rng=key, task=batch.get("task"))[0].logits)

        now, keys, there = unit(ctx.outputs.logits), places(optax.tree.cast_like(s.slow, params)), weights > 0
        all_keys, all_there = jnp.concatenate([keys, s.queue]), jnp.concatenate([there, s.filled])
        rows = pair_contrast(now, now, s.temperature, there)
        rows += s.alpha * pair_contrast(now, all_keys, s.temperature, all_there)
        lam = jnp.where(ctx.experience.index > 0, s.lam, 0)
        rows += lam * topology_distance(now, places(s.teacher), s.temperature, there)
        return weighted_mean(rows, weights), {"keys": keys}

    def update(s, ts, ctx):
        later = ctx.experience.index > 0
        new = compatible(s.slow, ts.params, s.teacher, s.momentum[later.astype(int)], jnp.where(later, s.mix, 0))
        keys, there = ctx.aux[ctx.name]["keys"], ctx.batch["weights"] > 0
        return s._replace(
            slow=new,
            queue=jnp.concatenate([keys, s.queue])[:queue],
            filled=jnp.concatenate([there, s.filled])[:queue],
        ), ts

    return Method("ctp", init=init, begin=begin, loss=loss, update=update, problem=_which_pair, needs=("boundaries",))


def compatible(
    slow: optax.Params, params: optax.Params, teacher: optax.Params, momentum: jax.Array, mix: jax.Array
) -> optax.Params:
    """The slow network a step further, towards the network of now and that of before."""
    return jax.tree.map(
        lambda m, p, t: momentum * m + (1 - momentum) * ((1 - mix) * p + mix * t), slow, params, teacher
    )


def pair_contrast(places: jax.Array, keys: jax.Array, temperature: jax.Array, where: jax.Array) -> jax.Array:
    """The contrast of each view with the keys of the other, in the mean: [B] of [B, 2, D] and [K, 2, D]."""
    first, second = (info_nce(places[:, v], keys[:, 1 - v], temperature, where) for v in (0, 1))
    return (first + second) / 2


def topology_distance(places: jax.Array, before: jax.Array, temperature: jax.Array, where: jax.Array) -> jax.Array:
    """How far the relations of each row to the others are from those of before: [B] of two [B, 2, D]."""
    others = where & ~jnp.eye(where.shape[0], dtype=bool)

    def divergence(u, v):
        among = others if u == v else where
        now, then = (
            jax.nn.log_softmax(mask_logits(z[:, u] @ z[:, v].T / temperature, among)) for z in (places, before)
        )
        return optax.losses.kl_divergence_with_log_targets(now, then)

    return (divergence(0, 1) + divergence(1, 0) + divergence(0, 0) + divergence(1, 1)) / 2


def retrieval(places: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Of each row, the share of its two views whose nearest of the other kind is its own: [B] of [B, 2, D]."""
    similarity = mask_logits(places[:, 0] @ places[:, 1].T, None if where is None else where & where[:, None])
    own = jnp.arange(places.shape[0])
    first, second = (jnp.argmax(similarity, axis) == own for axis in (0, 1))
    return (first.astype(jnp.float32) + second) / 2


def _wide(params: optax.Params) -> optax.Params:
    """Of 32 bits at least: with fewer, the small steps of momentum are lost to rounding."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), params)


def _which_pair(plain: Problem) -> Problem:
    """Nothing of its own to minimise; scored by what is found within a batch."""
    del plain
    return Problem(
        lambda outputs, batch: jnp.zeros_like(batch["weights"]),
        lambda outputs, batch: {"accuracy": retrieval(unit(outputs.logits), batch["weights"] > 0)},
    )
