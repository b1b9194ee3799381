"""SCR: supervised contrastive replay.

Mai et al., "Supervised Contrastive Replay: Revisiting the Nearest Class Mean Classifier in Online Class-Incremental
Continual Learning", CVPR Workshops 2021, arXiv 2103.13885. The paper was not opened; its authors' code
(RaptorMai/online-continual-learning) was. Where we differ: the loss is of the normalised features themselves, where the
code puts a projection of two layers between them (which no model here has); the view of a second augmentation is there
where `augment_fn` makes it; the class means are those of the end of the last experience; and the first batch, of an
empty memory, is learned as well.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual._head import unasked
from ctrain_jax.core import Method, mask_logits, tag, weighted_mean
from ctrain_jax.losses import supervised_contrastive
from ctrain_jax.ops import BufferState, append_rows, check_positive, check_size, memory


class ScrState(NamedTuple):
    """The memory and its class means."""

    temperature: jax.Array  # float32 []
    buffer: BufferState  # `size` records: row number and experience (and label, for policies by class)
    means: jax.Array  # float32 [C, D], of the normalised features of a class's rows
    known: jax.Array  # bool [C], the classes that had a row in the memory


def scr(
    size: int,
    *,
    temperature: float = 0.1,
    batch_size: int | None = None,
    policy: str = "reservoir",
    augment_fn: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Method:
    r"""Pull the features of a class together and those of different classes apart, and answer by the nearest mean.

    The rows :math:`R` of a step are the incoming ones, as many drawn from the memory, and a second view of each where
    `augment_fn` makes one. With normalised features :math:`z` the loss, in place of the problem's, is

    .. math:: \frac{1}{|R|} \sum_{i \in R} \frac{-1}{|P_i|} \sum_{p \in P_i}
              \log \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{a \in R, a \ne i} \exp(z_i \cdot z_a / \tau)}

    where :math:`P_i` are the other rows of the label of :math:`i`; a row without any counts 0. When an experience is
    over, the mean of the normalised features of each class in the memory is taken; the logit of a class is the cosine
    with its mean. The model's own head is not trained.

    Args:
      size: rows of the memory; row numbers are stored, 8 bytes each.
      temperature: of the softmax; smaller looks at the nearest rows alone. The authors' code takes 0.07.
      batch_size: rows replayed in a step; as many as the incoming ones by default (the authors' code has 100 for 10
        incoming).
      policy: as in `er`.
      augment_fn: `(rng, inputs [R, ...]) -> inputs`, the second view; none by default.

    Returns:
      The method; it needs features of the model. Until its first experience is over it answers nothing.
      Methods of a chain that take the problem's own gradient (`agem`, `gem`, `mir`, `refresh`, `rwalk`, `si`) find
      none.

    Raises:
      ValueError: `size` or `batch_size` below 1, a `temperature` of 0 or below, an unknown policy.

    Example:
      >>> scr(500).needs
      ('boundaries', 'classes', 'features')
    """
    rows = memory(size, policy)
    check_positive("temperature", temperature)
    if batch_size is not None:
        check_size("batch_size", batch_size)

    def init(rng, params, ctx):
        known = jnp.zeros(ctx.spec.num_classes, bool)
        means = jnp.zeros((ctx.spec.num_classes, ctx.spec.outputs.features.shape[-1]))
        return ScrState(jnp.asarray(temperature, jnp.float32), rows.init(ctx.spec), means, known)

    def augment(s, batch, ctx):
        records, weights = rows.draw(s.buffer, ctx.rng, batch_size or ctx.spec.batch_size, ctx.incoming)
        batch = append_rows(batch, ctx.fetch(records) | {"weights": weights})
        if augment_fn is None:
            return batch
        return append_rows(batch, batch | {"inputs": augment_fn(tag(ctx.rng, "view"), batch["inputs"])})

    def loss(s, params, ctx):
        weights = ctx.batch["weights"]
        losses = supervised_contrastive(ctx.outputs.features, ctx.batch["labels"], s.temperature, weights > 0)
        return weighted_mean(losses, weights), {}

    def update(s, ts, ctx):
        return s._replace(buffer=rows.add(s.buffer, ctx.rng, ctx.incoming, ts.params)), ts

    def end(s, ts, ctx):
        num, held = ctx.spec.batch_size, rows.held(s.buffer)

        def collect(b, carry):
            sums, counts = carry
            at = b * num + jnp.arange(num)
            records = jax.tree.map(lambda x: x[at % size], s.buffer.records)
            batch = ctx.fetch(records)
            outputs, _ = ctx.forward(ts.params, batch["inputs"], model_state=ts.model_state, task=batch["task"])
            units = outputs.features / optax.safe_norm(outputs.features, 1e-12, axis=-1, keepdims=True)
            mine = jax.nn.one_hot(batch["labels"], ctx.spec.num_classes) * (held[at % size] & (at < size))[:, None]
            return sums + mine.T @ units, counts + mine.sum(0)

        empty = (jnp.zeros_like(s.means), jnp.zeros(ctx.spec.num_classes))
        sums, counts = jax.lax.fori_loop(0, -(-size // num), collect, empty)
        return s._replace(means=sums / jnp.maximum(counts, 1.0)[:, None], known=counts > 0), ts

    def predict(s, ctx):
        nearness = optax.losses.cosine_similarity(ctx.outputs.features[:, None], s.means, epsilon=1e-12)
        return ctx.outputs._replace(logits=mask_logits(nearness, s.known))

    return Method(
        "scr",
        init=init,
        problem=unasked,
        augment=augment,
        loss=loss,
        update=update,
        end=end,
        predict=predict,
        needs=("boundaries", "classes", "features"),
    )
