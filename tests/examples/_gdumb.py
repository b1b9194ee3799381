"""GDumb: a greedy class-balanced memory, and a network trained on it from scratch.

Prabhu, Torr and Dokania, "GDumb: A Simple Approach that Questions Our Progress in Continual Learning", ECCV 2020.
Written from the paper; no code was opened. Where we differ: no CutMix, no warm restarts, and the network is trained
after each experience so that it can be asked then.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax import core


class GdumbState(NamedTuple):
    """The memory."""

    row: jax.Array  # int32 [size]
    experience: jax.Array  # int32 [size]
    label: jax.Array  # int32 [size], -1 where nothing is stored


def gdumb(size: int, *, optimizer: optax.GradientTransformation, steps: int, batch_size: int = 16) -> core.Method:
    """Sample greedily, learn dumbly.

    A row is stored while there is room, or if its class has less than an even share of the memory; it then takes the
    place of a random row of the largest class. Nothing is learned until an experience is over.

    Args:
      size: rows of the memory.
      optimizer: of the training from scratch; the learner's own is set to zero.
      steps: of the training from scratch.
      batch_size: of the same.

    Returns:
      The method.
    """

    def init(rng, params, ctx):
        empty = jnp.zeros(size, jnp.int32)
        return GdumbState(empty, empty, empty - 1)

    def update(s, ts, ctx):
        def offer(s, arrived):
            row, experience, label, weight, rng = arrived
            counts = jnp.bincount(
                jnp.where(s.label < 0, ctx.spec.num_classes, s.label), length=ctx.spec.num_classes + 1
            )
            empty, counts = counts[-1], counts[:-1]
            classes = jnp.sum(counts > 0) + (counts[label] == 0)
            takes = (weight > 0) & ((empty > 0) | (counts[label] < size // classes))
            leaves = jnp.where(empty > 0, s.label < 0, s.label == jnp.argmax(counts))
            slot = jax.random.categorical(rng, jnp.where(leaves, 0.0, -jnp.inf))
            stored = GdumbState(row, experience, label)
            return jax.tree.map(lambda old, new: old.at[slot].set(jnp.where(takes, new, old[slot])), s, stored), None

        b = ctx.incoming
        rngs = jax.random.split(ctx.rng, ctx.spec.batch_size)
        s, _ = jax.lax.scan(offer, s, (b["row"], b["experience"], b["labels"], b["weights"], rngs))
        return s, ts._replace(model_state=ctx.model_state)

    def end(s, ts, ctx):
        inputs = ctx.spec.batch["inputs"]
        fresh = ctx.model.init(core.tag(ctx.rng, "fresh"), jnp.zeros(inputs.shape, inputs.dtype))
        held = jnp.where(s.label >= 0, 0.0, -jnp.inf)

        def step(i, carry):
            params, model_state, state = carry
            rng = jax.random.fold_in(ctx.rng, i)
            drawn = jax.random.categorical(rng, held, shape=(batch_size,))
            batch = ctx.fetch({"row": s.row[drawn], "experience": s.experience[drawn]})

            def loss(params):
                outputs, written = ctx.forward(
                    params, batch["inputs"], model_state=model_state, train=True, rng=rng, task=batch["task"]
                )
                return jnp.mean(ctx.problem.loss(outputs, batch)), written

            grads, model_state = jax.grad(loss, has_aux=True)(params)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), model_state, state

        carry = (fresh.params, fresh.model_state, optimizer.init(fresh.params))
        params, model_state, _ = jax.lax.fori_loop(0, steps, step, carry)
        return s, ts._replace(params=params, model_state=model_state)

    return core.Method(
        "gdumb", init=init, update=update, end=end, optimizer=lambda tx: optax.set_to_zero(), needs=("labels",)
    )
