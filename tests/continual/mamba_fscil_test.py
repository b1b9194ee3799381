"""The projector and a step of a session in numpy, position by position; what learns when."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import continual, core, testing
from tests.rehearsed import Headless, Skipping, rows_of, spy, unit
from tests.short import short_learner

SUPPRESS, SEPARATE = 0.3, 0.2
WAYS = ((0, 1, 2, 3), (0, 2, 1, 3), (3, 2, 1, 0), (3, 1, 2, 0))  # through a map of 2 x 2


def silu(x):
    return x / (1 + np.exp(-x))


def branched(p, maps):
    """A branch on maps [4, D] of one row: its feature, its gate, and the means of time, of what enters and is read."""
    x = maps @ p["wide"] + p["wide_bias"]
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * p["norm"] + p["norm_bias"]
    x = np.where(x > 0, x, 0.1 * x) @ p["narrow"] + p["place"]
    gate, x = x @ p["gate"], x @ p["in"]
    answer, over = np.zeros_like(x), []
    for way in WAYS:
        h, seen = np.zeros(p["a_log"].shape), np.zeros((3, x.shape[1]))
        for place in way:
            seen = np.concatenate([seen[-3:], x[place][None]])
            u = silu((p["conv"] * seen).sum(0) + p["conv_bias"])
            time, b, c = np.split(u @ p["read"], (1, 3))
            delta = np.log1p(np.exp(time @ p["time"] + p["time_bias"]))
            h = np.exp(-delta[:, None] * np.exp(p["a_log"])) * h + np.outer(delta * u, b)
            answer[place] += h @ c + p["skip"] * u
            over.append((time, b, c))
    return (silu(gate) * answer).mean(0), gate, [np.mean(parts, 0) for parts in zip(*over[:4], strict=True)]


def projected(projector, maps):
    """The feature of one row; gate and patterns of the second branch."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), projector)
    base, new = (branched({name: leaf[k] for name, leaf in p["branches"].items()}, maps) for k in (0, 1))
    return maps.mean(0) @ p["mean"] + base[0] + new[0], new[1], new[2]


def below(tree):
    return {name: leaf for name, leaf in tree.items() if name != "projector"}


def test_a_session_trains_the_second_branch_alone_by_rows_and_the_means_of_the_base():
    method = continual.mamba_fscil((2, 2), width=6, states=2, suppress=SUPPRESS, separate=SEPARATE)
    learner = short_learner(core.chain(method, spy(8)), steps=5)
    data, begin, chunk, end = core.to_device(learner.stream), *map(jax.jit, (learner.begin, learner.chunk, learner.end))
    start = core.start(learner)
    over = end(chunk(begin(start, data, 0), data, 0, 0, 5)[0], data, 0)
    was, now = (state.params["projector"]["branches"] for state in (start, over))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[1]), was, now)
    assert all(np.any(was[name][0] != now[name][0]) for name in was)

    before = begin(over, data, 1)
    x = learner.stream.source.train["inputs"][:9]
    gone = jax.tree.map(lambda leaf: leaf.at[1].set(0), now)
    logits = [
        method.model(testing.standard_model())
        .apply(core.Variables(params, over.model_state, before.frozen), x)[0]
        .logits
        for params in (before.params, before.params | {"projector": before.params["projector"] | {"branches": gone}})
    ]
    np.testing.assert_array_equal(*logits)

    first, _ = chunk(before, data, 1, 0, 1)
    last, record = chunk(first, data, 1, 4, 1)
    jax.tree.map(np.testing.assert_array_equal, below(last.params), below(before.params))
    jax.tree.map(np.testing.assert_array_equal, last.model_state, over.model_state)
    kept, moved = (state.params["projector"]["branches"] for state in (over, last))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), kept, moved)
    np.testing.assert_array_equal(last.params["projector"]["mean"], over.params["projector"]["mean"])
    assert all(np.any(kept[name][1] != moved[name][1]) for name in kept)

    def maps(record):
        inputs, labels = rows_of(learner.stream, record)
        head = before.frozen["head"]
        variables = core.Variables(below(first.params) | {"head": head}, over.model_state)
        outputs, _ = testing.standard_model().apply(variables, jnp.asarray(inputs, jnp.float32))
        return np.asarray(outputs.features, np.float64).reshape(-1, 4, 4), labels

    split, batch = learner.stream.experiences["train"], jax.tree.map(np.asarray, last.method_state["spy"])
    assert batch["weights"].tolist() == [1] * 5 + [0] * 3
    old, labels = maps({"row": split.rows[0][:50], "experience": np.zeros(50, int)})
    new, arrived = (leaf[:5] for leaf in maps(batch))
    means = np.stack([old[labels == k].mean(0) for k in (0, 1)])
    found = [projected(first.params["projector"], each) for each in (*means, *new)]
    targets, labels = np.asarray(before.frozen["targets"], np.float64), np.array([0, 1, *arrived])
    np.testing.assert_allclose(targets @ targets.T, 1.2 * np.eye(6) - 0.2, atol=1e-5)
    losses = np.array([(unit(f) @ targets[k] - 1) ** 2 / 2 for (f, _, _), k in zip(found, labels, strict=True)])
    value = np.mean([losses[labels == k].mean() for k in set(labels)])
    value += SUPPRESS * np.sqrt(np.mean([gate**2 for _, gate, _ in found[:2]]))
    for k in range(3):
        base, rest = (unit(np.mean([over[k] for _, _, over in part], 0)) for part in (found[:2], found[2:]))
        value += SEPARATE / 2 * abs(base @ rest)
    np.testing.assert_allclose(record["loss"], value, rtol=1e-4)


def test_what_it_refuses():
    method = continual.mamba_fscil((2, 2), width=6)
    for make, match in (
        (lambda: continual.mamba_fscil((0, 2)), "A side of grid expects a whole number of at least 1"),
        (lambda: continual.mamba_fscil((2, 2), states=0), "states expects a whole number of at least 1"),
        (lambda: continual.mamba_fscil((2, 2), width=0), "width expects a whole number of at least 1"),
        (lambda: continual.mamba_fscil((2, 2), suppress=-1.0), "suppress must be"),
        (lambda: continual.mamba_fscil((2, 2), separate=-1.0), "separate must be"),
        (lambda: short_learner(continual.mamba_fscil((3, 1))), r"features of maps of \(3, 1\), got 16: give"),
        (lambda: short_learner(continual.mamba_fscil((2, 2))), "at least 5 for 6 classes, got 4: give width"),
        (lambda: short_learner(method, model=core.from_linen(Headless())), "name it 'head'"),
        (lambda: short_learner(continual.mamba_fscil((1, 1)), model=core.from_linen(Skipping())), "width 5, got 12"),
    ):
        with pytest.raises(ValueError, match=match):
            make()
