"""Buffers against python loops that are fed the same random numbers, and against what they promise in distribution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ctrain_jax.ops import class_balanced, greedy_balanced, permute_index, reservoir, ring, wait_for

ROW = {"row": jax.ShapeDtypeStruct((), jnp.int32)}
LABELLED = ROW | {"labels": jax.ShapeDtypeStruct((), jnp.int32)}
FACTORIES = {
    "reservoir": reservoir,
    "class_balanced": lambda n: class_balanced(n, 3),
    "greedy_balanced": lambda n: greedy_balanced(n, 3),
    "ring": lambda n: ring(n, 3),
}


def batches(seed, sizes, num_classes=3):
    """Rows numbered from 1, uneven classes that arrive in bursts, some padding."""
    rng, start, out = np.random.default_rng(seed), 1, []
    for i, size in enumerate(sizes):
        favourite = i // 3 % num_classes
        labels = np.where(rng.random(size) < 0.6, favourite, rng.integers(num_classes, size=size))
        keep = (rng.random(size) < 0.8).astype(np.float32)
        out.append(({"row": np.arange(start, start + size), "labels": labels}, keep))
        start += size
    return out


def fill(buffer, arrivals, record=LABELLED, seed=0):
    state, add = buffer.init(record), jax.jit(buffer.add)
    for i, (rows, keep) in enumerate(arrivals):
        rows = {name: jnp.asarray(v) for name, v in rows.items()}
        state = add(state, jax.random.fold_in(jax.random.key(seed), i), rows, keep)
    return state


def naive_reservoir(capacity, arrivals, seed=0):
    memory, seen = [0] * capacity, 0
    for i, (rows, keep) in enumerate(arrivals):
        number = seen + np.maximum(np.cumsum(keep > 0) - 1, 0)
        draws = jax.random.randint(jax.random.fold_in(jax.random.key(seed), i), keep.shape, 0, jnp.asarray(number + 1))
        for row, k, draw in zip(rows["row"], keep, np.asarray(draws), strict=True):
            if k:
                slot = seen if seen < capacity else draw
                if slot < capacity:
                    memory[slot] = row
                seen += 1
    return memory, seen


def naive_class_balanced(capacity, arrivals, seed=0):
    memory, seen, full = [], dict.fromkeys(range(3), 0), set()
    for i, (rows, keep) in enumerate(arrivals):
        uniforms = np.asarray(jax.random.uniform(jax.random.fold_in(jax.random.key(seed), i), (len(keep), 2)))
        for row, label, k, (accept, pick) in zip(rows["row"], rows["labels"], keep, uniforms, strict=True):
            if not k:
                continue
            seen[label] += 1
            stored = {c: [j for j, (_, y) in enumerate(memory) if y == c] for c in range(3)}
            largest = max(map(len, stored.values()))
            if len(memory) < capacity:
                memory.append((row, label))
            elif label not in full:
                victims = sorted(j for js in stored.values() if len(js) == largest for j in js)
                memory[victims[int(pick * np.float32(len(victims)))]] = (row, label)
            elif accept * np.float32(seen[label]) <= len(stored[label]):
                memory[stored[label][int(pick * np.float32(len(stored[label])))]] = (row, label)
            counts = [sum(y == c for _, y in memory) for c in range(3)]
            if len(memory) == capacity:
                full |= {c for c in range(3) if counts[c] == max(counts)}
    return memory, seen, full


def naive_greedy_balanced(capacity, arrivals, seed=0):
    memory = []
    for i, (rows, keep) in enumerate(arrivals):
        uniforms = np.asarray(jax.random.uniform(jax.random.fold_in(jax.random.key(seed), i), keep.shape))
        for row, label, k, pick in zip(rows["row"], rows["labels"], keep, uniforms, strict=True):
            counts = np.bincount([y for _, y in memory], minlength=3)
            share = capacity / max(len(set(y for _, y in memory)), 1)
            if not k or (counts[label] and counts[label] >= share):
                continue
            if len(memory) < capacity:
                memory.append((row, label))
            else:
                victims = [j for j, (_, y) in enumerate(memory) if counts[y] == counts.max()]
                memory[victims[int(pick * np.float32(len(victims)))]] = (row, label)
    return memory


def naive_ring(capacity, arrivals):
    share, memory = capacity // 3, [0] * capacity
    seen = dict.fromkeys(range(3), 0)
    for rows, keep in arrivals:
        for row, label, k in zip(rows["row"], rows["labels"], keep, strict=True):
            if k:
                memory[label * share + seen[label] % share] = row
                seen[label] += 1
    return memory, seen


SIZES = [7, 7, 30, 7, 7, 7, 30, 7, 7, 7]


@pytest.mark.parametrize("capacity", [1, 20, 200])
def test_reservoir_equals_definition(capacity):
    arrivals = batches(capacity, SIZES)
    state = fill(reservoir(capacity), arrivals)
    memory, seen = naive_reservoir(capacity, arrivals)
    assert state.records["row"].tolist() == memory
    assert state.seen == seen


@pytest.mark.parametrize("capacity", [1, 5, 20, 200])
def test_class_balanced_equals_definition(capacity):
    buffer = class_balanced(capacity, 3)
    for seed in range(3):
        arrivals = batches(seed, SIZES)
        state = fill(buffer, arrivals, seed=seed)
        memory, seen, full = naive_class_balanced(capacity, arrivals, seed)
        assert state.records["row"].tolist() == [row for row, _ in memory] + [0] * (capacity - len(memory))
        assert state.records["labels"].tolist()[: len(memory)] == [label for _, label in memory]
        assert state.seen.tolist() == list(seen.values())
        assert set(np.flatnonzero(state.full)) == full


@pytest.mark.parametrize("capacity", [3, 5, 20, 200])
def test_greedy_balanced_equals_definition(capacity):
    buffer = greedy_balanced(capacity, 3)
    for seed in range(3):
        arrivals = batches(seed, SIZES)
        state = fill(buffer, arrivals, seed=seed)
        memory = naive_greedy_balanced(capacity, arrivals, seed)
        assert state.records["row"].tolist() == [row for row, _ in memory] + [0] * (capacity - len(memory))
        assert state.records["labels"].tolist()[: len(memory)] == [label for _, label in memory]
        assert state.seen.tolist() == np.bincount([label for _, label in memory], minlength=3).tolist()


def test_greedy_balanced_ends_even_whatever_came_first():
    """40 rows of class 0, then 20 of class 1, then 20 of class 2, in 12 slots: 12, then 6 and 6, then 4, 4 and 4."""
    buffer, state, after = greedy_balanced(12, 3), None, []
    state = buffer.init(LABELLED)
    for label, num in enumerate((40, 20, 20)):
        rows = {"row": jnp.arange(num), "labels": jnp.full(num, label)}
        state = buffer.add(state, jax.random.key(label), rows, jnp.ones(num))
        after.append(state.seen.tolist())
    assert after == [[12, 0, 0], [6, 6, 0], [4, 4, 4]]
    assert np.bincount(state.records["labels"]).tolist() == [4, 4, 4]


@pytest.mark.parametrize("capacity", [3, 8, 30, 200])
def test_ring_equals_definition(capacity):
    arrivals = batches(capacity, SIZES)
    state = fill(ring(capacity, 3), arrivals)
    memory, seen = naive_ring(capacity, arrivals)
    assert state.records["row"].tolist() == memory
    assert state.seen.tolist() == list(seen.values())


def holders(buffer, sizes, seeds):
    """How many of the seeds hold each row at the end: [sum(sizes)]."""
    ends = np.cumsum([0, *sizes])

    def run(key):
        state = buffer.init(ROW)
        for i, (a, b) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
            state = buffer.add(state, jax.random.fold_in(key, i), {"row": jnp.arange(a, b)}, jnp.ones(b - a))
        return state.records["row"]

    rows = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(5), seeds))
    return np.bincount(np.asarray(rows).ravel(), minlength=ends[-1])


@pytest.mark.parametrize("sizes", [[1] * 15, [15], [4, 8, 1, 2]])
def test_reservoir_holds_every_row_equally_often(sizes):
    capacity, seeds, num = 5, 6000, 15
    counts = holders(reservoir(capacity), sizes, seeds)
    # A count is binomial(seeds, p), and the counts add up to seeds * capacity: chi-square after this rescaling.
    p = capacity / num
    statistic = np.sum((counts - seeds * p) ** 2) / (seeds * p * (1 - p)) * (num - 1) / num
    assert 1e-3 < stats.chi2.sf(statistic, num - 1) < 1 - 1e-3


def test_class_balanced_is_balanced_and_uniform_within_a_class():
    # 40 rows of class 0, then 10 of class 1, then 40 of class 0; 12 slots must end as 6 and 6.
    labels = jnp.array([0] * 40 + [1] * 10 + [0] * 40)
    buffer = class_balanced(12, 2)

    def run(key):
        rows = {"row": jnp.arange(90), "labels": labels}
        return buffer.add(buffer.init(LABELLED), key, rows, jnp.ones(90)).records

    records = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), 3000))
    assert np.all(np.asarray(records["labels"]).sum(1) == 6)
    counts = np.bincount(np.asarray(records["row"]).ravel(), minlength=90)
    p = 6 / 80
    statistic = np.sum((counts[labels == 0] - 3000 * p) ** 2) / (3000 * p * (1 - p))
    assert stats.chi2.sf(statistic, 79) > 1e-3


@pytest.mark.parametrize("name", FACTORIES)
def test_padding_is_neither_stored_nor_counted(name):
    buffer = FACTORIES[name](9)
    rows = {"row": jnp.arange(1, 7), "labels": jnp.array([0, 1, 2, 0, 1, 2])}
    state = buffer.add(buffer.init(LABELLED), jax.random.key(0), rows, jnp.array([True, False] * 3))
    assert sorted(state.records["row"].tolist())[-4:] == [0, 1, 3, 5]
    assert jnp.sum(state.seen) == 3
    nothing = buffer.add(state, jax.random.key(1), rows, jnp.zeros(6))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, state, nothing))


@pytest.mark.parametrize("name", FACTORIES)
def test_held_marks_the_slots_in_which_a_row_is_stored(name):
    buffer = FACTORIES[name](10)
    for arrivals in ([], batches(0, [5]), batches(1, SIZES)):
        state = fill(buffer, arrivals)  # rows are numbered from 1, so that 0 is none
        assert buffer.held(state).tolist() == (state.records["row"] > 0).tolist()
    assert buffer.held(state).sum() == (9 if name == "ring" else 10)


@pytest.mark.parametrize("name", ["class_balanced", "greedy_balanced", "ring"])
def test_labels_out_of_range_are_not_stored(name):
    buffer = FACTORIES[name](9)
    rows = {"row": jnp.arange(1, 5), "labels": jnp.array([-1, 3, 1, 1000])}
    state = buffer.add(buffer.init(LABELLED), jax.random.key(0), rows, jnp.ones(4))
    assert sorted(state.records["row"].tolist())[-2:] == [0, 3]
    assert state.seen.tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", FACTORIES)
def test_sample(name):
    buffer = FACTORIES[name](12)
    empty = buffer.init(LABELLED)
    records, weights = buffer.sample(empty, jax.random.key(0), 4)
    assert weights.tolist() == [0.0] * 4 and records["row"].shape == (4,)

    rows = {"row": jnp.arange(1, 7), "labels": jnp.array([0, 2, 2, 0, 2, 0])}
    state = buffer.add(empty, jax.random.key(1), rows, jnp.ones(6))
    held = sorted(set(state.records["row"].tolist()) - {0})
    assert len(held) == 6
    keys = jax.random.split(jax.random.key(2), 4000)
    sample = jax.jit(jax.vmap(buffer.sample, (None, 0, None)), static_argnums=2)
    drawn, weights = sample(state, keys, 4)
    assert weights.dtype == jnp.float32 and jnp.all(weights == 1)
    assert np.all(drawn["labels"] == rows["labels"][drawn["row"] - 1])
    drawn = np.asarray(drawn["row"])
    assert all(len(set(draw)) == 4 for draw in drawn)
    for place in drawn.T:
        counts = np.bincount(place, minlength=7)[1:]
        assert stats.chisquare(counts).pvalue > 1e-3
    # More than are stored: each the same number of times, give or take one.
    many = np.asarray(sample(state, keys[:50], 15)[0]["row"])
    assert {tuple(sorted(np.bincount(draw, minlength=7)[1:])) for draw in many} == {(2, 2, 2, 3, 3, 3)}


@pytest.mark.parametrize("name", FACTORIES)
def test_no_slot_is_written_twice(name):
    # XLA leaves open which of two writes to a slot comes last; on CPU it happens to be the last row.
    buffer = FACTORIES[name](3)
    rows = {"row": jnp.arange(9), "labels": jnp.zeros(9, int)}
    arguments = (buffer.init(LABELLED), jax.random.key(0), rows, jnp.ones(9))
    closed = jax.make_jaxpr(buffer.add)(*arguments)
    writes = [e for e in closed.jaxpr.eqns if e.primitive.name == "scatter" and e.invars[2].aval.shape == (9,)]
    assert len(writes) == 2
    indices = [e.invars[1] for e in writes]
    jaxpr = closed.jaxpr.replace(outvars=indices, debug_info=closed.jaxpr.debug_info.with_unknown_names())
    for found in jax.core.eval_jaxpr(jaxpr, closed.consts, *jax.tree.leaves(arguments)):
        inside = [slot for slot in np.ravel(found).tolist() if slot < 3]
        assert inside and len(set(inside)) == len(inside)


def test_sample_takes_the_slots_of_permute_index():
    buffer = reservoir(50)
    state = buffer.add(buffer.init(ROW), jax.random.key(0), {"row": jnp.arange(100, 130)}, jnp.ones(30))
    got = buffer.sample(state, jax.random.key(7), 8)[0]["row"]
    assert got.tolist() == (100 + permute_index(jax.random.key(7), jnp.arange(8), 30)).tolist()


@pytest.mark.parametrize("name", FACTORIES)
def test_any_record_in_a_loop_under_vmap(name):
    buffer = FACTORIES[name](6)
    record = LABELLED | {"inputs": jax.ShapeDtypeStruct((2, 3), jnp.uint8)}
    record["logits"] = jax.ShapeDtypeStruct((4,), jnp.bfloat16)

    def rows(i):
        number = i * 4 + jnp.arange(4)
        inputs = jnp.broadcast_to(number[:, None, None], (4, 2, 3))
        logits = jnp.broadcast_to(number[:, None], (4, 4)).astype(jnp.float32)
        return {"row": number, "labels": number % 3, "inputs": inputs, "logits": logits, "other": number}

    def run(key):
        def body(i, state):
            return buffer.add(state, jax.random.fold_in(key, i), rows(i), jnp.ones(4, bool))

        return jax.lax.fori_loop(0, 10, body, buffer.init(record))

    keys = jax.random.split(jax.random.key(0), 3)
    states = jax.jit(jax.vmap(run))(keys)
    assert {k: v.dtype for k, v in states.records.items()} == {k: v.dtype for k, v in record.items()}
    np.testing.assert_array_equal(states.records["inputs"][..., 1, 2], states.records["row"])
    np.testing.assert_array_equal(states.records["logits"][..., 3], states.records["row"])
    for i, key in enumerate(keys):
        alone = jax.jit(run)(key)
        assert jax.tree.all(jax.tree.map(lambda a, b, i=i: jnp.array_equal(a[i], b), states, alone))


def scratch(capacity, ordered):
    """Bytes that a compiled loop needs besides its state: read the reservoir, take a gradient step, write to it."""
    buffer = reservoir(capacity)
    record = {"inputs": jax.ShapeDtypeStruct((64,), jnp.float32)}

    def body(i, carry):
        params, state, rows = carry
        drawn, weights = buffer.sample(state, jax.random.fold_in(jax.random.key(0), i), 8)
        grad = jax.grad(lambda w: jnp.sum(weights[:, None] * jnp.tanh(drawn["inputs"] @ w) ** 2))(params)
        params = params - 0.1 * grad
        keep = jnp.ones(8)
        keep = wait_for(keep, params) if ordered else keep
        return params, buffer.add(state, jax.random.fold_in(jax.random.key(1), i), {"inputs": rows}, keep), rows

    @functools.partial(jax.jit, donate_argnums=0)
    def loop(carry, steps):
        return jax.lax.fori_loop(0, steps, body, carry)

    carry = (jnp.ones((64, 4)), buffer.init(record), jnp.ones((8, 64)))
    return loop.lower(carry, 10).compile().memory_analysis().temp_size_in_bytes


def test_step_of_a_reservoir_does_not_grow_with_its_capacity():
    small, large = scratch(200, True), scratch(100_000, True)
    assert large < small + 10_000
    # What `wait_for` is for. Should this fail, XLA no longer copies, and `wait_for` can go.
    assert scratch(100_000, False) > 64 * 4 * 100_000


def test_wait_for_changes_nothing():
    trees = [{}, jnp.full((3,), jnp.nan), (jnp.inf, jnp.arange(3), -jnp.ones((2, 2), jnp.bfloat16))]
    for tree in jax.tree.map(jnp.asarray, trees):
        for value in (jnp.array([0.5, 0.0, -2.0]), jnp.array([True, False]), jnp.arange(3)):
            got = jax.jit(wait_for)(value, tree)
            assert got.dtype == value.dtype and jnp.array_equal(got, value)


def test_refusals():
    with pytest.raises(ValueError, match="capacity must be above 0"):
        reservoir(0)
    with pytest.raises(ValueError, match="num_classes must be above 0"):
        class_balanced(5, 0)
    with pytest.raises(ValueError, match="ring needs a slot for each class, got capacity=2 for num_classes=3"):
        ring(2, 3)
    with pytest.raises(ValueError, match="greedy_balanced needs a slot for each class, got capacity=2"):
        greedy_balanced(2, 3)
    for buffer in (class_balanced(4, 2), greedy_balanced(4, 2)):
        with pytest.raises(ValueError, match="needs 'labels', got"):
            buffer.init(ROW)
    for buffer in (class_balanced(4, 2), greedy_balanced(4, 2), ring(4, 2)):
        with pytest.raises(ValueError, match="needs 'labels', got"):
            buffer.add(buffer.init(LABELLED), jax.random.key(0), {"row": jnp.arange(2)}, jnp.ones(2))
    with pytest.raises(ValueError, match="needs 'row', got"):
        reservoir(2).add(reservoir(2).init(ROW), jax.random.key(0), {"labels": jnp.arange(2)}, jnp.ones(2))
