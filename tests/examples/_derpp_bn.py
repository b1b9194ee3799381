"""DER++ with BatchNorm, in three forward passes.

Buzzega et al., "Dark Experience for General Continual Learning: a Strong, Simple Baseline", NeurIPS 2020, arXiv
2004.07211. Written from the description alone, without a look at the library's own: the incoming batch, a draw that is
held to its stored logits and another draw that is held to its labels go through the network one after the other, and
each moves the statistics of BatchNorm.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax import core, ops


class DerppBnState(NamedTuple):
    """A reservoir of rows with the logits of the moment when they were seen."""

    reservoir: ops.BufferState  # row, experience int32 []; logits float32 [C]


def derpp_bn(size: int, *, alpha: float, beta: float) -> core.Method:
    r"""Add :math:`\alpha \| h_\theta(x') - z' \|^2 / C + \beta \ell(y'', f_\theta(x''))` over two draws of a reservoir.

    Args:
      size: rows of the reservoir.
      alpha: weight of the stored logits.
      beta: weight of the stored labels.

    Returns:
      The method.
    """
    reservoir = ops.reservoir(size)

    def init(rng, params, ctx):
        logits = jax.ShapeDtypeStruct((ctx.spec.num_classes,), jnp.float32)
        return DerppBnState(reservoir.init({**ctx.spec.record, "logits": logits}))

    def loss(s, params, ctx):
        num = ctx.spec.batch_size
        logits_rng, labels_rng = jax.random.split(ctx.rng)

        def replay(rng, model_state):
            drawn, weights = reservoir.sample(s.reservoir, rng, num)
            # An empty reservoir: the incoming rows stand in, count for nothing, and leave no trace in BatchNorm.
            held = weights.sum() > 0
            where = {k: jnp.where(held, drawn[k], ctx.incoming[k]) for k in ctx.spec.record}
            batch = ctx.fetch(where) | {"weights": weights}
            outputs, moved = ctx.forward(
                params, batch["inputs"], model_state=model_state, train=True, rng=rng, task=batch["task"]
            )
            model_state = jax.tree.map(lambda new, old: jnp.where(held, new, old), moved, model_state)
            return drawn, batch, outputs, model_state

        drawn, batch, outputs, model_state = replay(logits_rng, ctx.model_state)
        squares = jnp.mean((outputs.logits - drawn["logits"]) ** 2, axis=-1)
        value = alpha * core.weighted_mean(squares, batch["weights"])
        _, batch, outputs, model_state = replay(labels_rng, model_state)
        value += beta * core.weighted_mean(ctx.problem.loss(outputs, batch), batch["weights"])
        return value, {"model_state": model_state}

    def update(s, ts, ctx):
        num = ctx.spec.batch_size
        rows = ctx.incoming | {"logits": ctx.outputs.logits[:num].astype(jnp.float32)}
        keep = ops.wait_for(ctx.incoming["weights"], ts.params)
        return DerppBnState(reservoir.add(s.reservoir, ctx.rng, rows, keep)), ts

    return core.Method("derpp_bn", init=init, loss=loss, update=update, needs=("labels",))
