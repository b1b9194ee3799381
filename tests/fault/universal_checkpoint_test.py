"""Parts of any number of ranks are one whole: against slices taken by hand, and back again."""

import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax.fault import Held, universal_checkpoint

RNG = np.random.default_rng(0)
HEADS, WIDTH, DIM = 12, 2, 5
# Attention of grouped queries: 12 heads of queries share 6 of keys and values.
BLOCKS = (HEADS * WIDTH, HEADS // 2 * WIDTH, HEADS // 2 * WIDTH)
RULES = [
    (r"qkv\.kernel", Held("sharded", axis=1, blocks=BLOCKS)),
    (r"qkv\.bias", Held("sharded", blocks=BLOCKS)),
    ("embed", Held("sharded", size=11)),
    ("out", Held("sharded", axis=1)),
    ("mean$", Held("averaged")),
    ("", Held()),
]


def state():
    params = {
        "qkv": {"kernel": RNG.normal(size=(DIM, sum(BLOCKS))).astype(np.float32), "bias": np.arange(sum(BLOCKS))},
        "embed": RNG.normal(size=(11, 3)).astype(np.float32),
        "out": jnp.asarray(RNG.normal(size=(4, 12)), jnp.bfloat16),
        "mean": RNG.normal(size=3),
    }
    return {"params": params, "mu": [params["qkv"], params["embed"]], "step": np.int32(7)}


def same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return np.asarray(a).dtype == np.asarray(b).dtype and np.array_equal(a, b)


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_a_part_is_what_a_rank_needs_of_each_head(ranks):
    """Rank r computes its heads: rows of queries, of keys and of values of these heads, and no others."""
    whole, part = state(), universal_checkpoint(RULES).partition(state(), ranks)
    bias, kernel = whole["params"]["qkv"]["bias"], whole["params"]["qkv"]["kernel"]
    for rank in range(ranks):
        wanted, start = [], 0
        for block in BLOCKS:
            each = block // WIDTH // ranks  # heads of a rank
            heads = range(rank * each, (rank + 1) * each)
            wanted += [start + head * WIDTH + k for head in heads for k in range(WIDTH)]
            start += block
        held = part[rank]["params"]["qkv"]
        np.testing.assert_array_equal(held["bias"], bias[wanted])
        assert held["kernel"].shape == kernel[:, wanted].shape and part[rank]["step"] == 7


@pytest.mark.parametrize(("saved", "restored"), [(2, 3), (6, 1), (1, 6), (3, 2)])
def test_any_parts_become_any_others(saved, restored):
    whole, pair = state(), universal_checkpoint(RULES)
    found = pair.consolidate(pair.partition(whole, saved))
    assert same(found, whole)
    assert same(pair.partition(found, restored), pair.partition(whole, restored))


def test_padding_is_added_as_zeros_and_never_becomes_part_of_the_whole():
    pair, whole = universal_checkpoint(RULES), state()
    parts = pair.partition(whole, 6)
    assert [len(part["params"]["embed"]) for part in parts] == [2] * 6
    np.testing.assert_array_equal(parts[-1]["params"]["embed"][1], np.zeros(3))
    parts[-1]["params"]["embed"][1] = np.nan  # whatever an optimizer made of it
    assert same(pair.consolidate(parts), whole)


def test_copies_that_drifted_apart_are_averaged():
    pair = universal_checkpoint(RULES)
    parts = pair.partition(state(), 2)
    parts[0]["params"]["mean"], parts[1]["params"]["mean"] = np.array([1.0, 2.0]), np.array([2.0, 4.0])
    np.testing.assert_array_equal(pair.consolidate(parts)["params"]["mean"], [1.5, 3.0])


def test_what_does_not_fit_is_one_sentence():
    pair, whole = universal_checkpoint(RULES), state()
    parts = pair.partition(whole, 2)
    parts[1]["step"] = np.int32(8)

    def fused(bias, ranks):
        return lambda: pair.partition({"qkv": {"bias": np.zeros(bias)}}, ranks)

    for wrong, sentence in (
        (lambda: pair.consolidate(parts), "step is replicated, and its copies differ: average it, or see which"),
        (lambda: pair.consolidate([]), "consolidate expects the tree of each rank, got none"),
        (lambda: pair.consolidate([{"a": 1}, {"b": 1}]), "expects trees of one structure, got 2 ranks that differ"),
        (fused(48, 5), r"qkv.bias is fused of \(24, 12, 12\), which 5 ranks do not divide"),
        (fused(9, 3), r"qkv.bias expects blocks of \(24, 12, 12\) along axis 0, got 9"),
        (lambda: pair.partition({"embed": np.zeros(12)}, 2), "embed expects 11 along axis 0, got 12"),
        (lambda: pair.partition({"out": np.zeros(4)}, 2), r"out has shape \(4,\) and is sharded along axis 1, which"),
        (lambda: pair.partition({"out": np.zeros((2, 5))}, 2), "which 2 ranks do not divide: give its rule size=5"),
        (lambda: universal_checkpoint([("a", Held())]).partition({"b": 1}, 2), r"b has no rule: add one, \('', Held"),
        (lambda: universal_checkpoint([("a", Held("lost"))]), "how 'a' is held must be one of"),
        (lambda: universal_checkpoint([("a", Held("sharded", size=0))]), "a size of 'a' expects a whole number of at"),
    ):
        with pytest.raises(ValueError, match=sentence):
            wrong()
