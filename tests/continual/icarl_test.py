"""iCaRL against the loss, the herded sets and the nearest means written out from the rows of a run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, streams, testing
from tests.rehearsed import answers, first_experience, learner_of, rows_of, second_step, spy, unit


def make():
    return continual.icarl(4, temperature=2.0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_a_step_is_towards_the_old_network_on_the_union():
    r = second_step(make)
    seen = r.batch
    x, labels = rows_of(r.learner.stream, seen)
    assert set(labels[:8]) <= {2, 3} and set(labels[8:]) <= {0, 1} and set(seen["experience"][8:]) == {0}
    ours, old = sigmoid(answers(r.before.params, x)[0]), sigmoid(answers(r.over.params, x)[0] / 2.0)
    total, weights = 0.0, 0.0
    for row, label in enumerate(labels):
        # 8 exemplars are held, 37 rows are new.
        weight = 1.0 if row < 8 else 8 / 37
        for c in range(4):
            wanted = old[row, c] if c < 2 else float(c == label)
            total -= weight * (wanted * np.log(ours[row, c]) + (1 - wanted) * np.log(1 - ours[row, c]))
        weights += weight
    np.testing.assert_allclose(r.loss, total / weights, rtol=1e-5)


def test_exemplars_are_herded_and_the_answer_is_their_nearest_mean():
    r = second_step(make)
    stream, own = r.learner.stream, jax.tree.map(np.asarray, r.over.method_state["icarl"])
    train = stream.experiences["train"]
    everything = {"row": train.rows[0][:50], "experience": np.zeros(50, int)}
    x, labels = rows_of(stream, everything)
    features = unit(answers(r.over.params, x)[1])
    means = []
    for c in (0, 1):
        mine = np.flatnonzero(labels == c)
        mean, picked = features[mine].mean(0), []
        while len(picked) < 4:
            left = [i for i in mine if i not in picked]
            picked.append(min(left, key=lambda i: np.linalg.norm(mean - features[[*picked, i]].mean(0))))
        assert everything["row"][picked].tolist() == own.kept.row[c].tolist() and own.kept.held[c].all()
        means.append(unit(features[picked].mean(0)))
    np.testing.assert_allclose(own.means[:2], means, rtol=1e-4, atol=1e-6)
    assert not own.kept.held[2:].any() and not own.means[2:].any()

    batch = {"inputs": jnp.asarray(x, jnp.float32), "weights": jnp.ones(50), "row": jnp.asarray(everything["row"])}
    logits = np.asarray(jax.jit(r.learner.predict)(r.over, r.data, 0, batch).logits)
    live = features.any(-1)  # of a row without features every cosine is 0
    distances = np.square(features[:, None] - np.stack(means)).sum(-1)
    assert live.sum() > 40 and logits[live].argmax(-1).tolist() == distances[live].argmin(-1).tolist()
    np.testing.assert_allclose((2 - 2 * logits[:, :2])[live], distances[live], atol=1e-4)


def test_the_first_experience_is_plain_training_with_sigmoids_of_its_classes():

    def problem(plain):
        def loss(outputs, batch):
            labels = jax.nn.one_hot(batch["labels"], 6)
            return optax.sigmoid_binary_cross_entropy(outputs.logits, labels)[:, :2].sum(-1)

        return core.Problem(loss, plain.metrics)

    plain = first_experience(core.Method("sigmoids", problem=problem))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), second_step(make).trained.params, plain
    )


def test_where_classes_come_again_labels_are_learned_and_exemplars_are_shared():
    """Both classes in every experience: the old network is not asked, and each experience has its share."""
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(90, 12)).astype(np.float32), np.tile(np.arange(6), 15)
    stream = streams.domain_incremental(streams.arrays(inputs, labels, inputs, labels), 3)
    model = core.from_linen(models.MLP(2, hidden=(8,)))
    learner = core.make_learner(model, continual.icarl(6), optax.sgd(0.1), stream, batch_size=8, steps=4)
    data, state = core.to_device(stream), core.start(learner)
    for t in range(2):
        state = core.run_experience(learner, state, data, t)
    own = state.method_state["icarl"]
    assert np.asarray(own.kept.experience).tolist() == [[0, 1] * 3] * 2
    state = jax.jit(learner.begin)(state, data, 2)
    own = state.method_state["icarl"]
    other = own._replace(teacher=jax.tree.map(lambda p: p + 1.0, own.teacher))
    step = jax.jit(learner.step)
    stepped = [step(state._replace(method_state={"icarl": s}), data, 2, 0)[0].params for s in (own, other)]
    jax.tree.map(np.testing.assert_array_equal, *stepped)


def test_with_known_tasks_rows_are_told_apart_from_their_own_classes():
    learner = learner_of(continual.icarl(4), stream=testing.standard_stream(task_known=True), steps=3)
    data = core.to_device(learner.stream)
    begin, chunk, end = (jax.jit(f) for f in (learner.begin, learner.chunk, learner.end))
    state = end(chunk(begin(core.start(learner), data, 0), data, 0, 0, 3)[0], data, 0)
    before = begin(state, data, 1)
    own = before.method_state["icarl"]
    empty = own._replace(kept=own.kept._replace(held=jnp.zeros_like(own.kept.held)))
    for s, old_heads_move in ((own, True), (empty, False)):
        after, _ = chunk(before._replace(method_state={"icarl": s}), data, 1, 0, 2)
        moved = np.asarray(after.params["head"]["bias"] != before.params["head"]["bias"])
        assert moved.tolist() == [old_heads_move] * 2 + [True] * 2 + [False] * 2


def test_what_it_refuses():
    for arguments, match in (
        ({"size": 0}, "num expects a whole number of at least 1, got 0"),
        ({"size": 5, "temperature": 0.0}, "temperature must be above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.icarl(**arguments)


def test_rows_of_a_method_before_it_are_distilled_and_one_after_it_is_refused():
    def traced(*methods):
        learner = learner_of(*methods)
        state, data = jax.eval_shape(learner.init, jax.random.key(0)), core.to_device(learner.stream)
        return jax.eval_shape(learner.step, state, data, 0, 0)[0]

    batch = traced(continual.er(20, batch_size=5), continual.icarl(4), spy(8 + 5 + 8)).method_state["spy"]
    assert batch["row"].shape == (21,)
    with pytest.raises(
        ValueError, match="no known, targets: put the method that appends rows before the one that adds"
    ):
        traced(continual.icarl(4), continual.er(20))
