"""GDumb: a greedy class-balanced memory, and a network trained on it from scratch.

Prabhu, Torr and Dokania, "GDumb: A Simple Approach that Questions Our Progress in Continual Learning", ECCV 2020 (it is
not on arXiv; doi 10.1007/978-3-030-58536-5_31). Written from the algorithm as published; the authors' code
(drimpossible/GDumb) was opened for the training, and the form that Avalanche publishes numbers of
(ContinualAI/continual-learning-baselines) is `gdumb(4400, epochs=10, learning_rate=0.1, schedule="constant",
momentum=0.0)`. Where we differ from the authors: no random crops, no CutMix, no clipping of gradients at norm
10, no weight decay of 1e-6; the network is trained after each experience, so that it can be asked then.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax.core import Method, tag, weighted_mean
from ctrain_jax.ops import BufferState, check_choice, check_fraction, check_positive, check_size, memory


class GdumbState(NamedTuple):
    """The memory, and the step size of the training on it."""

    buffer: BufferState  # `size` records: row number, experience, label
    learning_rate: jax.Array  # float32 []


def gdumb(
    size: int,
    *,
    epochs: int,
    learning_rate: float = 0.05,
    schedule: str = "restarts",
    momentum: float = 0.9,
    batch_size: int = 16,
) -> Method:
    r"""Sample greedily, learn dumbly.

    When an experience is over, each of its rows is offered once to a memory that is kept balanced
    (`ops.greedy_balanced`); then the parameters are drawn anew and trained by SGD on the memory alone. Between, nothing
    is learned, whatever the learner's optimizer: one step of each experience is enough (`steps=1`).

    Args:
      size: rows of the memory, at least one for each class; 12 bytes each.
      epochs: of the training from scratch. One is `size` rows, in an order of its own; where less are held they come
        again. The authors take 128 for MNIST, 256 for CIFAR.
      learning_rate: its largest value; the authors use 0.05.
      schedule: "restarts" (the authors': one epoch at a tenth, then cosines down to a hundredth, which start again
        after 1, 2, 4, ... epochs; constant within an epoch) or "constant".
      momentum: of SGD; the authors use 0.9.
      batch_size: of the training from scratch; the authors use 16.

    Returns:
      The method. Parameters that the learner started with, and what earlier methods of a chain learn, are lost.

    Raises:
      ValueError: `size`, `epochs` or `batch_size` below 1, a `learning_rate` of 0 or below, an unknown schedule, a
        momentum outside of [0, 1]; a `size` below the number of classes, when the learner is made.

    Example:
      >>> gdumb(500, epochs=30).name
      'gdumb'
    """
    rows = memory(size, "greedy_balanced")
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        check_size(name, value)
    check_positive("learning_rate", learning_rate)
    check_choice("schedule", schedule, ("restarts", "constant"))
    check_fraction("momentum", momentum)
    steps = -(-size // batch_size)
    shape = restarts(epochs) if schedule == "restarts" else np.ones(epochs)

    def init(rng, params, ctx):
        return GdumbState(rows.init(ctx.spec), jnp.asarray(learning_rate, jnp.float32))

    def update(s, ts, ctx):
        return s, ts._replace(model_state=ctx.model_state)

    def end(s, ts, ctx):
        s = s._replace(buffer=rows.offer(s.buffer, ctx, ts.params))
        rates = s.learning_rate * jnp.asarray(shape, jnp.float32)
        tx = optax.sgd(lambda step: rates[jnp.asarray(step) // steps], momentum or None)
        rng = tag(ctx.rng, "train")
        start = ctx.model.init(tag(ctx.rng, "fresh"), jnp.zeros_like(ctx.spec.batch["inputs"]))
        some = {"row": ctx.experience.rows[:1], "experience": ctx.experience.origin[:1]}

        def epoch(e, carry):
            key = jax.random.fold_in(rng, e)
            records, weights = rows.draw(s.buffer, key, steps * batch_size, some)
            weights = weights * (jnp.arange(steps * batch_size) < size)

            def step(i, carry):
                params, model_state, state = carry
                part, own = jax.tree.map(
                    lambda x: jax.lax.dynamic_slice_in_dim(x, i * batch_size, batch_size), (records, weights)
                )
                batch = ctx.fetch(part) | {"weights": own}

                def loss(params):
                    outputs, written = ctx.forward(
                        params,
                        batch["inputs"],
                        model_state=model_state,
                        train=True,
                        rng=jax.random.fold_in(key, i),
                        task=batch["task"],
                    )
                    return weighted_mean(ctx.problem.loss(outputs, batch), own), written

                grads, model_state = jax.grad(loss, has_aux=True)(params)
                updates, state = tx.update(grads, state, params)
                return optax.apply_updates(params, updates), model_state, state

            return jax.lax.fori_loop(0, steps, step, carry)

        carry = (start.params, start.model_state, tx.init(start.params))
        params, model_state, _ = jax.lax.fori_loop(0, epochs, epoch, carry)
        return s, ts._replace(params=params, model_state=model_state)

    return Method(
        "gdumb",
        init=init,
        update=update,
        end=end,
        optimizer=lambda tx: optax.set_to_zero(),
        needs=("boundaries", "classes"),
    )


def restarts(epochs: int) -> np.ndarray:
    """The authors' learning rate in each epoch, as a share of the largest: `[epochs]`."""
    epoch = np.arange(epochs)
    cycle = 2 ** np.floor(np.log2(np.maximum(epoch, 1)))
    cosine = (1 + np.cos(np.pi * (epoch - cycle) / cycle)) / 2
    return np.where(epoch == 0, 0.1, 0.01 + 0.99 * cosine)
