"""UER: unbiased experience replay, by the angle alone or by angle and norm.

Lin, Feng, Zhang, Qiao, Li and Ye, "UER: A Heuristic Bias Addressing Approach for Online Continual Learning", 2023,
arXiv 2309.04081. Of the paper the abstract was opened; its repository (FelixHuiweiLin/UER) holds no code. The scale of
the cosines is that of the same authors' PCR, rounded. Where we may differ: one mean over all rows, as `er` takes, where
the paper may sum two losses (it was not read); for a step of the same size double the learning rate.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.continual._head import cosines, head_kernel
from ctrain_jax.core import Method, Model, Problem
from ctrain_jax.ops import BufferState, append_rows, check_positive, check_size, memory


class UerState(NamedTuple):
    """The memory and the scale."""

    scale: jax.Array  # float32 []
    buffer: BufferState  # `size` records: row number and experience (and label, for policies by class)


def uer(size: int, *, scale: float = 10.0, batch_size: int | None = None, policy: str = "reservoir") -> Method:
    r"""Learn new rows by the angle to their class's weights, and replay old ones by angle and norm.

    A logit without bias is :math:`\langle w_c, h \rangle = \|w_c\| \|h\| \cos(w_c, h)`, with the features :math:`h` and
    the weight vectors :math:`w_c` of the last layer. Over the incoming batch :math:`B` and rows :math:`M` drawn from
    the memory, a step minimises

    .. math:: \frac{1}{|B| + |M|} \Big( \sum_{b \in B} \ell\big(s \cos(w, h_b), y_b\big)
              + \sum_{m \in M} \ell\big(\langle w, h_m \rangle, y_m\big) \Big)

    The gradient of a cosine is orthogonal to both of its vectors: new rows turn the weights of their classes and push
    the others' away, but only replayed rows change how long they are. The learner answers with
    :math:`\langle w, h \rangle`.

    Args:
      size: rows of the memory; row numbers are stored, 8 bytes each.
      scale: :math:`s`; the paper's is not known to us.
      batch_size: rows replayed in a step; as many as the incoming ones by default.
      policy: as in `er`.

    Returns:
      The method; it needs features of the model, and a last layer that is called `head`, whose bias it does not use. It
      adds `scale` to the batch, 0 for replayed rows: methods that append rows come before it in a chain.

    Raises:
      ValueError: `size` or `batch_size` below 1, a `scale` of 0 or below, an unknown policy; when a learner is made, a
        model without `head`.

    Example:
      >>> uer(200).needs
      ('classes', 'features')
    """
    rows = memory(size, policy)
    check_positive("scale", scale)
    if batch_size is not None:
        check_size("batch_size", batch_size)

    def model(inner):
        def init(rng, inputs):
            made = inner.init(rng, inputs)
            head_kernel(made.params, "uer")
            return made

        def apply(variables, inputs, **options):
            outputs, model_state = inner.apply(variables, inputs, **options)
            features, params = outputs.features, variables.params
            logits = features @ head_kernel(params, "uer")
            return outputs._replace(logits=logits, aux=cosines(features, params, "uer")), model_state

        return Model(init, apply)

    def problem(plain):
        def loss(outputs, batch):
            scales = batch.get("scale", jnp.zeros_like(batch["weights"]))[:, None]
            logits = jnp.where(scales > 0, scales * outputs.aux, outputs.logits)
            return plain.loss(outputs._replace(logits=logits), batch)

        return Problem(loss, plain.metrics)

    def init(rng, params, ctx):
        return UerState(jnp.asarray(scale, jnp.float32), rows.init(ctx.spec))

    def augment(s, batch, ctx):
        num = ctx.spec.batch_size
        records, weights = rows.draw(s.buffer, ctx.rng, batch_size or num, ctx.incoming)
        batch = append_rows(batch, ctx.fetch(records) | {"weights": weights})
        return batch | {"scale": jnp.where(jnp.arange(batch["row"].shape[0]) < num, s.scale, 0.0)}

    def update(s, ts, ctx):
        return s._replace(buffer=rows.add(s.buffer, ctx.rng, ctx.incoming, ts.params)), ts

    return Method(
        "uer",
        init=init,
        augment=augment,
        update=update,
        model=model,
        problem=problem,
        needs=("classes", "features"),
    )
