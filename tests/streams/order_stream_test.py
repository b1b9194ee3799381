"""Another order: what belongs together stays together, and numbers follow the order."""

import jax
import numpy as np
import pytest

from ctrain_jax import streams

N = 40
SOURCE = streams.arrays(np.arange(4.0 * N).reshape(N, 4), np.arange(N) % 8, np.zeros((8, 4)), np.arange(8), name="toy")


def content(stream, split, t):
    """What the t-th experience is: its rows, with the classes and the view that each comes with."""
    e, origins = stream.experiences[split], stream.origins
    rows, origin = e.rows[t][: e.size[t]], e.origin[t][: e.size[t]]
    views = jax.tree.map(lambda x: np.asarray(x)[origin].tolist(), origins.view)
    return rows.tolist(), np.asarray(origins.classes)[origin].tolist(), views, np.asarray(e.classes)[t].tolist()


def arrays(stream):
    return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves((stream.experiences, stream.origins))]


@pytest.mark.parametrize("make", [streams.task_incremental, streams.permuted])
def test_experiences_move_whole_and_are_numbered_anew(make):
    stream = make(SOURCE, 4, valid_fraction=0.2)
    ordered = streams.order_stream(stream, [0.5, 0.1, 0.9, 0.3])
    for split in ("train", "valid", "test"):
        e = ordered.experiences[split]
        assert [content(ordered, split, t) for t in range(4)] == [content(stream, split, t) for t in (1, 3, 0, 2)]
        for numbers in (e.index, e.task, ordered.origins.task):
            assert numbers.tolist() == [0, 1, 2, 3]
        np.testing.assert_array_equal(e.origin, np.arange(4)[:, None] + np.zeros_like(e.origin))
        np.testing.assert_array_equal(e.seen, np.logical_or.accumulate(np.asarray(e.classes)))
    assert ordered.source is stream.source and ordered.name == f"{stream.name}_ordered"


def test_equal_scores_keep_the_order_and_two_orders_are_one():
    stream = streams.permuted(SOURCE, 4)
    same = streams.order_stream(stream, [1.0] * 4)
    assert arrays(same) == arrays(stream)
    there = streams.order_stream(stream, [2, 0, 3, 1])
    back = streams.order_stream(there, [1, 3, 0, 2])  # the first of `there` was the second, and so on
    assert arrays(back) == arrays(stream) != arrays(there)


def test_a_test_of_all_classes_stays_with_its_origin():
    stream = streams.scole(SOURCE, 5, seed=0)
    ordered = streams.order_stream(stream, [4, 3, 2, 1, 0])
    assert content(ordered, "test", 0) == content(stream, "test", 0)
    assert [content(ordered, "train", t) for t in range(5)] == [content(stream, "train", 4 - t) for t in range(5)]


@pytest.mark.parametrize("scores", [[1.0, 2.0], [[1.0, 2.0, 3.0, 4.0]], [1.0, 2.0, np.nan, 4.0]])
def test_refuses_in_one_sentence(scores):
    with pytest.raises(ValueError, match="order_stream: scores must be 4 finite numbers"):
        streams.order_stream(streams.permuted(SOURCE, 4), scores)
