"""iCaRL: incremental classifier and representation learning.

Rebuffi, Kolesnikov, Sperl and Lampert, CVPR 2017, arXiv 1611.07725. Written from the paper; no code was opened. Where
we differ: each class has the same number of exemplars from the start, and a step sees as many exemplars as new rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax import core, ops


class IcarlState(NamedTuple):
    """Exemplars, their means, and the network of the experience before."""

    row: jax.Array  # int32 [C, m]
    experience: jax.Array  # int32 [C, m]
    held: jax.Array  # bool [C, m]
    means: jax.Array  # float32 [C, D], of the normalised features of a class's exemplars, normalised
    old: core.Variables  # params and model_state of the frozen network


def icarl(exemplars: int) -> core.Method:
    """Sigmoid outputs that keep the old network's answers for old classes, and the nearest mean of exemplars.

    Args:
      exemplars: of each class, chosen by herding.

    Returns:
      The method; it needs features of the model.
    """

    def init(rng, params, ctx):
        classes, width = ctx.spec.num_classes, ctx.spec.outputs.features.shape[-1]
        rows = jnp.zeros((classes, exemplars), jnp.int32)
        old = core.Variables(params, ctx.model_state)
        return IcarlState(rows, rows, rows > 0, jnp.zeros((classes, width)), old)

    def begin(s, ts, ctx):
        return s._replace(old=core.Variables(ts.params, ts.model_state)), ts

    def problem(plain):
        def loss(outputs, batch):
            targets = batch.get("targets", jax.nn.one_hot(batch["labels"], outputs.logits.shape[-1]))
            known = batch.get("known", True)
            return jnp.sum(optax.sigmoid_binary_cross_entropy(outputs.logits, targets), where=known, axis=-1)

        return core.Problem(loss, plain.metrics)

    def augment(s, batch, ctx):
        num = ctx.spec.batch_size
        drawn = jax.random.categorical(ctx.rng, jnp.where(s.held.ravel(), 0.0, -jnp.inf), shape=(num,))
        any_held = jnp.any(s.held)
        chosen = {"row": s.row.ravel()[drawn], "experience": s.experience.ravel()[drawn]}
        chosen = {k: jnp.where(any_held, x, ctx.incoming[k]) for k, x in chosen.items()}
        weights = jnp.full(num, any_held, jnp.float32)
        batch = ops.append_rows(batch, ctx.fetch(chosen) | {"weights": weights})

        outputs, _ = ctx.forward(s.old.params, batch["inputs"], model_state=s.old.model_state, task=batch["task"])
        labels = jax.nn.one_hot(batch["labels"], ctx.spec.num_classes)
        targets = jnp.where(s.held.any(-1), jax.nn.sigmoid(outputs.logits), labels)
        known = jnp.broadcast_to(ctx.experience.seen, labels.shape)
        return batch | {"targets": targets, "known": known}

    def end(s, ts, ctx):
        def features_of(batch):
            return ctx.forward(ts.params, batch["inputs"], task=batch["task"])[0].features

        def collect(carry, batch, i):
            features, labels = carry
            at = batch["position"]
            return features.at[at].set(features_of(batch)), labels.at[at].set(batch["labels"])

        rows, width = ctx.spec.max_rows, s.means.shape[-1]
        features, labels = ctx.scan(collect, (jnp.zeros((rows, width)), jnp.full(rows, -1)), size=256)
        picks = jax.lax.map(lambda c: ops.herding(features, labels == c, exemplars), jnp.arange(ctx.spec.num_classes))
        new = (picks >= 0) & ctx.experience.classes[:, None]
        row = jnp.where(new, ctx.experience.rows[picks], s.row)
        experience = jnp.where(new, ctx.experience.origin[picks], s.experience)
        held = jnp.where(ctx.experience.classes[:, None], picks >= 0, s.held)

        batch = ctx.fetch({"row": row.ravel(), "experience": experience.ravel()})
        shown = _unit(features_of(batch)).reshape(*row.shape, width) * held[..., None]
        return IcarlState(row, experience, held, _unit(shown.sum(1)), s.old), ts

    def predict(s, ctx):
        # Both are unit vectors: the nearest mean is the one with the largest product.
        nearness = _unit(ctx.outputs.features) @ s.means.T
        return ctx.outputs._replace(logits=jnp.where(s.held.any(-1), nearness, -2.0))

    return core.Method(
        "icarl",
        init=init,
        begin=begin,
        problem=problem,
        augment=augment,
        end=end,
        predict=predict,
        needs=("labels", "features"),
    )


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
