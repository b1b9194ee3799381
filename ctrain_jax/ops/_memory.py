"""The memory of a replay method: a buffer of row numbers, drawn as rows that may join a batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.ops._buffers import Buffer, BufferState, class_balanced, greedy_balanced, reservoir, ring, wait_for
from ctrain_jax.ops._checks import check_choice, check_size
from ctrain_jax.ops._permutation import permute_index

Batch = dict[str, Any]
POLICIES = ("reservoir", "class_balanced", "greedy_balanced", "ring", "experience")
_BY_CLASS = {"class_balanced": class_balanced, "greedy_balanced": greedy_balanced, "ring": ring}


class Memory(NamedTuple):
    """Pure functions over a `BufferState`."""

    init: Callable[..., BufferState]  # (spec, **extra fields as ShapeDtypeStruct of one row)
    add: Callable[..., BufferState]  # (state, rng, incoming, params after the update, **extra fields [B, ...])
    offer: Callable[..., BufferState]  # (state, ctx of `end`, params): add every row of the experience, in random order
    draw: Callable[..., tuple[Batch, jax.Array]]  # (state, rng, num, incoming) -> (records [num, ...], weights [num])
    held: Callable[[BufferState], jax.Array]  # bool [size], the slots of `state.records` in which a row is stored


def memory(size: int, policy: str = "reservoir") -> Memory:
    """A memory of rows of a stream.

    It stores what `spec.record` names (row number and experience), the label where the policy asks for it, and any
    extra field of the method (logits, say).

    Args:
      size: rows of the memory.
      policy: "reservoir", "class_balanced", "greedy_balanced", "ring", or "experience", a ring with a share of the
        memory for each experience, where labels come again.

    Returns:
      The functions. Rows that `draw` cannot fill from the memory are copies of incoming ones, with weight 0: padding
      is real rows, or BatchNorm would see it.

    Raises:
      ValueError: `size` below 1, an unknown policy.
    """
    check_choice("policy", policy, POLICIES)
    check_size("size", size)

    def buffer(num_groups: int) -> Buffer:
        if policy == "reservoir":
            return reservoir(size)
        if policy == "experience":
            return ring(size, num_groups, label_field="experience")
        return _BY_CLASS[policy](size, num_groups)

    def init(spec: Any, **extra: jax.ShapeDtypeStruct) -> BufferState:
        record = {**spec.record, **extra}
        if policy in ("class_balanced", "greedy_balanced"):
            record["labels"] = jax.ShapeDtypeStruct((), jnp.int32)
        return buffer(spec.num_experiences if policy == "experience" else spec.num_classes).init(record)

    def add(state: BufferState, rng: jax.Array, incoming: Batch, params: Any, **extra: jax.Array) -> BufferState:
        return buffer(_num_groups(state)).add(state, rng, incoming | extra, wait_for(incoming["weights"], params))

    def draw(state: BufferState, rng: jax.Array, num: int, incoming: Batch) -> tuple[Batch, jax.Array]:
        records, weights = buffer(_num_groups(state)).sample(state, rng, num)
        copies = jnp.arange(num) % incoming["row"].shape[0]

        def fill(name, drawn):
            if name not in incoming:
                return drawn
            real = jnp.expand_dims(weights > 0, tuple(range(1, drawn.ndim)))
            return jnp.where(real, drawn, incoming[name][copies].astype(drawn.dtype))

        return {name: fill(name, drawn) for name, drawn in records.items()}, weights

    def offer(state: BufferState, ctx: Any, params: Any) -> BufferState:
        experience, num = ctx.experience, ctx.spec.batch_size

        def body(b, state):
            at = b * num + jnp.arange(num, dtype=jnp.int32)
            place = permute_index(ctx.rng, at % experience.size, experience.size)
            batch = ctx.fetch({"row": experience.rows[place], "experience": experience.origin[place]})
            batch["weights"] = (at < experience.size).astype(jnp.float32)
            return add(state, jax.random.fold_in(ctx.rng, b), batch, params)

        return jax.lax.fori_loop(0, -(-experience.size // num), body, state)

    def held(state: BufferState) -> jax.Array:
        return buffer(_num_groups(state)).held(state)

    return Memory(init, add, offer, draw, held)


def _num_groups(state: BufferState) -> int:
    """Buffers by class or experience count what they have seen of each."""
    return state.seen.shape[0] if state.seen.ndim else 0


def append_rows(batch: Batch, rows: Batch) -> Batch:
    """A batch with rows after its own. The reserved field `memory` stays as it is.

    Args:
      batch: fields `[B, ...]`.
      rows: fields `[R, ...]`, at least those of the batch; others are left out.

    Returns:
      Fields `[B + R, ...]`.

    Raises:
      ValueError: the batch has a field that the rows lack.
    """
    missing = sorted(name for name in batch if name != "memory" and name not in rows)
    if missing:
        raise ValueError(
            f"The appended rows have no {', '.join(missing)}: put the method that appends rows before the one "
            f"that adds {', '.join(missing)} to the batch."
        )
    longer = {name: jnp.concatenate([own, rows[name]]) for name, own in batch.items() if name != "memory"}
    return {**batch, **longer}
