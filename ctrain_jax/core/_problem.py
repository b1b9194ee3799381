"""What a learner is asked to do, as per-row losses and scores."""

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core._base import Batch, Outputs, Problem


def classification() -> Problem:
    """Cross-entropy over a head of fixed width.

    `loss_b = - sum_c y_bc log softmax(logits_b)_c`, with `y` the soft `targets` `[B, C]` where the batch has them and
    the one-hot label otherwise; `classes` `[B, C]` in the batch restricts the softmax to the classes that a row may be
    told apart from. The score is `accuracy`, restricted in the same way.

    Returns:
      The problem; its metric is `accuracy`.
    """

    def loss(outputs: Outputs, batch: Batch) -> jax.Array:
        logits = mask_logits(outputs.logits, batch.get("classes"))
        if "targets" in batch:
            # A masked class has -inf-like logits: 0 * -inf must not reach the sum.
            terms = jnp.where(batch["targets"] > 0, batch["targets"] * jax.nn.log_softmax(logits), 0.0)
            return -terms.sum(-1)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])

    def metrics(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        logits = mask_logits(outputs.logits, batch.get("classes"))
        return {"accuracy": (logits.argmax(-1) == batch["labels"]).astype(jnp.float32)}

    return Problem(loss, metrics)


def next_token() -> Problem:
    """Which token comes next: a row of `inputs` `[B, T]` is the question and, one place further, the answer.

    `loss_b` is the mean over `t` of `- log softmax(logits_bt)` at `inputs_b,t+1`. Tokens below 0 are padding and are
    not asked for. Labels are not read: they may say where a text comes from, so that streams can be made of them.

    Returns:
      The problem; its metrics are `accuracy` and `nats`, the loss of a token.
    """

    def each(outputs: Outputs, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        answers, asked = outputs.logits[:, :-1], batch["inputs"][:, 1:]
        return answers, jnp.maximum(asked, 0), (asked >= 0).astype(answers.dtype)

    def mean(values: jax.Array, there: jax.Array) -> jax.Array:
        return (values * there).sum(-1) / jnp.maximum(there.sum(-1), 1.0)

    def loss(outputs: Outputs, batch: Batch) -> jax.Array:
        answers, asked, there = each(outputs, batch)
        return mean(optax.softmax_cross_entropy_with_integer_labels(answers, asked), there)

    def metrics(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        answers, asked, there = each(outputs, batch)
        right = (answers.argmax(-1) == asked).astype(answers.dtype)
        return {"accuracy": mean(right, there), "nats": loss(outputs, batch)}

    return Problem(loss, metrics)


def regression() -> Problem:
    """Squared error: `loss_b = mean_d (logits_bd - labels_bd)^2` for float labels `[B]` or `[B, D]`.

    Returns:
      The problem; its metric is `mse`.
    """

    def loss(outputs: Outputs, batch: Batch) -> jax.Array:
        predicted, wanted = (x.reshape(x.shape[0], -1) for x in (outputs.logits, batch["labels"]))
        if predicted.shape != wanted.shape:
            raise ValueError(
                "Regression expects a number of the model for each number of a label, got logits "
                f"{list(predicted.shape)} and labels {list(batch['labels'].shape)}: give the model as many outputs."
            )
        return jnp.square(predicted - wanted).mean(-1)

    return Problem(loss, lambda outputs, batch: {"mse": loss(outputs, batch)})


def mask_logits(logits: jax.Array, classes: jax.Array | None) -> jax.Array:
    """Logits with the classes outside of a mask put out of reach: finite, but below any other.

    Args:
      logits: `[B, C]`.
      classes: bool `[B, C]` or `[C]`, the classes that stay; None for all.

    Returns:
      `[B, C]`.
    """
    return logits if classes is None else jnp.where(classes, logits, jnp.finfo(logits.dtype).min / 2)


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """`sum(w * v) / max(sum(w), 1)`: a batch of padding alone gives 0, not nan."""
    return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1.0)
