"""`permute_index`: a bijection for every size, different for every key, and as good as a fair shuffle."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ctrain_jax.ops import permute_index

KEYS = jax.random.split(jax.random.key(11), 20_000)


def shuffled(size, num=None, keys=KEYS):
    """Where the first `num` positions go: [keys, num]."""
    index = jnp.arange(size if num is None else num)
    return np.asarray(jax.jit(jax.vmap(permute_index, (0, None, None)))(keys, index, size))


def naive(key, x, size, rounds=24):
    """Swap or not, in python integers."""

    def mix(b):
        b = (b ^ b >> 16) * 0x85EBCA6B % 2**32
        b = (b ^ b >> 13) * 0xC2B2AE35 % 2**32
        return b ^ b >> 16

    high, low = (int(word) for word in jax.random.key_data(key))

    def word(n):
        counter = (n + 1) * 0x9E3779B9 % 2**32
        return mix(mix((counter + low) % 2**32) ^ mix((high + 0x9E3779B9) % 2**32) ^ counter)

    for r in range(rounds):
        partner = (word(2 * r) % size - x) % size
        if mix(max(x, partner) ^ word(2 * r + 1)) >> 31:
            x = partner
    return x


def test_equals_definition_for_all_sizes():
    for size, key in ((1, 0), (7, 1), (12_000, 2), (2**30 + 1, 3), (2**31 - 1, 4)):
        index = np.unique(np.linspace(0, size - 1, 20).astype(np.int64))
        want = [naive(jax.random.key(key), int(x), size) for x in index]
        np.testing.assert_array_equal(jax.jit(permute_index)(jax.random.key(key), index, size), want)


def test_bijection_for_every_small_size():
    permute = jax.jit(jax.vmap(permute_index, (0, None, None)))
    for size in range(1, 66):
        # One compiled program: the size is traced, and what lies beyond it is not looked at.
        got = np.asarray(permute(KEYS[:20], jnp.arange(65), size))[:, :size]
        np.testing.assert_array_equal(np.sort(got, axis=1), np.tile(np.arange(size), (20, 1)))


@pytest.mark.parametrize("size", [12_000, 65_536, 1_000_003])
def test_bijection_for_large_sizes(size):
    got = jax.jit(permute_index)(jax.random.key(size), jnp.arange(size), size)
    np.testing.assert_array_equal(np.sort(got), np.arange(size))


def test_distinct_and_in_range_near_the_largest_int():
    size = 2**31 - 1
    index = jnp.concatenate([jnp.arange(50_000), size - 1 - jnp.arange(50_000)])
    got = np.asarray(jax.jit(permute_index)(jax.random.key(0), index, size))
    assert got.dtype == np.int32 and got.min() >= 0 and got.max() < size
    assert len(np.unique(got)) == len(index)
    assert stats.kstest(got / size, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_all_permutations_are_equally_likely(size):
    got = shuffled(size)
    counts = np.unique(got @ (10 ** np.arange(size)), return_counts=True)[1]
    assert len(counts) == math.factorial(size)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("size", [7, 100])
def test_first_index_and_first_pair_are_uniform(size):
    got = shuffled(size, 2)
    assert stats.chisquare(np.bincount(got[:, 0], minlength=size)).pvalue > 1e-3
    difference = (got[:, 1] - got[:, 0]) % size
    assert stats.chisquare(np.bincount(difference, minlength=size)[1:]).pvalue > 1e-3
    if size == 7:
        pairs = np.bincount(got[:, 0] * 7 + got[:, 1], minlength=49).reshape(7, 7)
        assert np.trace(pairs) == 0
        assert stats.chisquare(pairs[~np.eye(7, dtype=bool)]).pvalue > 1e-3


def test_fixed_points_and_serial_correlation():
    size = 12_000
    got = shuffled(size, keys=KEYS[:500])
    fixed = (got == np.arange(size)).sum(1)
    # Poisson(1): mean and variance 1; standard errors sqrt(1 / 500) and about sqrt(3 / 500).
    assert abs(fixed.mean() - 1) < 4 * 500**-0.5
    assert abs(fixed.var() - 1) < 4 * (3 / 500) ** 0.5
    centred = (got - (size - 1) / 2) / np.sqrt((size**2 - 1) / 12)
    for lag in (1, 2, 10):
        correlation = (centred[:, lag:] * centred[:, :-lag]).mean(1)
        assert abs(correlation.mean() * np.sqrt(500 * size)) < 4
        assert 0.8 < correlation.var() * size < 1.25
    # The neighbours that stay neighbours: 2 of the 12,000 on average.
    steps = (got[:, 1:] - got[:, :-1]) % size
    neighbours = ((steps == 1) | (steps == size - 1)).sum(1)
    assert abs(neighbours.mean() - 2) < 4 * (2 / 500) ** 0.5


def test_keys_differ_and_shape_is_kept():
    index = jnp.arange(24).reshape(2, 3, 4)
    keys = [jax.random.wrap_key_data(jnp.array(words, jnp.uint32)) for words in ([0, 0], [0, 1], [1, 0])]
    got = [permute_index(key, index, 1000) for key in keys]
    assert got[0].shape == (2, 3, 4)
    assert all(np.mean(np.asarray(a) == np.asarray(b)) < 0.2 for a, b in [got[:2], got[1:], got[::2]])


def test_other_key_implementations():
    for impl in ("rbg", "unsafe_rbg"):
        got = [permute_index(jax.random.key(k, impl=impl), jnp.arange(50), 50) for k in (0, 1)]
        np.testing.assert_array_equal(np.sort(got[0]), np.arange(50))
        assert np.any(got[0] != got[1])


def test_traced_size_in_a_loop():
    def body(size, total):
        return total + permute_index(jax.random.key(5), jnp.int32(0), size)

    got = jax.jit(lambda n: jax.lax.fori_loop(1, n, body, jnp.int32(0)))(30)
    assert got == sum(naive(jax.random.key(5), 0, size) for size in range(1, 30))
