"""Scenarios: which rows arrive where, against counts and sets that are worked out row by row."""

import jax
import numpy as np
import pytest
import scipy.ndimage

from ctrain_jax import streams

C = 5
COUNTS = (7, 10, 5, 8, 12)  # training rows of each class: unequal, so that experiences need padding


def _source(counts=COUNTS, test=3, shape=(4, 3)):
    """Labels scattered over the rows; every input is its row number."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    test_labels = np.tile(np.arange(len(counts)), test)

    def inputs(n):
        return np.broadcast_to(np.arange(n, dtype=np.float32).reshape(n, *[1] * len(shape)), (n, *shape)).copy()

    return streams.arrays(inputs(len(labels)), labels, inputs(len(test_labels)), test_labels, name="toy")


SOURCE = _source()
EVEN = _source((7, 10, 5, 8, 12, 6))
REGRESSION = streams.arrays(np.ones((20, 6)), np.ones((20, 2)), np.ones((6, 6)), np.ones((6, 2)))

BUILDERS = {
    "class": lambda **kw: streams.class_incremental(SOURCE, 3, **kw),
    "class_seeded": lambda **kw: streams.class_incremental(SOURCE, 2, **{"seed": 4, **kw}),
    "class_ordered": lambda **kw: streams.class_incremental(SOURCE, 5, class_order=[3, 1, 4, 0, 2], **kw),
    "task": lambda **kw: streams.task_incremental(SOURCE, 2, **kw),
    "domain": lambda **kw: streams.domain_incremental(EVEN, 3, **kw),
    "permuted": lambda **kw: streams.permuted(SOURCE, 3, **kw),
    "rotated": lambda **kw: streams.rotated(SOURCE, 3, **kw),
    "regression": lambda **kw: streams.permuted(REGRESSION, 2, **kw),
}
SPLITS_CLASSES = ("class", "class_seeded", "class_ordered", "task", "domain")
BOUNDS = pytest.mark.parametrize("name", BUILDERS)


def _rows(experience, t):
    return np.asarray(experience.rows[t][: experience.size[t]])


def _same(a, b):
    jax.tree.map(np.testing.assert_array_equal, (a.experiences, a.origins), (b.experiences, b.origins))


@BOUNDS
@pytest.mark.parametrize("valid", [0.0, 0.25])
def test_every_experience_is_well_formed(name, valid):
    stream = BUILDERS[name](valid_fraction=valid)
    num = len(stream.origins.task)
    assert set(stream.experiences) == ({"train", "valid", "test"} if valid else {"train", "test"})
    for split, e in stream.experiences.items():
        part = stream.source.test if split == "test" else stream.source.train
        assert {x.dtype for x in (e.index, e.rows, e.origin, e.size, e.task)} == {np.dtype(np.int32)}
        assert e.classes.dtype == e.seen.dtype == bool
        assert e.classes.shape == e.seen.shape == (num, stream.source.num_classes)
        assert e.index.tolist() == e.task.tolist() == list(range(num))
        assert e.rows.shape == e.origin.shape == (num, e.size.max())
        for t in range(num):
            own = _rows(e, t)
            assert len(set(own.tolist())) == len(own) >= 1
            for i in range(e.rows.shape[1]):  # padding repeats the experience's own rows in turn
                assert e.rows[t, i] == own[i % len(own)]
            assert (e.origin[t] == t).all()
            assert (e.seen[t] == e.classes[: t + 1].any(axis=0)).all()
            if part["labels"].dtype == np.int32:
                assert e.classes[t][part["labels"][own]].all()
    assert stream.origins.task.tolist() == list(range(num))
    np.testing.assert_array_equal(stream.origins.classes, stream.experiences["train"].classes)


@BOUNDS
def test_validation_rows_are_never_trained_on_and_nothing_is_lost(name):
    whole, held = BUILDERS[name](), BUILDERS[name](valid_fraction=0.25)
    trained, validated = set(), set()
    for t in range(len(whole.origins.task)):
        train = set(_rows(held.experiences["train"], t).tolist())
        valid = set(_rows(held.experiences["valid"], t).tolist())
        assert train | valid == set(_rows(whole.experiences["train"], t).tolist())
        trained, validated = trained | train, validated | valid
    assert not trained & validated
    assert trained | validated == set(range(len(whole.source.train["labels"])))
    np.testing.assert_array_equal(held.experiences["test"].rows, whole.experiences["test"].rows)


@pytest.mark.parametrize("name", SPLITS_CLASSES)
def test_a_split_of_classes_covers_every_row_once(name):
    stream = BUILDERS[name]()
    for split, part in (("train", stream.source.train), ("test", stream.source.test)):
        e = stream.experiences[split]
        every = np.concatenate([_rows(e, t) for t in range(len(e.size))])
        assert sorted(every.tolist()) == list(range(len(part["labels"])))


@pytest.mark.parametrize("name", ["class", "class_seeded", "task", "domain", "permuted", "rotated", "regression"])
def test_a_seed_decides_everything(name):
    for seed in (3, 4):
        _same(BUILDERS[name](seed=seed, valid_fraction=0.5), BUILDERS[name](seed=seed, valid_fraction=0.5))
    a, b = (BUILDERS[name](seed=seed, valid_fraction=0.5).experiences["valid"] for seed in (3, 4))
    assert a.rows.shape != b.rows.shape or (a.rows != b.rows).any()


def test_validation_is_the_rounded_share_of_each_class():
    stream = streams.class_incremental(SOURCE, 5, valid_fraction=0.25)
    # 7, 10, 5, 8, 12 quarters: 1.75, 2.5, 1.25, 2, 3, and a half goes to the even number
    assert stream.experiences["valid"].size.tolist() == [2, 2, 1, 2, 3]
    assert stream.experiences["train"].size.tolist() == [5, 8, 4, 6, 9]


@pytest.mark.parametrize(("num", "sizes"), [(1, [5]), (2, [3, 2]), (3, [2, 2, 1]), (4, [2, 1, 1, 1]), (5, [1] * 5)])
def test_classes_are_dealt_in_order_and_the_first_get_one_more(num, sizes):
    e = streams.class_incremental(SOURCE, num).experiences["train"]
    dealt = [np.flatnonzero(c).tolist() for c in e.classes]
    assert [len(d) for d in dealt] == sizes
    assert sum(dealt, []) == list(range(C))
    assert e.size.tolist() == [sum(COUNTS[c] for c in d) for d in dealt]


def test_class_order_and_seed_order_the_classes():
    order = [3, 1, 4, 0, 2]
    e = streams.class_incremental(SOURCE, 3, class_order=order, seed=9).experiences["train"]
    assert [set(np.flatnonzero(c).tolist()) for c in e.classes] == [{3, 1}, {4, 0}, {2}]
    orders = set()
    for seed in range(8):
        e = streams.class_incremental(SOURCE, 5, seed=seed).experiences["train"]
        orders.add(tuple(int(np.flatnonzero(c)[0]) for c in e.classes))
    assert all(sorted(o) == list(range(C)) for o in orders)
    assert len(orders) > 5


def test_what_each_scenario_tells_the_learner():
    told = {name: (b().heads, b().task_known, b().labels) for name, b in BUILDERS.items()}
    assert told["task"] == ("task", True, True)
    assert all(told[name] == ("all", False, True) for name in told if name != "task")
    assert streams.class_incremental(SOURCE, 2, heads="seen").heads == "seen"
    assert streams.permuted(SOURCE, 2, task_known=True).task_known
    assert streams.rotated(SOURCE, 2, task_known=True).task_known
    assert BUILDERS["class"]().name == "toy_class_incremental"


def test_domain_incremental_labels_are_positions_in_the_order():
    order = [5, 0, 3, 1, 2, 4]
    stream = streams.domain_incremental(EVEN, 3, class_order=order)
    position = {5: 0, 0: 1, 3: 0, 1: 1, 2: 0, 4: 1}
    home = {5: 0, 0: 0, 3: 1, 1: 1, 2: 2, 4: 2}
    assert stream.source.num_classes == 2
    for split, old, new in (("train", EVEN.train, stream.source.train), ("test", EVEN.test, stream.source.test)):
        assert new["labels"].tolist() == [position[c] for c in old["labels"].tolist()]
        assert new["labels"].dtype == np.int32
        assert new["inputs"] is old["inputs"]
        for t in range(3):
            assert {home[c] for c in old["labels"][_rows(stream.experiences[split], t)].tolist()} == {t}
    assert stream.experiences["test"].classes.all() and stream.origins.classes.shape == (3, 2)


def test_domain_incremental_follows_the_seeded_order():
    stream = streams.domain_incremental(EVEN, 6, seed=3)
    assert stream.source.num_classes == 1 and not stream.source.train["labels"].any()
    pairs = streams.domain_incremental(EVEN, 3, seed=3)
    by_class = streams.class_incremental(EVEN, 6, seed=3).experiences["train"].classes
    for t in range(6):
        (label,) = np.flatnonzero(by_class[t])
        assert set(pairs.source.train["labels"][EVEN.train["labels"] == label].tolist()) == {t % 2}


def test_permuted_views_are_bijections_and_the_first_is_the_identity():
    view = streams.permuted(SOURCE, 4, seed=1).origins.view
    assert view.shape == (4, 12) and view.dtype == np.int32
    assert [sorted(p.tolist()) for p in view] == [list(range(12))] * 4
    assert view[0].tolist() == list(range(12))
    assert len({tuple(p.tolist()) for p in view}) == 4
    np.testing.assert_array_equal(streams.permuted(SOURCE, 2, seed=1).origins.view, view[:2])
    assert (streams.permuted(SOURCE, 4, seed=2).origins.view[1:] != view[1:]).any()


@pytest.mark.parametrize(("shape", "pixels"), [((6,), 6), ((4, 3), 12), ((4, 3, 2), 12), ((2, 2, 2, 2), 16)])
def test_permuted_moves_pixels(shape, pixels):
    stream = streams.permuted(_source(shape=shape), 2, seed=1)
    order = stream.origins.view[1]
    assert order.shape == (pixels,)
    x = np.random.default_rng(0).random(shape).astype(np.float32)
    y = np.asarray(jax.jit(stream.view_fn)(x, order))
    assert y.shape == shape
    flat_x, flat_y = x.reshape(pixels, -1), y.reshape(pixels, -1)
    for i in range(pixels):
        np.testing.assert_array_equal(flat_y[i], flat_x[order[i]])
    np.testing.assert_array_equal(stream.view_fn(x, stream.origins.view[0]), x)


@pytest.mark.parametrize("shape", [(28, 28), (9, 9, 3), (8, 5)])
@pytest.mark.parametrize("degrees", [10.0, 45.0, 90.0, -133.0, 180.0])
def test_rotated_agrees_with_scipy(shape, degrees):
    x = np.random.default_rng(0).random(shape).astype(np.float32)
    stream = streams.rotated(_source(shape=shape), 1, degrees=[degrees])
    got = jax.jit(stream.view_fn)(x, stream.origins.view[0])
    # grid-constant: zeros lie around the image, instead of a cut at its outermost pixel centres
    expected = scipy.ndimage.rotate(x.astype(np.float64), degrees, reshape=False, order=1, mode="grid-constant")
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_rotated_by_nothing_is_the_identity_and_by_a_quarter_turns_counter_clockwise():
    x = np.random.default_rng(0).random((28, 28, 3)).astype(np.float32)
    stream = streams.rotated(_source(shape=(28, 28, 3)), 3)
    turned = jax.jit(jax.vmap(stream.view_fn, in_axes=(None, 0)))(x, stream.origins.view)
    np.testing.assert_array_equal(turned[0], x)
    np.testing.assert_allclose(turned[1], np.rot90(x), atol=1e-5)
    np.testing.assert_allclose(turned[2], x[::-1, ::-1], atol=1e-5)


def test_rotated_angles():
    assert streams.rotated(SOURCE, 1).origins.view.tolist() == [0.0]
    np.testing.assert_allclose(streams.rotated(SOURCE, 3, degrees=90.0).origins.view, [0, np.pi / 4, np.pi / 2], 1e-6)
    view = streams.rotated(SOURCE, 2, degrees=[30.0, -60.0]).origins.view
    assert view.dtype == np.float32
    np.testing.assert_allclose(view, [np.pi / 6, -np.pi / 3], rtol=1e-6)


@BOUNDS
def test_joint_and_cumulative_hold_every_row_under_its_own_origin(name):
    stream = BUILDERS[name](valid_fraction=0.25)
    train = stream.experiences["train"]
    pairs = [(int(r), t) for t in range(len(train.size)) for r in _rows(train, t)]
    until = np.cumsum(train.size)
    joint, cumulative = streams.joint(stream), streams.cumulative(stream)
    for whole, ends in ((joint, until[-1:]), (cumulative, until)):
        e = whole.experiences["train"]
        assert e.size.tolist() == ends.tolist()
        assert e.index.tolist() == list(range(len(ends)))
        assert e.rows.dtype == e.origin.dtype == np.int32
        for t, end in enumerate(ends):
            got = list(zip(e.rows[t].tolist(), e.origin[t].tolist(), strict=True))
            assert got == [pairs[i % end] for i in range(until[-1])]
        for split in ("valid", "test"):
            assert whole.experiences[split] is stream.experiences[split]
        assert whole.origins is stream.origins and whole.view_fn is stream.view_fn
        assert (whole.heads, whole.task_known) == (stream.heads, stream.task_known)
    assert joint.experiences["train"].classes.all() and joint.experiences["train"].seen.all()
    np.testing.assert_array_equal(cumulative.experiences["train"].classes, train.seen)
    np.testing.assert_array_equal(cumulative.experiences["train"].seen, train.seen)
    assert joint.name == stream.name + "_joint" and cumulative.name == stream.name + "_cumulative"


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: streams.class_incremental(SOURCE, 6), "between 1 and the number of classes, 5, got 6"),
        (lambda: streams.task_incremental(SOURCE, 0), "task_incremental: num_experiences must lie"),
        (lambda: streams.domain_incremental(SOURCE, 9), "domain_incremental: num_experiences must lie"),
        (lambda: streams.domain_incremental(SOURCE, 2), "equally many classes, got 5 classes for 2"),
        (lambda: streams.permuted(SOURCE, 0), "permuted: num_experiences must be at least 1"),
        (lambda: streams.rotated(SOURCE, 0), "rotated: num_experiences must be at least 1"),
        (lambda: streams.class_incremental(SOURCE, 2, heads="task"), "heads must be 'all' or 'seen', got 'task'"),
        (lambda: streams.class_incremental(SOURCE, 2, class_order=[0, 1, 2, 3]), "permutation of 0..4"),
        (lambda: streams.task_incremental(SOURCE, 2, class_order=[0, 1, 2, 3, 3]), "name every class once"),
        (lambda: streams.domain_incremental(EVEN, 2, class_order=[1, 2, 3, 4, 5, 6]), "permutation of 0..5"),
        (lambda: streams.class_incremental(SOURCE, 2, valid_fraction=1.0), r"must lie in \[0, 1\), got 1.0"),
        (lambda: streams.permuted(SOURCE, 2, valid_fraction=-0.1), "must lie in"),
        (lambda: streams.class_incremental(SOURCE, 2, valid_fraction=0.95), "leaves no training row of class 0"),
        (lambda: streams.class_incremental(SOURCE, 5, valid_fraction=0.06), "'valid' of experience 0 has none"),
        (lambda: streams.class_incremental(SOURCE._replace(num_classes=7), 7), "'train' of experience 5 has none"),
        (lambda: streams.class_incremental(REGRESSION, 2), "must have integer labels, got float32"),
        (lambda: streams.rotated(REGRESSION, 2), r"must be images .* got shape \(6,\)"),
        (lambda: streams.rotated(SOURCE, 2, degrees=[1.0, 2.0, 3.0]), "one finite angle or 2 of them"),
        (lambda: streams.rotated(SOURCE, 2, degrees=np.inf), "one finite angle or 2 of them"),
    ],
)
def test_refuses_in_one_sentence(build, says):
    with pytest.raises(ValueError, match=says) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_an_experience_without_test_rows_is_refused():
    source = SOURCE._replace(test={k: v[:4] for k, v in SOURCE.test.items()})
    with pytest.raises(ValueError, match="'test' of experience 4 has none"):
        streams.class_incremental(source, 5)
