"""The tricks one by one, against numpy, and what their chain is made of."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, testing
from ctrain_jax.continual import representation
from ctrain_jax.continual.representation._fscil_tricks import assigned
from tests.rehearsed import MODEL, Headless, answers, first_experience, learner_of, log_softmax, unit

X = testing.standard_stream().source.train["inputs"][:9]


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
    learner = learner_of(representation.preassigned())
    start, data = core.start(learner), core.to_device(learner.stream)
    before = np.asarray(start.frozen["targets"], np.float64)
    np.testing.assert_allclose(before @ before.T, 1.2 * np.eye(6) - 0.2, atol=1e-6)
    begun = jax.jit(learner.begin)(start, data, 0)
    source, view = learner.stream.source.train, np.asarray(learner.stream.origins.view)[0]
    rows = np.isin(source["labels"], [0, 1])
    _, features = answers({**begun.params, "head": begun.frozen["head"]}, source["inputs"][rows][:, view])
    near = unit(features @ np.asarray(begun.params["projection"], np.float64)) @ before.T
    means = [near[source["labels"][rows] == c].mean(0) for c in (0, 1)]
    pair = max(itertools.permutations(range(6), 2), key=lambda p: means[0][p[0]] + means[1][p[1]])
    np.testing.assert_array_equal(begun.frozen["targets"][:2], start.frozen["targets"][np.array(pair)])
    assert sorted(np.asarray(begun.frozen["targets"]).tolist()) == sorted(np.asarray(start.frozen["targets"]).tolist())
    later = jax.jit(learner.begin)(begun, data, 1)
    np.testing.assert_array_equal(later.frozen["targets"][:2], begun.frozen["targets"][:2])
    assert later.method_state["preassigned"].held.tolist() == [True] * 4 + [False] * 2


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


SEEN = core.Method("seen", init=lambda *_: jnp.zeros(8, jnp.int32), update=lambda s, ts, ctx: (ctx.incoming["row"], ts))


def test_a_step_is_one_on_rows_views_and_labels_and_later_on_rows_alone():
    """Beside `contrast`: the losses of first steps of two experiences, in float64."""
    method = core.chain(representation.pseudo_classes(negated), representation.contrast(0.3, 0.5), SEEN)
    learner = learner_of(method)
    stream, data, chunk = learner.stream, core.to_device(learner.stream), jax.jit(learner.chunk)
    for t, views in ((0, (1, -1)), (1, (1,))):
        start = core.start(learner)
        after, record = chunk(start, data, t, 0, 1)
        rows = np.asarray(after.method_state["seen"])
        x = stream.source.train["inputs"][rows][:, np.asarray(stream.origins.view)[t]].astype(np.float64)
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


def steps_of(method, **options):
    """Parameters and statistics before any step, and after one of the first and one of the second experience."""
    learner = learner_of(method, **{"optimizer": optax.adamw(1e-2, weight_decay=0.1), **options})
    chunk, data = jax.jit(learner.chunk), core.to_device(learner.stream)
    before = jax.tree.map(np.asarray, core.start(learner)[1:3])
    return before, *(chunk(core.start(learner), data, t, 0, 1)[0][1:3] for t in (0, 1))


def test_a_subnetwork_alone_learns_after_the_first_experience():
    (before, _), first, (after, _) = steps_of(representation.subnetwork("^dense_0.bias", rate=0.5))
    _, plain, (whole, _) = steps_of(core.identity())
    jax.tree.map(np.testing.assert_array_equal, first, plain)
    np.testing.assert_array_equal(after["dense_0"]["kernel"], before["dense_0"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, after["head"], before["head"])
    start, half, full = (np.asarray(p["dense_0"]["bias"], np.float64) for p in (before, after, whole))
    np.testing.assert_allclose(half - start, 0.5 * (full - start), rtol=1e-5)
    assert np.abs(full - start).max() > 1e-3


def test_without_a_subnetwork_nothing_moves_statistics_of_batches_included():
    before, _, after = steps_of(representation.subnetwork(), model=testing.standard_model())
    assert jax.tree.leaves(before[1])
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_the_chain_of_nothing_is_the_mean_of_features_after_the_first_experience():
    """No trick left: plain training, then class means by cosine, each of the network that stays."""
    method = continual.fscil_tricks(prototypes=False, turns=0, lam=0.0)
    learner = learner_of(method, steps=7)
    first = experience(learner, 0)
    plain = first_experience(core.identity())
    jax.tree.map(np.testing.assert_array_equal, first.params, plain)
    last = experience(learner, 2, experience(learner, 1, first))
    jax.tree.map(np.testing.assert_array_equal, last.params, plain)
    state, source = last.method_state["nmc"], learner.stream.source.train
    views = np.asarray(learner.stream.origins.view)[source["labels"] // 2]
    features = answers(plain, np.take_along_axis(source["inputs"], views, 1))[1]
    sums = np.stack([features[source["labels"] == c].sum(0) for c in range(6)])
    np.testing.assert_allclose(state.sums, sums, rtol=1e-4, atol=1e-4)
    assert state.counts.tolist() == np.bincount(source["labels"]).tolist()


def test_turns_are_those_of_numpy():
    images = np.arange(32.0).reshape(2, 4, 4)
    np.testing.assert_array_equal(representation.quarter_turns(images, 3)[1], np.rot90(images[1], 3))


def test_what_it_refuses():
    for make, match in (
        (lambda: continual.fscil_tricks(turns=4), "turns expects 0, 1, 2 or 3 quarters, got 4"),
        (lambda: continual.fscil_tricks(lam=-1.0), "lam must be"),
        (lambda: representation.preassigned(scale=0.0), "scale must be above 0"),
        (lambda: representation.pseudo_classes(), "at least one view, got none"),
        (lambda: representation.quarter_turns(jnp.zeros((2, 4, 3))), r"expects square images .* got shape \(2, 4, 3\)"),
        (lambda: learner_of(representation.preassigned(), model=core.from_linen(Headless())), "name it 'head'"),
        (lambda: core.start(learner_of(representation.subnetwork("^conv"))), "train='\\^conv' finds no parameter"),
        (
            lambda: core.start(
                learner_of(
                    representation.pseudo_classes(negated), stream=testing.standard_stream()._replace(heads="seen")
                )
            ),
            "expects a stream with heads='all', got heads='seen'",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            make()
