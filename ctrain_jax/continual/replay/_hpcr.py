"""HPCR: holistic proxy-based contrastive replay.

Lin, Feng, Zhang, Li and Ye, "HPCR: Holistic Proxy-based Contrastive Replay for Online Continual Learning", 2023, arXiv
2309.15038. Of the paper the abstract was opened; its authors' code (FelixHuiweiLin/PCR) was as well. As there, proxies
alone are contrasted by default. The first of the paper's two temperatures stays, the second multiplies the contrast.
Where we differ: where `pcr` does; so a stored row is distilled once, where the code has it in two views of one stored
answer.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.continual._head import by_cosines, head_kernel, unasked
from ctrain_jax.continual.replay._pass import replay_pass
from ctrain_jax.continual.replay._pcr import answer, arrived, joined
from ctrain_jax.core import Method, weighted_mean
from ctrain_jax.losses import proxy_contrastive, softened_cross_entropy, supervised_contrastive
from ctrain_jax.ops import BufferState, check_non_negative, check_positive, check_size, memory, unit


class HpcrState(NamedTuple):
    """The memory, the strengths, and the step."""

    temperature: jax.Array  # float32 []
    scales: jax.Array  # float32 [2], of the contrast: the smallest and the largest
    period: jax.Array  # float32 [], steps from one smallest scale to the next
    alpha: jax.Array  # float32 []
    beta: jax.Array  # float32 []
    step: jax.Array  # int32 [], steps taken in this experience
    known: jax.Array  # bool [C], the classes that came
    buffer: BufferState  # `size` records: row number, experience, logits float32 [C] (cosines), features float32 [D]


def hpcr(
    size: int,
    *,
    temperature: float = 0.09,
    scales: tuple[float, float] = (0.5625, 1.8),
    period: float = 500,
    alpha: float = 0.1,
    beta: float = 0.5,
    samples: bool = False,
    batch_size: int | None = None,
    policy: str = "reservoir",
) -> Method:
    r"""`pcr` whose contrast grows and falls, and whose replayed rows keep what they once were near to.

    With the contrast :math:`L` of `pcr`, the step minimises in the first experience :math:`a_i L`, where

    .. math:: a_i = a_{\min} + \frac{a_{\max} - a_{\min}}{2} \Big( 1 - \cos \frac{2 \pi i}{p} \Big)

    in step :math:`i` of an experience, and from the second on, over the rows :math:`M` drawn from the memory,

    .. math:: a_i L + \frac{\alpha}{|M|} \sum_{m \in M} \sum_c \frac{n_c}{|R|} (z_{mc} - z'_{mc})^2
              + \frac{\beta}{|M|} \sum_{m \in M} - \sum_{k \ne m} q'_{mk} \log q_{mk}

    Here :math:`q_{mk}` is the softmax over :math:`k \in M \setminus m` of :math:`\cos(h_m, h_k) / \tau`; :math:`z'` and
    :math:`q'` are of the logits and features that a row had when it came, before the update.

    Args:
      size: rows of the memory, no fewer than are replayed in a step; a row number, C logits and D features are stored
        for each.
      temperature: :math:`\tau`; the authors' code takes 0.09.
      scales: :math:`(a_{\min}, a_{\max})`; `(1, 1)` with `alpha` and `beta` of 0 is `pcr`. The authors' code takes
        0.09 / 0.16 and 0.09 / 0.05.
      period: :math:`p`, in steps.
      alpha: weight of the stored logits; the authors take 0.01 for CIFAR-10, 0.1 for CIFAR-100 and Mini-ImageNet.
      beta: weight of the stored similarities.
      samples: contrast rows and proxies with one another, as `losses.supervised_contrastive` does; for large batches.
      batch_size: rows replayed in a step; as many as the incoming ones by default.
      policy: as in `er`.

    Returns:
      The method; it needs features of the model, and a last layer that is called `head`, whose bias it does not use.
      Methods of a chain that take the problem's own gradient (`agem`, `gem`, `mir`, `refresh`, `rwalk`, `si`) find
      none, and those that read logits find cosines, without the temperature.

    Raises:
      ValueError: `size` or `batch_size` below 1, a `temperature` or `period` of 0 or below, scales other than two, a
        negative scale or weight, an unknown policy; when a learner is made, a model without `head`.

    Example:
      >>> hpcr(200, alpha=0.01).needs
      ('boundaries', 'classes', 'features')
    """
    rows = memory(size, policy)
    check_positive("temperature", temperature)
    check_positive("period", period)
    if len(scales) != 2:
        raise ValueError(f"scales expects two numbers, got {len(scales)}: give the smallest and the largest.")
    for place, scale in enumerate(scales):
        check_non_negative(f"scales[{place}]", scale)
    check_non_negative("alpha", alpha)
    check_non_negative("beta", beta)
    if batch_size is not None:
        check_size("batch_size", batch_size)

    def init(rng, params, ctx):
        numbers = {"temperature": temperature, "scales": scales, "period": period, "alpha": alpha, "beta": beta}
        logits, features = (
            jax.ShapeDtypeStruct(of.shape[-1:], jnp.float32)
            for of in (ctx.spec.outputs.logits, ctx.spec.outputs.features)
        )
        return HpcrState(
            **{name: jnp.asarray(number, jnp.float32) for name, number in numbers.items()},
            step=jnp.zeros((), jnp.int32),
            known=jnp.zeros(ctx.spec.num_classes, bool),
            buffer=rows.init(ctx.spec, logits=logits, features=features),
        )

    def begin(s, ts, ctx):
        return s._replace(step=jnp.zeros_like(s.step)), ts

    def loss(s, params, ctx):
        num = batch_size or ctx.spec.batch_size
        replayed, old, batch, model_state = replay_pass(rows, s.buffer, num, params, ctx, ctx.rng, ctx.model_state)
        both = joined(ctx, replayed, batch, s.temperature)
        least, most = s.scales
        scale = least + (most - least) / 2 * (1 - jnp.cos(2 * jnp.pi * s.step / s.period))
        contrast = _contrast(both, head_kernel(params, "hpcr"), s.temperature, samples)

        real = both["weights"] > 0
        shares = jnp.zeros(ctx.spec.num_classes).at[both["labels"]].add(real) / jnp.maximum(real.sum(), 1)
        moved = jnp.square((replayed.logits - old["logits"]) / s.temperature) @ shares
        near, was = (units @ units.T for units in (unit(replayed.features), unit(old["features"])))
        turned = softened_cross_entropy(near, was, s.temperature, where=~jnp.eye(num, dtype=bool))
        later = batch["weights"] * (ctx.experience.index > 0)
        kept = weighted_mean(s.alpha * moved + s.beta * turned, later)
        return scale * contrast + kept, {"model_state": model_state}

    def update(s, ts, ctx):
        num, outputs = ctx.spec.batch_size, ctx.outputs
        vectors = {"logits": outputs.logits[:num], "features": outputs.features[:num]}
        buffer = rows.add(s.buffer, ctx.rng, ctx.incoming, ts.params, **vectors)
        return s._replace(step=s.step + 1, known=s.known | arrived(ctx), buffer=buffer), ts

    return Method(
        "hpcr",
        init=init,
        begin=begin,
        loss=loss,
        update=update,
        predict=answer,
        model=by_cosines("hpcr"),
        problem=unasked,
        needs=("boundaries", "classes", "features"),
    )


def _contrast(both: dict[str, jax.Array], kernel: jax.Array, temperature: jax.Array, samples: bool) -> jax.Array:
    """The mean over rows of their contrast with proxies; with `samples`, over rows and proxies, with all of them."""
    labels, weights = both["labels"], both["weights"]
    if not samples:
        return weighted_mean(proxy_contrastive(both["logits"], labels, weights > 0), weights)
    points = jnp.concatenate([both["features"], kernel[:, labels].T])
    labels, weights = jnp.tile(labels, 2), jnp.tile(weights, 2)
    return weighted_mean(supervised_contrastive(points, labels, temperature, weights > 0), weights)
