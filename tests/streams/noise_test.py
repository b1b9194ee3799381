"""Label noise and imbalance: against counts, bounds of chance, and what must not change."""

import numpy as np
import pytest

from ctrain_jax import streams

N, C = 20_000, 5
LABELS = np.arange(N) % C
SOURCE = streams.arrays(np.arange(N)[:, None], LABELS, np.arange(10)[:, None], np.arange(10) % C)


def _moves(noisy):
    """[C, C], how often a label became another."""
    counts = np.zeros((C, C), int)
    for old, new in zip(LABELS, noisy.train["labels"], strict=True):
        counts[old, new] += 1
    return counts


@pytest.mark.parametrize("rate", [0.2, 0.6, 1.0])
def test_symmetric_noise_falls_on_all_other_classes_alike(rate):
    counts = _moves(streams.label_noise(SOURCE, rate))
    expected = N / C * np.where(np.eye(C, dtype=bool), 1 - rate, rate / (C - 1))
    deviation = np.sqrt(expected * (1 - expected / (N / C)))
    assert (np.abs(counts - expected) <= 4 * deviation).all()  # 25 counts: one in 600 runs would leave these bounds


def test_pairwise_noise_falls_on_the_next_class():
    counts = _moves(streams.label_noise(SOURCE, 0.3, "pairwise"))
    for c in range(C):
        assert set(np.flatnonzero(counts[c])) == {c, (c + 1) % C}
        assert abs(counts[c, (c + 1) % C] - 1200) < 4 * np.sqrt(4000 * 0.3 * 0.7)


def test_noise_is_seeded_and_changes_nothing_else():
    noisy = streams.label_noise(SOURCE, 0.5, seed=3)
    same, other = (streams.label_noise(SOURCE, 0.5, seed=s).train["labels"] for s in (3, 4))
    np.testing.assert_array_equal(noisy.train["labels"], same)
    assert (noisy.train["labels"] != other).any() and noisy.train["labels"].dtype == np.int32
    assert noisy.train["inputs"] is SOURCE.train["inputs"] and noisy.test is SOURCE.test
    np.testing.assert_array_equal(streams.label_noise(SOURCE, 0.0).train["labels"], LABELS)


@pytest.mark.parametrize(
    ("kind", "counts"),
    # 4000 * 16^(-c/4): 4000, 2000, 1000, 500, 250; of five classes two are frequent
    [("exponential", [4000, 2000, 1000, 500, 250]), ("step", [4000, 4000, 250, 250, 250])],
)
def test_imbalance_counts(kind, counts):
    made = streams.imbalanced(SOURCE, 16, kind)
    labels, rows = made.train["labels"], made.train["inputs"][:, 0]
    assert np.bincount(labels).tolist() == counts
    assert (np.diff(rows) > 0).all() and (LABELS[rows] == labels).all() and made.test is SOURCE.test
    others = streams.imbalanced(SOURCE, 16, kind, seed=1).train["inputs"][:, 0]
    np.testing.assert_array_equal(rows, streams.imbalanced(SOURCE, 16, kind).train["inputs"][:, 0])
    assert (rows != others).any()


def test_imbalance_keeps_a_row_of_each_class_and_ratio_one_keeps_all():
    assert np.bincount(streams.imbalanced(SOURCE, 1e9).train["labels"]).tolist()[-1] == 1
    np.testing.assert_array_equal(streams.imbalanced(SOURCE, 1).train["inputs"], SOURCE.train["inputs"])


def test_hard_sources_make_streams():
    source = streams.label_noise(streams.imbalanced(SOURCE, 10), 0.2)
    stream = streams.class_incremental(source, 5)
    assert stream.name == "arrays_imbalanced_label_noise_class_incremental" and len(stream.origins.task) == 5


REGRESSION = streams.arrays(np.ones((4, 2)), np.ones(4), np.ones((4, 2)), np.ones(4))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: streams.label_noise(SOURCE, 1.5), "rate must be between 0 and 1, got 1.5"),
        (lambda: streams.label_noise(SOURCE, 0.5, "random"), "kind must be one of 'symmetric', 'pairwise'"),
        (lambda: streams.label_noise(SOURCE._replace(num_classes=1), 0.5), "needs at least 2 classes, got 1"),
        (lambda: streams.label_noise(REGRESSION, 0.5), "label_noise: the source must have integer labels"),
        (lambda: streams.imbalanced(SOURCE, 0.1), "ratio must be a number of at least 1, got 0.1"),
        (lambda: streams.imbalanced(SOURCE, float("nan")), "ratio must be a number of at least 1, got nan"),
        (lambda: streams.imbalanced(SOURCE, 10, "linear"), "kind must be one of 'exponential', 'step'"),
        (lambda: streams.imbalanced(REGRESSION, 10), "imbalanced: the source must have integer labels"),
    ],
)
def test_refuses_in_one_sentence(build, says):
    with pytest.raises(ValueError, match=says) as caught:
        build()
    assert "\n" not in str(caught.value)
