"""Replay buffers of fixed shape: what to keep of a stream that is seen once.

- `reservoir`: Vitter, "Random sampling with a reservoir", ACM TOMS 11(1), 1985, algorithm R.
- `class_balanced`: Chrysakis and Moens, "Online continual learning from imbalanced data", ICML 2020 (PMLR 119).
- `greedy_balanced`: the sampler of GDumb, Prabhu, Torr and Dokania, ECCV 2020, algorithm 1.
- `ring`: the ring buffer of Chaudhry et al., "On tiny episodic memories in continual learning", arXiv 1902.10486, 2019.

Written from the algorithms as published, without their code; the papers themselves were not opened. Where we differ:
rows come in batches, each read from first to last, with the outcome of one at a time; the ring has a fixed share for
each class from the start, because shapes do not change while a program runs. (The code of GDumb's authors, which was
opened, has no sampler: it takes the first `capacity // num_classes` rows of each class.)
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ctrain_jax.ops._checks import check_positive
from ctrain_jax.ops._permutation import permute_index

Record = Mapping[str, jax.ShapeDtypeStruct]
Rows = dict[str, jax.Array]


class BufferState(NamedTuple):
    """What a buffer holds. Never changes shape."""

    records: Rows  # {field: [capacity, ...]}, in the dtypes of the record; zeros where nothing is stored yet
    seen: jax.Array  # int32 [], rows offered so far; of each class [num_classes] (greedy_balanced: rows held)
    full: jax.Array | tuple[()] = ()  # class_balanced only: bool [num_classes], no longer allowed to grow


class Buffer(NamedTuple):
    """A buffer is four pure functions over a `BufferState`.

    `init(record) -> state`, where `record` maps each field to the `jax.ShapeDtypeStruct` of *one* row;
    `add(state, rng, records, keep) -> state`, with `records` `{field: [B, ...]}` (fields that are not stored are
    ignored) and `keep` `[B]` of bool or weights: a row of 0 is padding, neither stored nor counted;
    `sample(state, rng, num) -> (records {field: [num, ...]}, weights float32 [num])`, uniform over the stored rows,
    without repetition until all have come; the weights are 1, or all 0 where nothing is stored (the rows are then
    zeros: put real ones in their place);
    `held(state) -> bool [capacity]`, the slots in which a row is stored.
    """

    init: Callable[[Record], BufferState]
    add: Callable[[BufferState, jax.Array, Mapping[str, jax.Array], ArrayLike], BufferState]
    sample: Callable[[BufferState, jax.Array, int], tuple[Rows, jax.Array]]
    held: Callable[[BufferState], jax.Array]


def reservoir(capacity: int) -> Buffer:
    """A uniform random subset of all rows seen so far (algorithm R).

    Row `n`, counted from 0, takes slot `n` while `n < capacity`; afterwards slot `u` uniform in `[0, n]`, if
    `u < capacity`. Each row seen is held with probability `capacity / seen`, whatever the batches were. Neither `add`
    nor `sample` does work that grows with the capacity.

    Args:
        capacity: rows that it holds.

    Returns:
        The buffer.

    Raises:
        ValueError: `capacity` is not positive.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> buffer = reservoir(3)
        >>> state = buffer.init({"row": jax.ShapeDtypeStruct((), jnp.int32)})
        >>> state = buffer.add(state, jax.random.key(0), {"row": jnp.array([7, 8, 9])}, jnp.array([1, 0, 1]))
        >>> state.records["row"], int(state.seen)
        (Array([7, 9, 0], dtype=int32), 2)

    References:
        Vitter 1985.
    """
    check_positive("capacity", capacity)

    def init(record: Record) -> BufferState:
        return BufferState(_zeros(record, capacity), jnp.zeros((), jnp.int32))

    def add(state: BufferState, rng: jax.Array, records: Mapping[str, jax.Array], keep: ArrayLike) -> BufferState:
        kept = jnp.asarray(keep) > 0
        number = state.seen + jnp.cumsum(kept, dtype=jnp.int32) - 1
        drawn = jax.random.randint(rng, kept.shape, 0, jnp.maximum(number, 0) + 1)
        slots = jnp.where(number < capacity, number, drawn)
        stored = _store(state.records, records, slots, kept & (slots < capacity))
        return state._replace(records=stored, seen=state.seen + jnp.sum(kept, dtype=jnp.int32))

    return _filled_from_the_front(init, add, lambda state: jnp.minimum(state.seen, capacity), capacity)


def class_balanced(capacity: int, num_classes: int, label_field: str = "labels") -> Buffer:
    """Class-balancing reservoir sampling (CBRS): as balanced as the stream allows, uniform within a class.

    While there is room every row is stored. Then, with `m_c` stored and `n_c` seen rows of the row's class `c`: if `c`
    is not full, the row replaces a random one of the largest class (of all of them where several are equally large);
    if it is, it replaces a random row of `c` with probability `m_c / n_c`. A class is full once it has been a largest
    one; this is judged from the moment that the memory is filled. `add` costs `O(B capacity)`.

    Args:
        capacity: rows that it holds.
        num_classes: labels are integers below it; rows of other labels are not stored.
        label_field: the field of a record that holds the label.

    Returns:
        The buffer.

    Raises:
        ValueError: `capacity` or `num_classes` is not positive, or a record lacks `label_field`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> buffer = class_balanced(4, num_classes=2)
        >>> state = buffer.init({"labels": jax.ShapeDtypeStruct((), jnp.int32)})
        >>> state = buffer.add(state, jax.random.key(0), {"labels": jnp.array([0] * 6 + [1] * 2)}, jnp.ones(8))
        >>> sorted(state.records["labels"].tolist())
        [0, 0, 1, 1]

    References:
        Chrysakis and Moens 2020, ICML, algorithm 1.
    """
    check_positive("capacity", capacity)
    check_positive("num_classes", num_classes)

    def init(record: Record) -> BufferState:
        _require(label_field, record)
        counts = jnp.zeros((num_classes,), jnp.int32)
        return BufferState(_zeros(record, capacity), counts, counts > 0)

    def add(state: BufferState, rng: jax.Array, records: Mapping[str, jax.Array], keep: ArrayLike) -> BufferState:
        _require(label_field, records)
        labels = records[label_field].astype(jnp.int32)
        kept = (jnp.asarray(keep) > 0) & (labels >= 0) & (labels < num_classes)
        held = jnp.minimum(jnp.sum(state.seen), capacity)
        classes = jnp.where(jnp.arange(capacity) < held, state.records[label_field], num_classes).astype(jnp.int32)
        stored = jnp.zeros((num_classes,), jnp.int32).at[classes].add(1, mode="drop")

        def one(carry, row):
            classes, held, stored, seen, full = carry
            label, keep_it, (accept, pick) = row
            seen = seen.at[label].add(keep_it, mode="drop")
            growing = ~full[label]
            largest = stored == jnp.max(stored)
            victims = jnp.where(growing, largest.at[classes].get(mode="fill", fill_value=False), classes == label)
            room = held < capacity
            accepted = growing | (accept * seen[label] <= stored[label])
            takes = keep_it & (room | (accepted & jnp.any(victims)))
            slot = jnp.where(takes, jnp.where(room, held, _one_of(victims, pick)), capacity)
            classes, stored = _placed(classes, stored, slot, label)
            held = held + (takes & room)
            full = full | ((held == capacity) & (stored == jnp.max(stored)))
            return (classes, held, stored, seen, full), slot

        carry = (classes, held, stored, state.seen, state.full)
        uniforms = jax.random.uniform(rng, (labels.shape[0], 2))
        (_, _, _, seen, full), slots = jax.lax.scan(one, carry, (labels, kept, uniforms))
        return BufferState(_store(state.records, records, slots, slots < capacity), seen, full)

    return _filled_from_the_front(init, add, lambda state: jnp.minimum(jnp.sum(state.seen), capacity), capacity)


def greedy_balanced(capacity: int, num_classes: int, label_field: str = "labels") -> Buffer:
    """The greedy sampler of GDumb: whatever comes, up to an even share of the capacity for each class.

    With `k` classes held so far and `m_c` rows of the row's class `c`, the row is stored if `m_c < capacity / k`. Where
    there is no room it replaces a random row of the largest class (of all of them where several are equally large).
    `add` costs `O(B capacity)`.

    Args:
        capacity: rows that it holds, at least `num_classes`.
        num_classes: labels are integers below it; rows of other labels are not stored.
        label_field: the field of a record that holds the label.

    Returns:
        The buffer.

    Raises:
        ValueError: `capacity` or `num_classes` is not positive, there is less than one slot for each class, or a record
            lacks `label_field`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> buffer = greedy_balanced(4, num_classes=2)
        >>> state = buffer.init({"labels": jax.ShapeDtypeStruct((), jnp.int32)})
        >>> state = buffer.add(state, jax.random.key(0), {"labels": jnp.array([0] * 6 + [1] * 6)}, jnp.ones(12))
        >>> sorted(state.records["labels"].tolist())
        [0, 0, 1, 1]

    References:
        Prabhu, Torr and Dokania 2020, ECCV, algorithm 1.
    """
    _check_room("greedy_balanced", capacity, num_classes)

    def init(record: Record) -> BufferState:
        _require(label_field, record)
        return BufferState(_zeros(record, capacity), jnp.zeros((num_classes,), jnp.int32))

    def add(state: BufferState, rng: jax.Array, records: Mapping[str, jax.Array], keep: ArrayLike) -> BufferState:
        _require(label_field, records)
        labels = records[label_field].astype(jnp.int32)
        kept = (jnp.asarray(keep) > 0) & (labels >= 0) & (labels < num_classes)
        full = jnp.arange(capacity) < jnp.sum(state.seen)
        classes = jnp.where(full, state.records[label_field], num_classes).astype(jnp.int32)

        def one(carry, row):
            classes, stored = carry
            label, keep_it, pick = row
            held = jnp.sum(stored)
            takes = keep_it & (stored[label] * jnp.sum(stored > 0) < capacity)
            largest = (stored == jnp.max(stored)).at[classes].get(mode="fill", fill_value=False)
            slot = jnp.where(takes, jnp.where(held < capacity, held, _one_of(largest, pick)), capacity)
            return _placed(classes, stored, slot, label), slot

        uniforms = jax.random.uniform(rng, labels.shape)
        (_, stored), slots = jax.lax.scan(one, (classes, state.seen), (labels, kept, uniforms))
        return state._replace(records=_store(state.records, records, slots, slots < capacity), seen=stored)

    return _filled_from_the_front(init, add, lambda state: jnp.sum(state.seen), capacity)


def ring(capacity: int, num_classes: int, label_field: str = "labels") -> Buffer:
    """The last rows of each class: `capacity // num_classes` slots for each, first in, first out.

    Slots `c * share .. (c + 1) * share - 1` belong to class `c`; slots beyond `num_classes * share` stay empty.

    Args:
        capacity: rows that it holds, at least `num_classes`.
        num_classes: labels are integers below it; rows of other labels are not stored.
        label_field: the field of the added rows that holds the label; it need not be stored.

    Returns:
        The buffer.

    Raises:
        ValueError: `capacity` or `num_classes` is not positive, there is less than one slot for each class, or
            added rows lack `label_field`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> buffer = ring(4, num_classes=2)
        >>> record = {"labels": jax.ShapeDtypeStruct((), jnp.int32), "row": jax.ShapeDtypeStruct((), jnp.int32)}
        >>> rows = {"labels": jnp.array([0, 0, 0, 1]), "row": jnp.array([5, 6, 7, 8])}
        >>> buffer.add(buffer.init(record), jax.random.key(0), rows, jnp.ones(4)).records["row"]
        Array([7, 6, 8, 0], dtype=int32)

    References:
        Chaudhry et al. 2019, arXiv 1902.10486.
    """
    _check_room("ring", capacity, num_classes)
    share = capacity // num_classes

    def init(record: Record) -> BufferState:
        return BufferState(_zeros(record, capacity), jnp.zeros((num_classes,), jnp.int32))

    def add(state: BufferState, rng: jax.Array, records: Mapping[str, jax.Array], keep: ArrayLike) -> BufferState:
        del rng
        _require(label_field, records)
        labels = records[label_field].astype(jnp.int32)
        kept = (jnp.asarray(keep) > 0) & (labels >= 0) & (labels < num_classes)
        alike = (labels[:, None] == labels[None, :]) & kept[None, :]
        earlier = jnp.sum(jnp.tril(alike, -1), axis=1, dtype=jnp.int32)
        slots = labels * share + (state.seen.at[labels].get(mode="clip") + earlier) % share
        seen = state.seen.at[jnp.where(kept, labels, num_classes)].add(1, mode="drop")
        return state._replace(records=_store(state.records, records, slots, kept), seen=seen)

    def sample(state: BufferState, rng: jax.Array, num: int) -> tuple[Rows, jax.Array]:
        held = jnp.minimum(state.seen, share)
        ends = jnp.cumsum(held)
        places = _draw(rng, num, ends[-1])
        label = jnp.minimum(jnp.searchsorted(ends, places, side="right"), num_classes - 1)
        slots = label * share + places - (ends - held)[label]
        return _take(state.records, slots, ends[-1])

    def held(state: BufferState) -> jax.Array:
        slots = jnp.arange(capacity)
        return slots % share < state.seen.at[slots // share].get(mode="fill", fill_value=0)

    return Buffer(init, add, sample, held)


def wait_for(value: jax.Array, tree: Any) -> jax.Array:
    """`value`, unchanged, in a form that XLA computes only after `tree`.

    A compiled step that reads a buffer and later writes to it copies the whole buffer unless the write depends on the
    read. Pass `keep` through here with the parameters after the update, which depend on all that was read:
    `buffer.add(state, rng, records, wait_for(keep, params))` writes in place and costs the same for every capacity.
    (`jax.lax.optimization_barrier` does not help: XLA's CPU compiler drops it before it decides on copies.)

    Args:
        value: an array of numbers or bools.
        tree: arrays to wait for; one entry of each floating leaf is looked at.

    Returns:
        `value`.

    Example:
        >>> import jax.numpy as jnp
        >>> wait_for(jnp.ones(2), {"kernel": jnp.full((3, 3), jnp.nan)})
        Array([1., 1.], dtype=float32)
    """
    zero = jnp.int32(0)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size:
            entry = jax.lax.slice(leaf.reshape(-1), (0,), (1,))[0].astype(jnp.float32)
            # At most 32 bits are set, so this is 0 for any entry, and nothing that the simplifier of XLA knows.
            zero = zero + (jax.lax.population_count(jax.lax.bitcast_convert_type(entry, jnp.int32)) >> 6)
    return jnp.where(zero == 0, value, jnp.zeros_like(value))


def _zeros(record: Record, capacity: int) -> Rows:
    return {field: jnp.zeros((capacity, *one.shape), one.dtype) for field, one in record.items()}


def _filled_from_the_front(init: Callable, add: Callable, num_held: Callable, capacity: int) -> Buffer:
    """The buffer whose first `num_held(state)` slots are in use."""

    def sample(state: BufferState, rng: jax.Array, num: int) -> tuple[Rows, jax.Array]:
        held = num_held(state)
        return _take(state.records, _draw(rng, num, held), held)

    return Buffer(init, add, sample, lambda state: jnp.arange(capacity) < num_held(state))


def _check_room(name: str, capacity: int, num_classes: int) -> None:
    check_positive("capacity", capacity)
    check_positive("num_classes", num_classes)
    if capacity < num_classes:
        raise ValueError(
            f"{name} needs a slot for each class, got capacity={capacity} for num_classes={num_classes}: "
            f"give a capacity of at least {num_classes}."
        )


def _one_of(marked: jax.Array, uniform: jax.Array) -> jax.Array:
    """The place of a random one of the entries that are marked; any place where there is none."""
    rank = jnp.cumsum(marked, dtype=jnp.int32)
    chosen = jnp.minimum((uniform * rank[-1]).astype(jnp.int32), rank[-1] - 1)
    return jnp.searchsorted(rank, chosen + 1).astype(jnp.int32)


def _placed(classes: jax.Array, stored: jax.Array, slot: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The class of each slot and the rows of each class, after a row of `label` took `slot` (none: the capacity)."""
    stored = stored.at[classes.at[slot].get(mode="fill", fill_value=stored.shape[0])].add(-1, mode="drop")
    stored = stored.at[label].add(slot < classes.shape[0], mode="drop")
    return classes.at[slot].set(label, mode="drop"), stored


def _require(field: str, fields: Mapping[str, object]) -> None:
    if field not in fields:
        raise ValueError(
            f"The buffer stores the fields of its record and needs {field!r}, got {sorted(fields)}: add it to them."
        )


def _store(store: Rows, rows: Mapping[str, jax.Array], slots: jax.Array, takes: jax.Array) -> Rows:
    """Writes the rows that `takes` marks. XLA leaves the order of equal slots open, so only the last one is written."""
    for field in store:
        _require(field, rows)
    capacity, num = next(iter(store.values())).shape[0], slots.shape[0]
    later = jnp.triu((slots[:, None] == slots[None, :]) & takes[None, :], 1)
    target = jnp.where(takes & ~jnp.any(later, axis=1), slots, capacity + jnp.arange(num))
    return {
        field: held.at[target].set(rows[field].astype(held.dtype), mode="drop", unique_indices=True)
        for field, held in store.items()
    }


def _draw(rng: jax.Array, num: int, held: jax.Array) -> jax.Array:
    """int32 [num] in [0, held): distinct until all have come, then each once more."""
    held = jnp.maximum(held, 1)
    return permute_index(rng, jnp.arange(num) % held, held)


def _take(store: Rows, slots: jax.Array, held: jax.Array) -> tuple[Rows, jax.Array]:
    weights = jnp.full(slots.shape, held > 0, jnp.float32)
    return {field: rows[slots] for field, rows in store.items()}, weights
