"""The projector and a step of a session in numpy, position by position; what learns when."""

import jax
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, testing
from tests.rehearsed import MODEL, Headless, Skipping, rows_of, spy, unit
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


def regressed(features, targets, labels):
    """The loss of each row."""
    return (np.sum(unit(np.stack(features)) * targets[labels], -1) - 1) ** 2 / 2


def maps_of(params, inputs, stats=None):
    """What the standard model has in front of its head, as maps; statistics are those of the rows by default."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    hidden = inputs @ p["Dense_0"]["kernel"]
    mean, var = (hidden.mean(0), hidden.var(0)) if stats is None else (stats["mean"], stats["var"])
    hidden = (hidden - mean) / np.sqrt(var + 1e-5) * p["BatchNorm_0"]["scale"] + p["BatchNorm_0"]["bias"]
    return np.maximum(np.maximum(hidden, 0) @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"], 0).reshape(-1, 4, 4)


def below(tree):
    return {name: leaf for name, leaf in tree.items() if name != "projector"}


def test_a_session_trains_the_second_branch_alone_by_rows_and_the_means_of_the_base():
    method = continual.mamba_fscil((2, 2), width=6, states=2, suppress=SUPPRESS, separate=SEPARATE)
    learner = short_learner(core.chain(method, spy(8)), steps=5)
    data, begin, chunk, end = core.to_device(learner.stream), *map(jax.jit, (learner.begin, learner.chunk, learner.end))
    start = core.start(learner)
    # As drawn, time is so short that states hold next to nothing.
    drawn = jax.device_get(start.params["projector"]["branches"])
    drawn |= {"time_bias": drawn["time_bias"] + 3, "read": 5 * drawn["read"], "a_log": drawn["a_log"] - 1}
    start = start._replace(params=start.params | {"projector": start.params["projector"] | {"branches": drawn}})
    started, record = chunk(begin(start, data, 0), data, 0, 0, 1)
    inputs, labels = rows_of(learner.stream, started.method_state["spy"])
    targets = np.asarray(start.frozen["targets"], np.float64)
    assert len(set(np.bincount(labels, minlength=2))) == 2, "a mean over rows is not one over classes"
    losses = regressed(
        [projected(start.params["projector"], maps)[0] for maps in maps_of(start.params, inputs)], targets, labels
    )
    np.testing.assert_allclose(record["loss"], losses.mean(), rtol=1e-4)

    over = end(chunk(started, data, 0, 1, 4)[0], data, 0)
    was, now = jax.device_get([state.params["projector"]["branches"] for state in (start, over)])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[1]), was, now)
    assert all(np.any(was[name][0] != now[name][0]) for name in was)
    assert np.any(was["gate"][0]) and not np.any(was["gate"][1])

    before = begin(over, data, 1)
    assert optax.tree.get(over.opt_state, "count") == 5
    assert optax.tree.get(before.opt_state, "count") == 0
    gone = {name: np.stack([leaf[0], np.zeros_like(leaf[1])]) for name, leaf in now.items()}
    batch = {"inputs": learner.stream.source.train["inputs"][:9], "weights": np.ones(9), "row": np.arange(9)}
    answer = jax.jit(lambda state: learner.predict(state, data, 1, batch).logits)
    without = before.params | {"projector": before.params["projector"] | {"branches": gone}}
    logits = [answer(state) for state in (before, before._replace(params=without))]
    np.testing.assert_array_equal(*logits)
    assert np.all(np.argsort(logits[0])[:, :2] >= 4), "classes that were not seen come last"

    first, _ = chunk(before, data, 1, 0, 1)
    last, record = chunk(first, data, 1, 4, 1)
    jax.tree.map(np.testing.assert_array_equal, below(last.params), below(before.params))
    jax.tree.map(np.testing.assert_array_equal, last.model_state, over.model_state)
    moved = jax.device_get(last.params["projector"]["branches"])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), now, moved)
    np.testing.assert_array_equal(last.params["projector"]["mean"], over.params["projector"]["mean"])
    assert all(np.any(now[name][1] != moved[name][1]) for name in now)

    split, batch = learner.stream.experiences["train"], jax.tree.map(np.asarray, last.method_state["spy"])
    assert batch["weights"].tolist() == [1] * 5 + [0] * 3
    records = {"row": [*split.rows[0][:50], *batch["row"][:5]], "experience": [0] * 50 + [1] * 5}
    inputs, labels = rows_of(learner.stream, records)
    maps = maps_of(first.params, inputs, over.model_state["batch_stats"]["BatchNorm_0"])
    old, new, labels, arrived = maps[:50], maps[50:], labels[:50], labels[50:]
    means = np.stack([old[labels == k].mean(0) for k in (0, 1)])
    found = [projected(first.params["projector"], each) for each in (*means, *new)]
    labels = np.array([0, 1, *arrived])
    np.testing.assert_array_equal(before.frozen["targets"], start.frozen["targets"])
    np.testing.assert_allclose(targets @ targets.T, 1.2 * np.eye(6) - 0.2, atol=1e-5)
    losses = regressed([f for f, _, _ in found], targets, labels)
    value = np.mean([losses[labels == k].mean() for k in set(labels)])
    value += SUPPRESS * np.sqrt(np.mean([gate**2 for _, gate, _ in found[:2]]))
    for k in range(3):
        base, rest = (unit(np.mean([over[k] for _, _, over in part], 0)) for part in (found[:2], found[2:]))
        value += SEPARATE / 2 * abs(base @ rest)
    np.testing.assert_allclose(record["loss"], value, rtol=1e-4)

    state = end(last, data, 1).method_state["mamba_fscil"]
    np.testing.assert_array_equal(state.base, np.arange(6) < 2)
    np.testing.assert_array_equal(state.counts, np.bincount(learner.stream.source.train["labels"][:87], minlength=6))


def test_without_a_width_the_scans_add_to_the_mean_of_the_maps():
    def init(rng, inputs):
        return core.Variables({"head": {"kernel": np.zeros((12, 3), np.float32)}})

    def apply(variables, inputs, **options):
        return core.Outputs(inputs @ variables.params["head"]["kernel"], inputs), variables.model_state

    model = continual.mamba_fscil((2, 2), states=1).model(core.Model(init, apply))
    x = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    shapes = jax.eval_shape(lambda key: model.init(key, x), jax.random.key(0))
    silent = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    outputs, _ = jax.jit(model.apply)(silent, x)
    np.testing.assert_allclose(outputs.features, x.reshape(5, 4, 3).mean(1), rtol=1e-5, atol=1e-6)


def test_rows_that_fill_up_a_batch_on_more_devices_are_not_taken_for_means():
    mesh = jax.sharding.AbstractMesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    learner = core.make_learner(
        MODEL,
        continual.mamba_fscil((1, 1), states=1),
        optax.sgd(0.1),
        testing.standard_stream(),
        batch_size=6,
        mesh=mesh,
    )
    start = jax.eval_shape(learner.init, jax.random.key(0))
    after, _ = jax.eval_shape(learner.step, start, core.to_device(learner.stream), 0, 0)
    assert jax.tree.structure(after) == jax.tree.structure(start)


def test_what_it_refuses():
    method = continual.mamba_fscil((2, 2), width=6)
    for make, match in (
        (lambda: continual.mamba_fscil(7), "grid as rows and columns of the maps, got 7: give two numbers"),
        (lambda: continual.mamba_fscil((1, 1, 2)), "grid as rows and columns"),
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
