"""Generalized class-incremental: numbers of classes, their choice and their sizes are as random as they should be."""

import jax
import numpy as np
import pytest

from ctrain_jax import streams

C, EACH = 6, 900
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(C), EACH))
SOURCE = streams.arrays(np.zeros((C * EACH, 1)), LABELS, np.zeros((C, 1)), np.arange(C), name="toy")


def build(num=30, **options):
    return streams.generalized_class_incremental(SOURCE, num, **{"num_rows": 20, **options})


def sizes(stream):
    """int `[T, C]`, rows of each class in each experience, after a check that no row comes twice."""
    train, taken = stream.experiences["train"], []
    table = np.zeros(train.classes.shape, int)
    for t, size in enumerate(train.size):
        taken += train.rows[t, :size].tolist()
        table[t] = np.bincount(LABELS[train.rows[t, :size]], minlength=C)
    assert len(set(taken)) == len(taken)
    return table


def test_rows_come_once_and_classes_come_back():
    stream = build()
    table, train = sizes(stream), stream.experiences["train"]
    assert (table.sum(1) == 20).all() and (np.count_nonzero(table, axis=0) > 1).all()
    np.testing.assert_array_equal(train.classes, table > 0)
    assert stream.experiences["test"].rows.tolist() == [list(range(C))] and stream.boundaries


def test_the_number_of_classes_is_uniform_and_so_is_their_choice():
    table = sizes(build(240))  # at most half of the classes, by default
    often = np.bincount(np.count_nonzero(table, axis=1), minlength=4)
    assert often[0] == 0 and len(often) == 4
    assert (np.abs(often[1:] - 80) <= 3 * np.sqrt(240 * 2 / 9)).all()
    # A class is among 1, 2 or 3 of 6: in a third of the experiences.
    assert (np.abs(np.count_nonzero(table, axis=0) - 80) <= 3 * np.sqrt(240 * 2 / 9)).all()


def test_sizes_follow_the_decay():
    table = sizes(build(60, num_rows=50, max_classes=6, decay=0.5))
    pairs = [(a, b) for a, b in zip(table[:, 0], table[:, 1], strict=True) if a and b]
    more, less = np.sum(pairs, axis=0) - len(pairs)  # beyond the row that each has for certain
    assert abs(more - (more + less) * 2 / 3) <= 3 * np.sqrt((more + less) * 2 / 9)


def test_a_class_gives_no_more_than_it_has_and_only_what_came_is_tested():
    few = streams.arrays(np.zeros((40, 1)), np.arange(40) % 4, np.zeros((4, 1)), np.arange(4))
    stream = streams.generalized_class_incremental(few, 2, num_rows=20, max_classes=1, valid_fraction=0.0, seed=1)
    train = stream.experiences["train"]
    assert train.size.tolist() == [10, 10] and train.classes.sum() == 2
    came = np.flatnonzero(train.seen[-1]).tolist()
    assert len(came) == 2 and stream.experiences["test"].rows.tolist() == [came]


def test_a_seed_decides_everything_and_validation_rows_stay_out():
    one, same, other = (build(valid_fraction=0.1, seed=seed) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, one.experiences, same.experiences)
    assert (sizes(one) != sizes(other)).any()
    assert not set(one.experiences["train"].rows.ravel()) & set(one.experiences["valid"].rows.ravel())
    assert one.experiences["valid"].size.tolist() == [C * EACH // 10]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num": 0}, "num_experiences expects a whole number"),
        ({"num_rows": 0}, "num_rows expects a whole number"),
        ({"max_classes": 7}, "max_classes must be at most 6"),
        ({"num_rows": 2}, "max_classes must be at most 2"),
        ({"num": 271}, "271 experiences of 20 rows are more than the 5400"),
        ({"decay": 0.0}, "decay must be above 0"),
        ({"decay": 1.1}, "decay must be between 0 and 1"),
    ],
)
def test_refuses_in_one_sentence(options, says):
    with pytest.raises(ValueError, match=f"generalized_class_incremental: {says}"):
        build(**options)
