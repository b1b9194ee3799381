"""Exemplar sets against lists of rows, one class at a time."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import ops

SPEC = types.SimpleNamespace(num_classes=3)


def experience(t, size=9):
    """Positions 0 to 8 are the rows 100 t, 100 t + 1, ..."""
    rows = jnp.arange(size, dtype=jnp.int32)
    return types.SimpleNamespace(rows=100 * t + rows, origin=jnp.full(size, t, jnp.int32), size=jnp.int32(size))


def picks(*by_class):
    """Picks of each class, -1 for none."""
    return jnp.array([list(own) + [-1] * (5 - len(own)) for own in by_class], jnp.int32)


def held(state, c):
    slots = np.asarray(state.held[c])
    return list(
        zip(np.asarray(state.experience[c])[slots].tolist(), np.asarray(state.row[c])[slots].tolist(), strict=True)
    )


def test_a_class_that_comes_again_shares_its_slots_by_rank():
    rows = ops.exemplars(5)
    state = rows.keep(rows.init(SPEC), experience(0), picks([4, 2, 8, 0, 1], [3, 5], []))
    assert held(state, 0) == [(0, 4), (0, 2), (0, 8), (0, 0), (0, 1)] and held(state, 1) == [(0, 3), (0, 5)]
    state = rows.keep(state, experience(1), picks([7, 6, 5, 4, 3], [], [1, 2]))
    # Best of the first, best of the second, second best of the first, ...
    assert held(state, 0) == [(0, 4), (1, 107), (0, 2), (1, 106), (0, 8)]
    assert held(state, 1) == [(0, 3), (0, 5)] and held(state, 2) == [(1, 101), (1, 102)]
    state = rows.keep(state, experience(2), picks([1, 2, 3, 4, 5], [0, 1, 2, 3, 4], []))
    assert held(state, 0) == [(0, 4), (1, 107), (2, 201), (0, 2), (1, 106)]
    assert held(state, 1) == [(0, 3), (2, 200), (0, 5), (2, 201), (2, 202)]


def test_draws_come_from_what_is_held_each_once_before_any_twice():
    rows = ops.exemplars(5)
    state = rows.keep(rows.init(SPEC), experience(3), picks([4], [], [3, 5]))
    incoming = {"row": jnp.array([7]), "experience": jnp.array([1])}
    counts = {304: 0, 303: 0, 305: 0}
    for seed in range(40):
        records, weights = rows.draw(state, jax.random.key(seed), 4, incoming)
        drawn = records["row"].tolist()
        assert set(drawn) == set(counts) and weights.tolist() == [1] * 4 and set(records["experience"].tolist()) == {3}
        counts[drawn[0]] += 1
    # Binomial with p = 1/3 of 40: four standard deviations are 12.
    assert all(1 <= n <= 26 for n in counts.values())


def test_where_nothing_is_held_copies_of_incoming_rows_are_drawn_with_weight_zero():
    rows = ops.exemplars(5)
    incoming = {"row": jnp.array([7, 8]), "experience": jnp.array([1, 1])}
    records, weights = rows.draw(rows.init(SPEC), jax.random.key(0), 3, incoming)
    assert records["row"].tolist() == [7, 8, 7] and records["experience"].tolist() == [1] * 3
    assert weights.tolist() == [0] * 3


@pytest.mark.parametrize("real", [6, 3])
def test_the_mean_over_a_joined_batch_is_that_over_the_union_in_expectation(real):
    """Three exemplars in a batch of six come twice each: no chance is left. Three rows of padding change nothing."""
    rows = ops.exemplars(5)
    state = rows.keep(rows.init(SPEC), experience(0), picks([4], [], [3, 5]))
    weights = (jnp.arange(6) < real).astype(jnp.float32)
    own = jnp.array([200, 201, 202, 200, 201, 202])
    incoming = {"row": own, "experience": jnp.full(6, 2), "weights": weights}
    ctx = types.SimpleNamespace(
        rng=jax.random.key(0), incoming=incoming, experience=experience(2, size=3), fetch=lambda record: dict(record)
    )
    batch = rows.join(state, dict(incoming), ctx)
    mean = jnp.sum((0.1 * batch["row"] + 1) ** 2 * batch["weights"]) / jnp.sum(batch["weights"])
    union = np.array([200, 201, 202, 4, 3, 5])
    np.testing.assert_allclose(mean, np.mean((0.1 * union + 1) ** 2), rtol=1e-6)
    np.testing.assert_allclose(batch["weights"].sum(), 2 * real)


def test_each_class_is_handed_over_with_weights_of_what_is_held():
    rows = ops.exemplars(5)
    state = rows.keep(rows.init(SPEC), experience(1), picks([4], [], [3, 5]))
    ctx = types.SimpleNamespace(fetch=lambda record: dict(record))
    sums = rows.each(state, ctx, lambda batch: jnp.sum(batch["row"] * batch["weights"]))
    assert sums.tolist() == [104, 0, 103 + 105]


def test_no_exemplars_are_refused():
    with pytest.raises(ValueError, match="num expects a whole number of at least 1, got 0"):
        ops.exemplars(0)
