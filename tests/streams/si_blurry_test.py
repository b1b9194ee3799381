"""Si-Blurry: every row arrives once, as many away from home as the closed form says, and nobody is told when."""

import jax
import numpy as np
import pytest

from ctrain_jax import streams

T, C, EACH = 4, 10, 300
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(C), EACH))
SOURCE = streams.arrays(np.zeros((C * EACH, 1)), LABELS, np.zeros((3 * C, 1)), np.tile(np.arange(C), 3), name="toy")


def arrived(stream):
    """The experience in which each row arrives, -1 for none, after a check that none comes twice."""
    train, when = stream.experiences["train"], np.full(C * EACH, -1)
    for t, size in enumerate(train.size):
        rows = train.rows[t, :size]
        assert len(set(rows.tolist())) == size and (when[rows] == -1).all() and (train.origin[t] == t).all()
        when[rows] = t
    return when


def counts(stream):
    """int `[T, C]`, rows of each class in each experience."""
    table = np.zeros((T, C), int)
    np.add.at(table, (arrived(stream), LABELS), 1)
    return table


def test_every_row_arrives_once_and_one_test_has_all():
    stream = streams.si_blurry(SOURCE, T, seed=1)
    table = counts(stream)
    assert table.sum() == C * EACH
    train, test = stream.experiences["train"], stream.experiences["test"]
    np.testing.assert_array_equal(train.classes, table > 0)
    np.testing.assert_array_equal(train.seen[-1], np.ones(C, bool))
    assert test.rows.tolist() == [list(range(3 * C))] and test.classes.all() and test.index.tolist() == [0]
    assert stream.origins.classes[test.origin[0, 0]].all()
    assert (stream.boundaries, stream.heads, stream.labels, stream.task_known) == (False, "all", True, False)


@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_the_share_away_from_home_is_that_of_the_closed_form(ratio):
    away, moved = [], 0
    for seed in range(12):
        table = counts(streams.si_blurry(SOURCE, T, blurry_ratio=ratio, seed=seed))
        blurry = np.count_nonzero(table, axis=0) > 1
        assert blurry.sum() == C // 2
        away.append((table.sum(0) - table.max(0))[blurry].sum())
        moved += round(ratio * EACH * C / 2)
    # Of those that were moved one in T comes back to its home.
    expected, deviation = moved * (T - 1) / T, np.sqrt(moved * (T - 1)) / T
    assert abs(sum(away) - expected) <= 3 * deviation


def test_without_blurry_rows_or_classes_all_are_disjoint():
    for options in ({"blurry_ratio": 0.0}, {"disjoint_ratio": 1.0, "blurry_ratio": 0.5}):
        assert (np.count_nonzero(counts(streams.si_blurry(SOURCE, T, **options)), axis=0) == 1).all()
    even = counts(streams.si_blurry(SOURCE, T, disjoint_ratio=0.0, blurry_ratio=1.0)).sum(1)
    assert (np.abs(even - C * EACH / T) < 5 * np.sqrt(C * EACH / T)).all()


def test_homes_vary_in_number_and_the_seed_decides():
    homes = set()
    for seed in range(10):
        table = counts(streams.si_blurry(SOURCE, T, blurry_ratio=0.0, seed=seed))
        homes.add(tuple(np.count_nonzero(table, axis=1).tolist()))
    assert len(homes) > 5 and all(sum(numbers) == C and min(numbers) >= 1 for numbers in homes)
    one, same, other = (streams.si_blurry(SOURCE, T, seed=seed) for seed in (5, 5, 6))
    jax.tree.map(np.testing.assert_array_equal, one.experiences, same.experiences)
    assert (arrived(one) != arrived(other)).any()


def test_validation_rows_are_never_trained_on():
    stream = streams.si_blurry(SOURCE, T, valid_fraction=0.1, seed=2)
    when, valid = arrived(stream), stream.experiences["valid"]
    assert valid.rows.shape == (1, C * EACH // 10) and (when[valid.rows[0]] == -1).all()
    assert np.count_nonzero(when == -1) == C * EACH // 10


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_experiences": 0}, "si_blurry: num_experiences expects a whole number of at least 1"),
        ({"disjoint_ratio": 1.5}, "si_blurry: disjoint_ratio must be between 0 and 1"),
        ({"blurry_ratio": -0.1}, "si_blurry: blurry_ratio must be between 0 and 1"),
        ({"num_experiences": 11, "blurry_ratio": 0.0}, "1000 draws left one of 11 experiences without a row"),
    ],
)
def test_refuses_in_one_sentence(options, says):
    with pytest.raises(ValueError, match=says):
        streams.si_blurry(SOURCE, **{"num_experiences": T, **options})
