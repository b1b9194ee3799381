"""What a step sees, and what the network of before the experience answers to the same batch."""

import jax.numpy as jnp

from ctrain_jax import core


def spy(rows=8):
    """For batches of so many rows; last in a chain.

    Its state is the old network, and `{value, labels, logits, old_logits, ...}` of the last step.
    """

    def init(rng, params, ctx):
        outputs, spec = ctx.spec.outputs, ctx.spec.batch
        seen = {k: jnp.zeros((rows, *spec[k].shape[1:]), spec[k].dtype) for k in ("labels", "weights")}
        seen["classes"] = jnp.zeros((rows, ctx.spec.num_classes), bool)
        seen |= {f"{who}logits": jnp.zeros((rows, *outputs.logits.shape[1:])) for who in ("", "old_")}
        seen |= {f"{who}features": jnp.zeros((rows, *outputs.features.shape[1:])) for who in ("", "old_")}
        return core.Variables(params, ctx.model_state), seen | {"value": jnp.zeros(())}

    def begin(s, ts, ctx):
        return (core.Variables(ts.params, ts.model_state), s[1]), ts

    def update(s, ts, ctx):
        old, _ = ctx.forward(s[0].params, ctx.batch["inputs"], model_state=s[0].model_state)
        kept = {k: ctx.batch[k] for k in ("labels", "weights")} | {"value": ctx.value}
        kept["classes"] = jnp.broadcast_to(ctx.batch.get("classes", True), s[1]["classes"].shape)
        kept |= {"logits": ctx.outputs.logits, "features": ctx.outputs.features}
        return (s[0], kept | {"old_logits": old.logits, "old_features": old.features}), ts

    return core.Method("spy", init=init, begin=begin, update=update)
