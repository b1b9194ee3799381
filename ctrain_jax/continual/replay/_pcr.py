"""PCR: proxy-based contrastive replay.

Lin, Zhang, Feng, Li and Ye, "PCR: Proxy-based Contrastive Replay for Online Class-Incremental Continual Learning", CVPR
2023, arXiv 2304.04408. Of the paper the beginning was opened; its authors' code (FelixHuiweiLin/PCR) was as well. As
there, the replayed rows are a forward pass of their own in training mode, and classes that never came are no answers.
Where we differ: the code sees each row a second time, augmented, where here a chain with `augmentation` changes each
row once; and the first batch, of an empty memory, is learned as well.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.continual._head import by_cosines, unasked
from ctrain_jax.continual.replay._pass import replay_pass
from ctrain_jax.core import Batch, Context, Method, Outputs, mask_logits, weighted_mean
from ctrain_jax.losses import proxy_contrastive
from ctrain_jax.ops import BufferState, check_positive, check_size, memory


class PcrState(NamedTuple):
    """The memory, and what the learner may answer."""

    temperature: jax.Array  # float32 []
    known: jax.Array  # bool [C], the classes that came
    buffer: BufferState  # `size` records: row number and experience (and label, for policies by class)


def pcr(size: int, *, temperature: float = 0.09, batch_size: int | None = None, policy: str = "reservoir") -> Method:
    r"""Contrast new and old rows with the weight vectors of the classes that are in the batch.

    Let :math:`z_{jc} = \cos(h_j, w_c) / \tau`, with the features :math:`h_j` of a row and the weight vector :math:`w_c`
    of a class in the last layer, its proxy. Over the incoming rows and as many of the memory, :math:`R` together, of
    which :math:`n_c` are of class :math:`c`, a step minimises, in place of the problem's loss,

    .. math:: \frac{1}{|R|} \sum_{j \in R} \Big( - z_{j y_j} + \log \sum_c n_c \exp z_{jc} \Big)

    Classes that are not in the batch are neither pushed away nor turned, and those that are weigh as often as they
    came. The learner answers with :math:`z`, among the classes that came so far.

    Args:
      size: rows of the memory; row numbers are stored, 8 bytes each.
      temperature: :math:`\tau`; the authors' code takes 0.09.
      batch_size: rows replayed in a step; as many as the incoming ones by default.
      policy: as in `er`.

    Returns:
      The method; it needs features of the model, and a last layer that is called `head`, whose bias it does not use.
      Methods of a chain that take the problem's own gradient (`agem`, `gem`, `mir`, `refresh`, `rwalk`, `si`) find
      none, and those that read logits find cosines, without the temperature.

    Raises:
      ValueError: `size` or `batch_size` below 1, a `temperature` of 0 or below, an unknown policy; when a learner is
        made, a model without `head`.

    Example:
      >>> pcr(200).needs
      ('classes', 'features')
    """
    rows = memory(size, policy)
    check_positive("temperature", temperature)
    if batch_size is not None:
        check_size("batch_size", batch_size)

    def init(rng, params, ctx):
        known = jnp.zeros(ctx.spec.num_classes, bool)
        return PcrState(jnp.asarray(temperature, jnp.float32), known, rows.init(ctx.spec))

    def loss(s, params, ctx):
        num = batch_size or ctx.spec.batch_size
        replayed, _, batch, model_state = replay_pass(rows, s.buffer, num, params, ctx, ctx.rng, ctx.model_state)
        both = joined(ctx, replayed, batch, s.temperature)
        losses = proxy_contrastive(both["logits"], both["labels"], both["weights"] > 0)
        return weighted_mean(losses, both["weights"]), {"model_state": model_state}

    def update(s, ts, ctx):
        buffer = rows.add(s.buffer, ctx.rng, ctx.incoming, ts.params)
        return s._replace(known=s.known | arrived(ctx), buffer=buffer), ts

    return Method(
        "pcr",
        init=init,
        loss=loss,
        update=update,
        predict=answer,
        model=by_cosines("pcr"),
        problem=unasked,
        needs=("classes", "features"),
    )


def joined(ctx: Context, replayed: Outputs, batch: Batch, temperature: jax.Array) -> dict[str, jax.Array]:
    """Logits, features, labels and weights of the batch, and after them those of replayed rows."""

    def parts(outputs, batch):
        logits = mask_logits(outputs.logits / temperature, batch.get("classes"))
        return {"logits": logits, "features": outputs.features, "labels": batch["labels"], "weights": batch["weights"]}

    return jax.tree.map(lambda *own: jnp.concatenate(own), parts(ctx.outputs, ctx.batch), parts(replayed, batch))


def arrived(ctx: Context) -> jax.Array:
    """The classes of the incoming rows, bool `[C]`."""
    real = ctx.incoming["weights"] > 0
    return jnp.zeros(ctx.spec.num_classes, bool).at[ctx.incoming["labels"]].max(real)


def answer(s: "PcrState", ctx: Context) -> Outputs:
    """Cosines over the temperature, among the classes that came, all where none has: for any state that has both."""
    asked = ctx.batch.get("classes", jnp.ones_like(s.known))
    known = s.known & asked
    known = jnp.where(known.any(-1, keepdims=True), known, asked)
    return ctx.outputs._replace(logits=mask_logits(ctx.outputs.logits / s.temperature, known))
