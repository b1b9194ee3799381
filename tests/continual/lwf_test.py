"""LwF against its loss written out, for heads of tasks and for one head."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, testing
from tests.short import short_learner, short_run
from tests.taught import spy

TAU = 3.0


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def by_hand(logits, teacher, groups):
    """The sum over groups (student's classes, teacher's classes) of the cross-entropy at temperature TAU: [B]."""
    total = np.zeros(len(logits))
    for student, old in groups:
        wanted = np.zeros_like(logits)
        wanted[:, old] = softmax(teacher[:, old] / TAU)
        total += -(wanted[:, student] * np.log(softmax(logits[:, student] / TAU))).sum(-1)
    return total


def stream_of(heads):
    if heads == "task":
        return testing.standard_stream(task_known=True)
    return testing.standard_stream()._replace(heads=heads)


GROUPS = {  # in the third experience, of classes 0 to 5
    "task": [([0, 1], [0, 1]), ([2, 3], [2, 3])],
    "all": [(range(6), range(6))] * 2,
    "seen": [(range(6), range(4))] * 2,
}


@pytest.mark.parametrize("heads", GROUPS)
def test_the_loss_is_one_term_for_each_earlier_experience_written_out(heads):
    """Of a step in the third experience, some steps away from the teacher."""
    learner = short_learner(core.chain(continual.lwf(0.7, temperature=TAU), spy()), stream=stream_of(heads), steps=4)
    events = core.iterate(learner, core.to_device(learner.stream), core.start(learner))
    states = [jax.tree.map(np.array, event.state.method_state["spy"][1]) for event in events]
    seen = {k: np.float64(v) for k, v in states[2].items()}
    weights = seen["weights"]
    logits = np.where(seen["classes"] > 0, seen["logits"], -1e9)
    plain = -np.log(softmax(logits)[np.arange(8), seen["labels"].astype(int)])
    added = by_hand(seen["logits"], seen["old_logits"], GROUPS[heads])
    assert np.ptp(added) > 1e-3 and np.abs(seen["logits"] - seen["old_logits"]).max() > 0.01
    expected = ((plain + 0.7 * added) * weights).sum() / weights.sum()
    np.testing.assert_allclose(seen["value"], expected, rtol=1e-4)


def test_the_first_experience_and_lam_0_are_plain_training():
    plain = short_run(core.identity(), optimizer=optax.sgd(0.05), steps=6)
    for method, experiences in ((continual.lwf(5.0), 1), (continual.lwf(0.0), 2)):
        one = short_run(method, optimizer=optax.sgd(0.05), steps=6, experiences=experiences)
        other = (
            plain if experiences == 2 else short_run(core.identity(), optimizer=optax.sgd(0.05), steps=6, experiences=1)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one.params, other.params)


def test_a_strong_one_holds_the_answers_of_old_heads_to_the_new_inputs():
    # Without BatchNorm: its statistics follow the new inputs, whatever is distilled.
    stream, model = stream_of("task"), core.from_linen(models.MLP(6, hidden=(16,)))
    moved = []
    for lam in (0.0, 5.0):
        learner = short_learner(continual.lwf(lam), model=model, stream=stream, steps=30, optimizer=optax.sgd(0.1))
        data, state = core.to_device(stream), core.start(learner)
        state = core.run_experience(learner, state, data, 0)
        rows = data.experiences["train"].rows[1, : data.experiences["train"].size[1]]
        inputs = data.source["train"]["inputs"][rows][:, data.origins.view[1]]

        def answers(params, inputs=inputs):
            logits = model.apply(core.Variables(params, {}), inputs)[0].logits
            return jax.nn.softmax(logits[:, :2])

        before = np.array(answers(state.params))
        state = core.run_experience(learner, state, data, 1)
        moved.append(np.abs(answers(state.params) - before).mean())
    assert moved[1] < 0.5 * moved[0]


def test_it_reads_no_labels():
    hidden = testing.standard_stream()._replace(labels=False)
    problem = core.Problem(
        lambda outputs, batch: jnp.square(outputs.logits).mean(-1), lambda outputs, batch: {"x": batch["labels"] * 1.0}
    )
    state = short_run(continual.lwf(), stream=hidden, steps=3, problem=problem)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_what_it_refuses():
    with pytest.raises(ValueError, match="lam must be 0 or above"):
        continual.lwf(-1.0)
    with pytest.raises(ValueError, match="temperature must be"):
        continual.lwf(temperature=0.0)
