"""The tricks one by one, against numpy, and what their chain is made of."""

import functools
import itertools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, streams, testing
from ctrain_jax.continual import representation
from ctrain_jax.continual.representation._fscil_tricks import assigned
from tests.rehearsed import MODEL, Headless, Skipping, answers, learner_of, log_softmax, unit

X = testing.standard_stream().source.train["inputs"][:9]
ADAMW = optax.adamw(1e-2, weight_decay=0.1)


class Normed(nn.Module):
    """A head behind BatchNorm."""

    @nn.compact
    def __call__(self, inputs, train: bool = False):
        features = nn.BatchNorm(use_running_average=not train)(inputs)
        return core.Outputs(nn.Dense(6, name="head")(features), features)


NORMED = core.from_linen(Normed())


def negated(inputs):
    return -inputs


def experience(learner, t, state=None):
    return core.run_experience(learner, state or core.start(learner), core.to_device(learner.stream), t)


@pytest.mark.parametrize("held", [(), (1, 4)])
def test_an_assignment_is_the_best_of_all(held):
    similarity = np.random.default_rng(len(held)).normal(size=(6, 6))
    free = [p for p in itertools.permutations(range(6)) if all(p[k] == k for k in held)]
    # Classes that keep their target add the same to all.
    best = max(free, key=lambda p: sum(similarity[k, p[k]] for k in range(6) if k not in held))
    mask = jnp.zeros(6, bool).at[jnp.array(held, int)].set(True)
    assert jax.jit(assigned)(jnp.asarray(similarity), mask).tolist() == list(best)


def test_a_class_gets_the_corner_next_to_its_features_and_keeps_it():
    """Of three classes with 25, 25 and 19 rows: it is the mean that counts, not the sum, and no padding of a batch."""
    source = testing.standard_stream().source
    learner = learner_of(representation.preassigned(), stream=streams.class_incremental(source, 2), batch_size=48)
    start, data = core.start(learner, 47), core.to_device(learner.stream)
    begin = jax.jit(learner.begin)
    before = np.asarray(start.frozen["targets"], np.float64)
    np.testing.assert_allclose(before @ before.T, 1.2 * np.eye(6) - 0.2, atol=1e-6)
    begun = begin(start, data, 0)
    _, features = answers({**begun.params, "head": begun.frozen["head"]}, source.train["inputs"])
    near = unit(features @ np.asarray(begun.params["projection"], np.float64)) @ before.T
    rows = [near[source.train["labels"] == c] for c in range(3)]
    best, by_sums = (
        max(itertools.permutations(range(6), 3), key=lambda p: sum(m[j] for m, j in zip(each, p, strict=True)))
        for each in ([r.mean(0) for r in rows], [r.sum(0) for r in rows])
    )
    assert best != by_sums
    np.testing.assert_array_equal(begun.frozen["targets"][:3], start.frozen["targets"][np.array(best)])
    assert sorted(np.asarray(begun.frozen["targets"]).tolist()) == sorted(np.asarray(start.frozen["targets"]).tolist())
    later = begin(begun, data, 1)
    np.testing.assert_array_equal(later.frozen["targets"][:3], begun.frozen["targets"][:3])
    assert begun.method_state["preassigned"].held.tolist() == [True] * 3 + [False] * 3
    assert later.method_state["preassigned"].held.all()


def test_pseudo_classes_are_rows_and_logits_beyond_the_classes():
    method = representation.pseudo_classes(negated, lambda x: 2 * x)
    model = method.model(MODEL)
    variables = model.init(jax.random.key(1), X)
    plain = MODEL.init(jax.random.key(1), X).params
    jax.tree.map(np.testing.assert_array_equal, variables.params["dense_0"], plain["dense_0"])
    asked, _ = model.apply(variables, X)
    trained, _ = model.apply(variables, X, train=True)
    np.testing.assert_array_equal(asked.logits, MODEL.apply(core.Variables(plain, {}), X)[0].logits)
    np.testing.assert_array_equal(trained.logits[:, :6], asked.logits)
    np.testing.assert_allclose(trained.logits, answers(variables.params, X)[0], rtol=1e-5, atol=1e-5)
    assert trained.logits.shape == (9, 18)
    kernel = np.asarray(variables.params["head"]["kernel"])
    assert np.abs(kernel[:, :6] - kernel[:, 6:12]).min() > 0, "pseudo-classes have weights of their own"


def test_pseudo_classes_have_corners_of_their_own():
    model = representation.preassigned(scale=3.0).model(representation.pseudo_classes(negated).model(MODEL))
    variables = model.init(jax.random.key(1), X)
    targets, projection = (
        np.asarray(t, np.float64) for t in (variables.frozen["targets"], variables.params["projection"])
    )
    np.testing.assert_allclose(targets @ targets.T, np.eye(12) * 12 / 11 - 1 / 11, atol=1e-6)
    trained, asked = (model.apply(variables, X, train=train)[0] for train in (True, False))
    np.testing.assert_allclose(
        trained.logits, 3 * unit(np.asarray(trained.features) @ projection) @ targets.T, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(asked.logits, trained.logits[:, :6])


SEEN = core.Method(
    "seen",
    init=lambda *_: (jnp.zeros(8, jnp.int32), jnp.zeros((16, 12))),
    update=lambda s, ts, ctx: ((ctx.incoming["row"], ctx.batch["inputs"]), ts),
)


def test_a_step_is_one_on_rows_views_and_labels_and_later_on_rows_alone():
    """Beside `contrast`: the losses of first steps of two experiences, in float64; statistics see no later view."""
    method = core.chain(representation.pseudo_classes(negated), representation.contrast(0.3, 0.5), SEEN)
    learner = learner_of(method)
    stream, data, chunk = learner.stream, core.to_device(learner.stream), jax.jit(learner.chunk)
    for t, views in ((0, (1, -1)), (1, (1,))):
        start = core.start(learner)
        after, record = chunk(start, data, t, 0, 1)
        rows, fed = map(np.asarray, after.method_state["seen"])
        x = stream.source.train["inputs"][rows][:, np.asarray(stream.origins.view)[t]].astype(np.float64)
        np.testing.assert_array_equal(fed, np.concatenate([x, views[-1] * x]))
        x = np.concatenate([sign * x for sign in views])
        y = np.concatenate([stream.source.train["labels"][rows] + 6 * k for k in range(len(views))])
        logits, features = answers(start.params, x)
        likely = np.exp(unit(features) @ unit(features).T / 0.5)
        np.fill_diagonal(likely, 0)
        share = likely / likely.sum(1, keepdims=True)
        others = [np.flatnonzero((y == y[i]) & (np.arange(len(y)) != i)) for i in range(len(y))]
        contrast = [-np.log(share[i, o]).mean() if len(o) else 0 for i, o in enumerate(others)]
        expected = -log_softmax(logits)[np.arange(len(y)), y].mean() + 0.3 * np.mean(contrast)
        np.testing.assert_allclose(record["loss"], expected, rtol=1e-5)


@functools.cache
def plain_learner():
    learner = learner_of(core.identity(), model=NORMED, optimizer=ADAMW)
    return learner, jax.jit(learner.chunk)


def plain_steps(t, num):
    """Parameters and statistics before and after so many steps of plain training on an experience."""
    learner, chunk = plain_learner()
    start = core.start(learner)
    return start[1:3], chunk(start, core.to_device(learner.stream), t, 0, num)[0][1:3]


def test_a_subnetwork_alone_learns_after_the_first_experience():
    method = representation.subnetwork("^BatchNorm_0.bias", rate=0.5)
    learner = learner_of(method, model=NORMED, optimizer=ADAMW)
    chunk, data = jax.jit(learner.chunk), core.to_device(learner.stream)
    first, (after, statistics) = (chunk(core.start(learner), data, t, 0, 1)[0][1:3] for t in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, plain_steps(0, 1)[1])
    (before, old), (whole, moved) = plain_steps(1, 1)
    np.testing.assert_array_equal(after["BatchNorm_0"]["scale"], before["BatchNorm_0"]["scale"])
    jax.tree.map(np.testing.assert_array_equal, (after["head"], statistics), (before["head"], old))
    assert all(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (old, moved)), strict=True))
    start, half, full = (np.asarray(p["BatchNorm_0"]["bias"], np.float64) for p in (before, after, whole))
    np.testing.assert_allclose(half - start, 0.5 * (full - start), rtol=1e-5)
    assert np.abs(full - start).max() > 1e-3


def test_updates_keep_their_dtype():
    method = representation.subnetwork("a", rate=0.5)
    ctx = types.SimpleNamespace(experience=types.SimpleNamespace(index=1))
    params = {name: jnp.full(2, 3, jnp.bfloat16) for name in "ab"}
    tx, state = method.optimizer(optax.with_extra_args_support(optax.identity())), method.init(None, params, ctx)
    updates, _ = tx.update(params, tx.init(params), params, ctx=ctx, method_state=state)
    assert {name: (u.dtype, u.tolist()) for name, u in updates.items()} == {
        "a": (jnp.bfloat16, [1.5, 1.5]),
        "b": (jnp.bfloat16, [0.0, 0.0]),
    }


def test_the_chain_of_nothing_is_the_mean_of_features_after_the_first_experience():
    """No trick left: plain training, then class means by cosine, each of the network that stays."""
    method = continual.fscil_tricks(prototypes=False, turns=0, lam=0.0)
    learner = learner_of(method, model=NORMED, optimizer=ADAMW, steps=7)
    first = experience(learner, 0)
    _, plain = plain_steps(0, 7)
    jax.tree.map(np.testing.assert_array_equal, first[1:3], plain)
    last = experience(learner, 2, experience(learner, 1, first))
    jax.tree.map(np.testing.assert_array_equal, last[1:3], plain)
    state, source = last.method_state["nmc"], learner.stream.source.train
    views = np.asarray(learner.stream.origins.view)[source["labels"] // 2]
    norm, seen = plain[0]["BatchNorm_0"], plain[1]["batch_stats"]["BatchNorm_0"]
    features = (np.take_along_axis(source["inputs"], views, 1) - seen["mean"]) / np.sqrt(seen["var"] + 1e-5)
    features = features * norm["scale"] + norm["bias"]
    sums = np.stack([features[source["labels"] == c].sum(0) for c in range(6)])
    np.testing.assert_allclose(state.sums, sums, rtol=1e-4, atol=1e-4)
    assert state.counts.tolist() == np.bincount(source["labels"]).tolist()


def test_turns_are_those_of_numpy():
    images = np.arange(32.0).reshape(2, 4, 4)
    np.testing.assert_array_equal(representation.quarter_turns(images, 3)[1], np.rot90(images[1], 3))


def test_the_weight_of_the_contrast_may_be_traced():
    parts = jax.eval_shape(lambda lam: jnp.zeros(len(continual.fscil_tricks(lam=lam).parts)), 0.0)
    assert parts.shape == (5,)


def traced(*methods, **options):
    learner = learner_of(*methods, **options)
    data = core.to_device(learner.stream)
    jax.eval_shape(lambda key: learner.step(learner.init(key), data, jnp.int32(0), jnp.int32(0)), jax.random.key(0))


def test_what_it_refuses():
    pseudo = representation.pseudo_classes(negated)
    for make, match in (
        (lambda: continual.fscil_tricks(turns=4), "turns expects 0, 1, 2 or 3 quarters, got 4"),
        (lambda: continual.fscil_tricks(turns=1.0), "turns expects 0, 1, 2 or 3 quarters, got 1.0"),
        (lambda: traced(pseudo, continual.local_loss()), "got 'classes' from another method: leave out"),
        (
            lambda: traced(continual.augmentation(crop=0, flip=False, mixup=1.0), pseudo),
            "got 'targets' from another method: leave out",
        ),
        (lambda: traced(pseudo, model=core.from_linen(Skipping())), "pseudo_classes .* of width 5, got 12"),
        (lambda: traced(representation.preassigned(), model=core.from_linen(Skipping())), "of width 5, got 12"),
        (lambda: continual.fscil_tricks(lam=-1.0), "lam must be"),
        (lambda: representation.preassigned(scale=0.0), "scale must be above 0"),
        (lambda: representation.pseudo_classes(), "at least one view, got none"),
        (lambda: representation.quarter_turns(jnp.zeros((2, 4, 3))), r"expects square images .* got shape \(2, 4, 3\)"),
        (lambda: learner_of(representation.preassigned(), model=core.from_linen(Headless())), "name it 'head'"),
        (lambda: core.start(learner_of(representation.subnetwork("^conv"))), "train='\\^conv' finds no parameter"),
        (
            lambda: core.start(learner_of(pseudo, stream=testing.standard_stream()._replace(heads="seen"))),
            "expects a stream with heads='all', got heads='seen'",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            make()
