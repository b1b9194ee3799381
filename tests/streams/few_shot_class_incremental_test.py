"""Few-shot class-incremental: a base with all rows, sessions of k ways and n shots, a test experience for each."""

import jax
import numpy as np
import pytest

from ctrain_jax import streams

COUNTS = (9, 12, 10, 8, 11, 12, 9)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(7), COUNTS))
SOURCE = streams.arrays(np.zeros((71, 1)), LABELS, np.zeros((14, 1)), np.tile(np.arange(7), 2), name="toy")
ORDER = [3, 0, 6, 2, 5, 1, 4]


def build(num=3, **options):
    return streams.few_shot_class_incremental(SOURCE, num, **{"base_classes": 3, "shots": 4, **options})


def test_the_base_has_all_rows_and_sessions_their_shots():
    stream = build(class_order=ORDER)
    train, test = stream.experiences["train"], stream.experiences["test"]
    assert [np.flatnonzero(c).tolist() for c in train.classes] == [[0, 3, 6], [2, 5], [1, 4]]
    assert train.size.tolist() == [COUNTS[3] + COUNTS[0] + COUNTS[6], 8, 8] and test.size.tolist() == [6, 4, 4]
    for t in range(3):
        for e, labels in ((train, LABELS), (test, SOURCE.test["labels"])):
            own = e.rows[t, : e.size[t]]
            assert len(set(own.tolist())) == len(own) and e.classes[t][labels[own]].all()
            assert (e.origin[t] == t).all()
        if t:
            assert set(np.bincount(LABELS[train.rows[t, :8]]).tolist()) == {0, 4}
    assert train.rows.shape == (3, 26) and (stream.heads, stream.boundaries) == ("all", True)
    assert build(heads="seen").heads == "seen" and build(num=5).experiences["train"].size.tolist() == [31, 4, 4, 4, 4]


def test_a_seed_draws_the_shots_and_nothing_of_the_base():
    one, same, other = (build(seed=seed) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one.experiences, same.experiences)
    first, second = (stream.experiences["train"] for stream in (one, other))
    np.testing.assert_array_equal(first.rows[0], second.rows[0])
    assert all(set(first.rows[t].tolist()) != set(second.rows[t].tolist()) for t in (1, 2))


def test_validation_rows_are_of_all_classes_and_never_shots():
    stream = build(valid_fraction=0.25)
    valid, train = stream.experiences["valid"], stream.experiences["train"]
    assert valid.size.tolist() == [sum(round(COUNTS[c] / 4) for c in own) for own in ((0, 1, 2), (3, 4), (5, 6))]
    assert not set(valid.rows.ravel()) & set(train.rows.ravel()) and train.size.tolist()[1:] == [8, 8]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num": 1}, "sessions need equally many classes, got 0 sessions for the 4 classes beyond 3"),
        ({"num": 4}, "got 3 sessions for the 4 classes"),
        ({"base_classes": 7}, "got 2 sessions for the 0 classes"),
        ({"shots": 9}, "shots must be at most 8, the training rows of class 3"),
        ({"shots": 0}, "shots expects a whole number"),
        ({"heads": "task"}, "heads must be one of 'all', 'seen'"),
        ({"class_order": [0, 1]}, "permutation of 0..6"),
    ],
)
def test_refuses_in_one_sentence(options, says):
    with pytest.raises(ValueError, match=f"few_shot_class_incremental: .*{says}"):
        build(**options)
