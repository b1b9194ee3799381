"""Five learners as one would write them by hand: a loop over one state, compiled whole, without a line of core.

They are what the step of `core` is held against. They read the same arrays in the same order (`ops.permute_index`) and
draw the same random numbers, so that both end in the same weights: a test sees to that.
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ctrain_jax.ops import permute_index

KINDS = ("naive", "ewc", "er", "derpp", "lwf")
LAM, ALPHA, BETA, TEMPERATURE = 100.0, 0.5, 0.5, 2.0


class Arrays(NamedTuple):
    """A class-incremental stream, one head for all classes."""

    inputs: jax.Array  # uint8 [N, ...]
    labels: jax.Array  # int32 [N]
    rows: jax.Array  # int32 [T, R]
    size: jax.Array  # int32 [T]


class Hand(NamedTuple):
    """All of a run."""

    params: Any
    stats: Any  # of BatchNorm
    opt: Any
    memory: Any  # by the kind: see `chunk_of`
    key: jax.Array


def chunk_of(kind: str, module: nn.Module, tx: optax.GradientTransformation, num: int, capacity: int) -> Callable:
    """`(hand, arrays, t, start, length) -> (hand, mean loss, mean accuracy)`, to be compiled.

    Args:
      kind: what `memory` is. naive: nothing; ewc: (Fisher information, anchor); er: (row numbers, seen); derpp: (row
        numbers, logits, seen); lwf: (params and stats of the teacher, number of experiences that are over).
      module: returns logits as `.logits`.
      tx: the optimizer.
      num: rows of a batch, and of each draw from the memory.
      capacity: rows of the memory.

    Returns:
      The function.
    """

    def forward(params, stats, inputs):
        variables = {"params": params, "batch_stats": stats}
        outputs, new = module.apply(variables, inputs, train=True, mutable=["batch_stats"])
        return outputs.logits, new.get("batch_stats", {})

    def losses(logits, labels):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    def images(arrays, rows):
        return arrays.inputs[rows].astype(jnp.float32) / 255.0

    def draw(key, seen):
        held = jnp.maximum(jnp.minimum(seen, capacity), 1)
        return permute_index(key, jnp.arange(num) % held, held)

    def mean(values, weights):
        return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1.0)

    def slots(key, seen, weights):
        """Where algorithm R puts the rows of a batch; `capacity` and beyond is nowhere."""
        kept = weights > 0
        number = seen + jnp.cumsum(kept, dtype=jnp.int32) - 1
        drawn = jax.random.randint(key, (num,), 0, jnp.maximum(number, 0) + 1)
        return jnp.where(kept, jnp.where(number < capacity, number, drawn), capacity), seen + jnp.sum(kept)

    def step(hand, arrays, t, i):
        of_experience = jax.random.fold_in(hand.key, t)
        key = jax.random.fold_in(of_experience, i)
        size = arrays.size[t]
        per_epoch = -(-size // num)
        at = (i % per_epoch) * num + jnp.arange(num, dtype=jnp.int32)
        order = jax.random.fold_in(_named(of_experience, "order"), i // per_epoch)
        rows = arrays.rows[t, permute_index(order, at % size, size)]
        weights = (at < size).astype(jnp.float32)
        inputs, labels = images(arrays, rows), arrays.labels[rows]
        memory = hand.memory

        if kind == "er":
            replayed = memory[0][draw(_named(key, "er", "augment"), memory[1])]
            seen_inputs = jnp.concatenate([inputs, images(arrays, replayed)])
            seen_labels = jnp.concatenate([labels, arrays.labels[replayed]])
            seen_weights = jnp.concatenate([weights, jnp.ones(num)])
        else:
            seen_inputs, seen_labels, seen_weights = inputs, labels, weights

        def objective(params):
            logits, stats = forward(params, hand.stats, seen_inputs)
            value = mean(losses(logits, seen_labels), seen_weights)
            if kind == "ewc":
                fisher, anchor = memory
                terms = jax.tree.map(lambda f, p, a: jnp.sum(f * jnp.square(p - a)), fisher, params, anchor)
                value += LAM / 2 * sum(jax.tree.leaves(terms))
            if kind == "derpp":
                held, stored, seen = memory
                place = draw(_named(key, "derpp", "loss", "logits"), seen)
                others, stats = forward(params, stats, images(arrays, held[place]))
                value += ALPHA * jnp.mean(jnp.square(others - stored[place]))
                place = draw(_named(key, "derpp", "loss", "labels"), seen)
                others, stats = forward(params, stats, images(arrays, held[place]))
                value += BETA * jnp.mean(losses(others, arrays.labels[held[place]]))
            if kind == "lwf":
                (old_params, old_stats), num_old = memory
                teacher = module.apply({"params": old_params, "batch_stats": old_stats}, inputs, train=False).logits
                wanted = jax.nn.softmax(teacher / TEMPERATURE)
                distance = -jnp.sum(wanted * jax.nn.log_softmax(logits / TEMPERATURE), -1)
                value += num_old * mean(distance, weights)
            return value, (logits[:num], stats)

        (value, (logits, stats)), grads = jax.value_and_grad(objective, has_aux=True)(hand.params)
        updates, opt = tx.update(grads, hand.opt, hand.params)
        params = optax.apply_updates(hand.params, updates)
        if kind == "er":
            place, seen = slots(_named(key, "er", "update"), memory[1], weights)
            memory = memory[0].at[place].set(rows, mode="drop"), seen
        if kind == "derpp":
            place, seen = slots(_named(key, "derpp", "update"), memory[2], weights)
            memory = memory[0].at[place].set(rows, mode="drop"), memory[1].at[place].set(logits, mode="drop"), seen
        right = mean((jnp.argmax(logits, -1) == labels).astype(jnp.float32), weights)
        return Hand(params, stats, opt, memory, hand.key), value, right

    def chunk(hand, arrays, t, start, length):
        def body(i, carry):
            hand, value, right = carry
            hand, more, more_right = step(hand, arrays, t, i)
            return hand, value + more, right + more_right

        zero = jnp.zeros(())
        hand, value, right = jax.lax.fori_loop(start, start + length, body, (hand, zero, zero))
        return hand, value / length, right / length

    return chunk


def _named(key: jax.Array, *names: str) -> jax.Array:
    for name in names:
        key = jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
    return key
