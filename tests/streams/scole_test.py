"""SCoLe: classes come back as often as they should, a task depends on its number alone, tests are over all classes."""

import jax
import numpy as np
import optax
import pytest

from ctrain_jax import core, streams

C, EACH, T = 5, 6, 400
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(C), EACH))
INPUTS = np.random.default_rng(1).normal(size=(C * EACH, 3)).astype(np.float32)
SOURCE = streams.arrays(INPUTS, LABELS, INPUTS, LABELS, name="toy")


def test_an_experience_has_all_rows_of_its_classes_and_the_test_all_classes():
    stream = streams.scole(SOURCE, 30, seed=1, valid_fraction=1 / 6)
    train, valid, test = (stream.experiences[name] for name in ("train", "valid", "test"))
    kept = np.setdiff1d(np.arange(C * EACH), valid.rows[0])
    assert valid.rows.shape == (1, C) and test.rows.tolist() == [list(range(C * EACH))]
    for t, there in enumerate(train.classes):
        assert there.sum() == 2
        wanted = [r for r in kept if there[LABELS[r]]]
        assert sorted(train.rows[t, : train.size[t]].tolist()) == wanted and (train.origin[t] == t).all()
        assert (train.seen[t] == train.classes[: t + 1].any(0)).all()
    assert stream.boundaries and stream.origins.classes.shape == (31, C) and stream.origins.classes[-1].all()


def test_a_class_is_in_k_of_c_experiences():
    for k in (1, 2, 4):
        often = streams.scole(SOURCE, T, classes_per_experience=k).experiences["train"].classes.sum(0)
        share = k / C
        assert (np.abs(often - T * share) <= 3 * np.sqrt(T * share * (1 - share))).all()


def test_probabilities_skew_it():
    p = np.array([4.0, 2.0, 1.0, 1.0, 0.0])
    often = streams.scole(SOURCE, T, classes_per_experience=1, probabilities=p).experiences["train"].classes.sum(0)
    share = p / p.sum()
    assert (np.abs(often - T * share) <= 3 * np.sqrt(T * share * (1 - share))).all() and often[4] == 0


def test_an_experience_depends_on_the_seed_and_its_number_alone():
    long, short, other = (streams.scole(SOURCE, n, seed=s) for n, s in ((40, 3), (7, 3), (40, 4)))
    rows = jax.tree.map(lambda x: x[:7], long.experiences["train"])
    jax.tree.map(np.testing.assert_array_equal, rows, short.experiences["train"])
    assert (long.experiences["train"].classes != other.experiences["train"].classes).any()


def test_heads_of_a_task_restrict_training_and_leave_tests_open():
    stream = streams.scole(SOURCE, 3, heads="task")
    data = core.to_device(stream)
    model = core.Model(
        lambda rng, x: core.Variables({"w": 0.1 * jax.random.normal(rng, (3, C))}),
        lambda v, x, **options: (core.Outputs(x @ v.params["w"]), ()),
    )
    learner = core.make_learner(model, core.identity(), optax.sgd(1.0), stream, batch_size=4, steps=2)
    state = core.start(learner)
    before = np.asarray(state.params["w"])
    after = np.asarray(core.run_experience(learner, state, data, 0).params["w"])
    absent = ~stream.experiences["train"].classes[0]
    np.testing.assert_array_equal(after[:, absent], before[:, absent])
    assert (after[:, ~absent] != before[:, ~absent]).all()
    # Over all classes the untrained model and numpy agree on every row.
    accuracy = core.evaluate(learner, core.start(learner), data, 0)["accuracy"]
    np.testing.assert_allclose(accuracy, [np.mean((INPUTS @ before).argmax(-1) == LABELS)], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_experiences": 0}, "scole: num_experiences expects a whole number"),
        ({"classes_per_experience": 6}, "classes_per_experience must be at most 5"),
        ({"probabilities": [1, 0, 0, 0, 0]}, "classes_per_experience must be at most 1"),
        ({"probabilities": [1, 1]}, "probabilities must be a number of at least 0 for each of the 5 classes"),
        ({"probabilities": [1, 1, 1, 1, np.nan]}, "probabilities must be a number of at least 0"),
        ({"heads": "seen"}, "scole: heads must be one of 'all', 'task'"),
    ],
)
def test_refuses_in_one_sentence(options, says):
    with pytest.raises(ValueError, match=says):
        streams.scole(SOURCE, **{"num_experiences": 3, **options})
