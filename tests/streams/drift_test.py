"""Drift: who arrives when, against probabilities; and what a learner's prequential accuracy shows of it."""

import jax
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression

from ctrain_jax import core, models, streams

SEA = [streams.sea(k, 4000, noise=0.0) for k in range(4)]


def _owners(**options):
    return streams.drifting(SEA[:3], 30, size=200, **options).experiences["train"].origin


def test_abrupt_and_recurring_drift():
    assert (_owners() == np.repeat([0, 1, 2], 10)[:, None]).all()
    assert (_owners(order=(0, 2, 0, 2, 0)) == np.repeat([0, 2, 0, 2, 0], 6)[:, None]).all()
    within = streams.drifting(SEA[:2], 5, size=100).experiences["train"].origin  # a change within an experience
    assert within.sum(1).tolist() == [0, 0, 50, 100, 100]


def test_gradual_drift_is_a_sigmoid():
    width, owner = 4.0, streams.drifting(SEA[:2], 20, size=1000, width=4.0).experiences["train"].origin
    for t in range(20):
        chance = np.mean([1 / (1 + np.exp(-4 * (t + j - 10) / width)) for j in np.linspace(0.0005, 0.9995, 1000)])
        assert abs(owner[t].mean() - chance) < 4 * np.sqrt(chance * (1 - chance) / 1000) + 1e-3
    again = streams.drifting(SEA[:2], 20, size=1000, width=width).experiences["train"]
    other = streams.drifting(SEA[:2], 20, size=1000, width=width, seed=1).experiences["train"]
    np.testing.assert_array_equal(owner, again.origin)
    assert (owner != other.origin).any()


def test_rows_belong_to_their_concept_and_come_in_its_order():
    stream = streams.drifting(SEA[:3], 30, order=(0, 2, 0), width=1.5, size=500)
    train = stream.experiences["train"]
    rows, origin = train.rows.ravel(), train.origin.ravel()
    for k in (0, 2):
        own = rows[origin == k]
        np.testing.assert_array_equal(own, 4000 * k + np.arange(len(own)) % 4000)  # and begins again
        np.testing.assert_array_equal(stream.source.train["inputs"][own[:9]], SEA[k].train["inputs"][:9])
    assert (origin == 0).sum() > 4000 and not (origin == 1).any()
    test = stream.experiences["test"]
    for k in range(3):
        inputs = stream.source.test["inputs"][test.rows[k, : test.size[k]]]
        np.testing.assert_array_equal(inputs, SEA[k].test["inputs"])
        assert (test.origin[k] == k).all()
    assert not stream.boundaries and stream.labels and stream.origins.task.tolist() == [0, 1, 2]
    assert streams.drifting(SEA[:2], 16).experiences["train"].size.tolist() == [500] * 16


def test_sea_and_hyperplane():
    for k, theta in enumerate((8.0, 9.0, 7.0, 9.5)):
        x, y = SEA[k].train["inputs"], SEA[k].train["labels"]
        assert (y == (x[:, 0] + x[:, 1] > theta)).all() and 0 <= x.min() < 0.1 and 9.9 < x.max() <= 10
    noisy = streams.sea(0, 20_000, noise=0.1)
    for part, rate in ((noisy.train, 0.1), (noisy.test, 0.0)):
        wrong = part["labels"] != (part["inputs"][:, :2].sum(1) > 8)
        assert abs(wrong.mean() - rate) < 4 * np.sqrt(0.09 / 20_000) * (rate > 0) + 1e-9
    made = {a: streams.hyperplane(a, 5000, noise=0.0) for a in (0, 30, 60, 180, 360)}
    assert (made[0].train["inputs"] != made[60].train["inputs"]).any()

    def weights(source):
        x, y = source.train["inputs"] - 0.5, source.train["labels"]
        w = LogisticRegression(C=1e4, fit_intercept=False).fit(x, y).coef_[0]
        return w / np.linalg.norm(w)

    for angle, cosine in ((30, 0.866), (60, 0.5), (180, -1.0), (360, 1.0)):
        assert abs(weights(made[0]) @ weights(made[angle]) - cosine) < 0.02


def test_series_windows():
    values = np.arange(40.0)[:, None] * [1.0, -1.0]
    source = streams.series(values, 5, test_fraction=0.2)
    for part in (source.train, source.test):
        for window, label in zip(part["inputs"], part["labels"], strict=True):
            np.testing.assert_array_equal(window, np.arange(label[0] - 5, label[0])[:, None] * [1, -1])
    assert source.train["labels"][:, 0].max() < source.test["inputs"][0, 0, 0]
    assert len(source.test["labels"]) == 7 and source.num_classes == 2
    waves = [streams.series(np.sin(np.arange(400) * speed), 8) for speed in (0.3, 0.7)]
    stream = streams.drifting(waves, 4)
    assert (np.diff(stream.experiences["train"].rows, axis=1) == 1).all()  # in time


def test_prequential_accuracy_shows_the_drift_and_the_return():
    """Concepts that contradict each other: accuracy falls where the drift is, and comes back."""
    concepts = [streams.hyperplane(a, 4000, num_features=4, noise=0.0) for a in (0.0, 180.0)]
    stream = streams.drifting(concepts, 8, order=(0, 1), size=640)
    model = core.from_linen(models.MLP(2, hidden=()))
    learner = core.make_learner(model, core.identity(), optax.sgd(2.0), stream, batch_size=32, online=True)
    ts, data, chunk = core.start(learner, 0), core.to_device(stream), jax.jit(learner.chunk)
    accuracy = []
    for t in range(8):
        ts, first = chunk(ts, data, t, 0, 2)
        ts, rest = chunk(ts, data, t, 2, 18)
        accuracy.append((float(first["online_accuracy"]), float(rest["online_accuracy"])))
    assert min(accuracy[3]) > 0.85 and accuracy[4][0] < 0.5 < 0.85 < min(accuracy[7])


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: streams.drifting([], 3), "concepts must be a sequence of sources, got none"),
        (lambda: streams.drifting([SEA[0], streams.hyperplane(0)], 3), "must agree .* got sea and hyperplane"),
        (lambda: streams.drifting([SEA[0], SEA[1]._replace(mean=None)], 3), "must agree in .* mean and std"),
        (lambda: streams.drifting(SEA, 0), "num_experiences expects a whole number of at least 1, got 0"),
        (lambda: streams.drifting(SEA, 4, order=(0, 4)), r"their places, 0 to 3, got \(0, 4\)"),
        (lambda: streams.drifting(SEA, 4, order=()), "name at least one"),
        (lambda: streams.drifting(SEA, 4, width=-1.0), "width must be 0 or a finite number .* got -1.0"),
        (lambda: streams.drifting(SEA, 4, size=4001), r"of 4001 rows needs concepts of as many, got \[4000"),
        (lambda: streams.sea(4), "concept must be 0, 1, 2 or 3, got 4"),
        (lambda: streams.sea(0, noise=2.0), "noise must be between 0 and 1"),
        (lambda: streams.hyperplane(np.nan), "a finite angle and at least 2 features"),
        (lambda: streams.series(np.ones(9), 8), r"got shape \(9,\) for windows of 8"),
        (lambda: streams.series(np.ones((9, 2, 2)), 1), r"values must be \[N\] or \[N, k\]"),
    ],
)
def test_refuses_in_one_sentence(build, says):
    with pytest.raises(ValueError, match=says) as caught:
        build()
    assert "\n" not in str(caught.value)
