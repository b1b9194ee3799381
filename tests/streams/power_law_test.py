"""Power-law rehearsal: how often each earlier experience comes back, and what its rows bring along."""

import jax
import numpy as np
import pytest

from ctrain_jax import streams

N = 50
SOURCE = streams.arrays(np.zeros((N, 4)), np.arange(N) % 5, np.zeros((5, 4)), np.arange(5), name="toy")


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_frequencies_are_a_power_of_the_time_since(exponent):
    num = 20_000
    train = streams.power_law(streams.permuted(SOURCE, 5), exponent=exponent, fraction=num / N, seed=1).experiences[
        "train"
    ]
    assert train.size.tolist() == [N, *[N + num] * 4]
    for t in range(1, 5):
        often = np.bincount(train.origin[t, N : N + num], minlength=t)
        weights = np.array([1 / (t - i) ** exponent for i in range(t)])
        share = weights / weights.sum()
        assert (np.abs(often - num * share) <= 3 * np.sqrt(num * share * (1 - share)) + 1e-9).all()


def test_rows_come_back_with_their_origin_and_without_coming_twice():
    whole = streams.class_incremental(SOURCE, 5, valid_fraction=0.2)
    mixed = streams.power_law(whole, fraction=0.5, seed=2)
    before, train = whole.experiences["train"], mixed.experiences["train"]
    assert train.size.tolist() == [8, 12, 12, 12, 12]
    for t in range(5):
        np.testing.assert_array_equal(train.rows[t, :8], before.rows[t])
        rows, origins = train.rows[t, 8 : train.size[t]], train.origin[t, 8 : train.size[t]]
        assert len(set(rows.tolist())) == len(rows) and (origins < t).all()
        assert all(row in before.rows[origin] for row, origin in zip(rows, origins, strict=True))
        there = np.zeros(5, bool)
        there[SOURCE.train["labels"][train.rows[t]]] = True
        np.testing.assert_array_equal(train.classes[t], there)
    for name in ("valid", "test"):
        assert mixed.experiences[name] is whole.experiences[name]
    assert mixed.origins is whole.origins and mixed.name == "toy_class_incremental_power_law"


def test_nothing_comes_back_of_a_fraction_of_0_and_a_seed_decides_what_does():
    stream = streams.permuted(SOURCE, 4)
    jax.tree.map(
        np.testing.assert_array_equal,
        streams.power_law(stream, fraction=0.0).experiences,
        stream.experiences,
    )
    one, same, other = (streams.power_law(stream, seed=seed).experiences["train"].rows for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@pytest.mark.parametrize(
    "options", [{"exponent": -1.0}, {"fraction": -0.1}, {"exponent": np.inf}, {"fraction": np.nan}]
)
def test_refuses_in_one_sentence(options):
    with pytest.raises(ValueError, match="power_law: "):
        streams.power_law(streams.permuted(SOURCE, 2), **options)
