"""The memory of replay methods: real rows of weight 0 where nothing is stored, and rows appended to a batch."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import ops

SPEC = types.SimpleNamespace(
    record={"row": jax.ShapeDtypeStruct((), jnp.int32), "experience": jax.ShapeDtypeStruct((), jnp.int32)},
    num_classes=4,
)
PARAMS = {"w": jnp.ones(2)}


def incoming(rows, labels=None, weights=None):
    rows = jnp.asarray(rows, jnp.int32)
    return {
        "row": rows,
        "experience": jnp.full_like(rows, 1),
        "labels": jnp.zeros_like(rows) if labels is None else jnp.asarray(labels),
        "weights": jnp.ones(len(rows)) if weights is None else jnp.asarray(weights, jnp.float32),
    }


def test_an_empty_memory_draws_copies_of_incoming_rows_with_weight_zero():
    memory = ops.memory(8)
    state = memory.init(SPEC, logits=jax.ShapeDtypeStruct((3,), jnp.float32))
    records, weights = memory.draw(state, jax.random.key(0), 5, incoming([7, 8]))
    assert weights.tolist() == [0] * 5
    assert records["row"].tolist() == [7, 8, 7, 8, 7] and records["experience"].tolist() == [1] * 5
    assert records["logits"].shape == (5, 3)


def test_what_was_added_is_drawn_with_its_extra_fields():
    memory = ops.memory(8)
    state = memory.init(SPEC, logits=jax.ShapeDtypeStruct((3,), jnp.float32))
    logits = jnp.arange(9.0).reshape(3, 3)
    state = memory.add(state, jax.random.key(0), incoming([4, 5, 6], weights=[1, 1, 0]), PARAMS, logits=logits)
    records, weights = memory.draw(state, jax.random.key(1), 2, incoming([9, 9]))
    assert weights.tolist() == [1, 1] and sorted(records["row"].tolist()) == [4, 5]
    for row, stored in zip(records["row"], records["logits"], strict=True):
        np.testing.assert_array_equal(stored, logits[row - 4])


@pytest.mark.parametrize("policy", ["class_balanced", "greedy_balanced", "ring"])
def test_policies_by_class_keep_classes_even(policy):
    memory = ops.memory(8, policy)
    state = memory.init(SPEC)
    for start in range(0, 80, 10):
        rows = np.arange(start, start + 10)
        labels = np.where(rows < 60, rows % 2, 2 + rows % 2)  # two classes come late and are few
        state = memory.add(state, jax.random.key(start), incoming(rows, labels), PARAMS)
    records, weights = memory.draw(state, jax.random.key(1), 8, incoming([0, 1]))
    assert weights.sum() == 8
    kept = np.asarray(records["row"])
    labels = np.where(kept < 60, kept % 2, 2 + kept % 2)
    assert np.bincount(labels, minlength=4).tolist() == [2, 2, 2, 2]
    assert ("labels" in state.records) == (policy != "ring")
    assert memory.held(state).tolist() == [True] * 8


def test_wrong_memories_are_refused():
    with pytest.raises(ValueError, match="size expects a whole number of at least 1, got 0"):
        ops.memory(0)
    with pytest.raises(ValueError, match="policy must be one of .*'ring', 'experience', got 'fifo'"):
        ops.memory(8, "fifo")


def test_rows_are_appended_after_the_incoming_ones_and_leave_the_shared_memory_alone():
    batch = {"row": jnp.array([1, 2]), "weights": jnp.ones(2), "memory": {"row": jnp.array([5])}}
    longer = ops.append_rows(batch, {"row": jnp.array([3]), "weights": jnp.zeros(1), "other": jnp.zeros(1)})
    assert longer["row"].tolist() == [1, 2, 3] and longer["weights"].tolist() == [1, 1, 0]
    assert longer["memory"] is batch["memory"] and "other" not in longer
    with pytest.raises(ValueError, match="The appended rows have no targets: put the method that appends rows before"):
        ops.append_rows(batch | {"targets": jnp.zeros((2, 3))}, {"row": jnp.array([3]), "weights": jnp.zeros(1)})
