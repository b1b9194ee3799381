"""BiC against the loss of a step written out, and against another minimiser of the correction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from ctrain_jax import continual, core
from ctrain_jax.continual.replay import BicState
from tests.rehearsed import answers, first_experience, log_softmax, rows_of, second_step


def make():
    return continual.bic(5, held_out=2, temperature=3.0)


def own(state) -> BicState:
    return jax.tree.map(np.asarray, state.method_state["bic"])


def among(held_out, rows, labels):
    """Which rows are held out."""
    return np.array([row in held_out.row[c][held_out.held[c]] for row, c in zip(rows, labels, strict=True)])


def test_a_step_distils_the_corrected_teacher_and_leaves_out_what_is_held_out():
    r = second_step(make)
    mine = r.before.method_state["bic"]
    scale, shift = np.array([0.5, 1.5, 1, 1, 1, 1]), np.array([0.3, -0.4, 0, 0, 0, 0])
    told = mine.told._replace(scale=jnp.asarray(scale, jnp.float32), shift=jnp.asarray(shift, jnp.float32))
    state = r.before._replace(method_state={**r.before.method_state, "bic": mine._replace(told=told)})
    zeros = 0
    for i in range(1, 4):
        after, record = r.chunk(state, r.data, 1, i, 1)
        batch = jax.tree.map(np.asarray, after.method_state["spy"])
        x, labels = rows_of(r.learner.stream, batch)
        # 6 exemplars are trained on, 37 rows are new; the fourth batch would be filled.
        weights = np.array([1] * 8 + [6 / 37] * 8) * ~among(own(state).held_out, batch["row"], labels)
        np.testing.assert_allclose(batch["weights"], weights, rtol=1e-6)
        zeros += np.sum(weights[:8] == 0)
        ours, old = answers(state.params, x)[0], answers(r.over.params, x)[0] * scale + shift
        wanted = np.exp(log_softmax(old[:, :2] / 3))
        distilled = -np.sum(wanted * log_softmax(ours[:, :2] / 3), 1)
        learned = -log_softmax(ours)[np.arange(16), labels]
        np.testing.assert_allclose(
            record["loss"], np.sum(weights * (learned + distilled) / 2) / weights.sum(), rtol=1e-5
        )
    assert zeros > 0


def test_the_correction_minimises_the_loss_on_rows_held_out():
    r = second_step(make)
    after = r.end(r.after, r.data, 1)
    mine = own(after)
    held = mine.held_out
    assert held.held.tolist() == [[True] * 2] * 4 + [[False] * 2] * 2
    assert not among(held, mine.kept.row[:4].ravel(), np.repeat(range(4), 3)).any() and mine.kept.held[:4].all()
    x, labels = rows_of(r.learner.stream, {"row": held.row[:4].ravel(), "experience": held.experience[:4].ravel()})
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    logits = answers(after.params, x)[0][:, :4]

    def loss(pair):
        z = logits * np.array([1, 1, pair[0], pair[0]]) + np.array([0, 0, pair[1], pair[1]])
        return -log_softmax(z)[np.arange(8), labels].mean() + 0.05 * pair[1] ** 2

    best = scipy.optimize.minimize(loss, [1.0, 0.0], method="BFGS").x
    assert np.abs(best - [1, 0]).max() > 0.1, "there is something to correct in this example"
    np.testing.assert_allclose(mine.correction.scale, [1, 1, best[0], best[0], 1, 1], atol=0.02)
    np.testing.assert_allclose(mine.correction.shift, [0, 0, best[1], best[1], 0, 0], atol=0.02)

    batch = {"inputs": jnp.asarray(x, jnp.float32), "weights": jnp.ones(8), "row": jnp.asarray(held.row[:4].ravel())}
    answered = jax.jit(r.learner.predict)(after, r.data, 1, batch).logits
    expected = answers(after.params, x)[0] * mine.correction.scale + mine.correction.shift
    np.testing.assert_allclose(answered, expected, rtol=1e-4, atol=1e-5)


def test_the_first_experience_is_plain_training_without_rows_held_out():
    r = second_step(make)
    mine = own(r.over)
    rows = jnp.asarray(mine.held_out.row[:2].ravel())
    assert len(set(rows.tolist())) == 4 and not mine.held_out.held[2:].any()

    def augment(s, batch, ctx):
        return batch | {"weights": batch["weights"] * ~jnp.isin(batch["row"], rows)}

    plain = first_experience(core.Method("fewer", augment=augment))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), r.trained.params, plain)
    assert mine.correction.scale.tolist() == [1] * 6 and mine.correction.shift.tolist() == [0] * 6


def test_what_it_refuses():
    for arguments, match in (
        ({"size": 0}, "size expects a whole number of at least 1, got 0"),
        ({"size": 5, "held_out": 0}, "held_out expects a whole number of at least 1, got 0"),
        ({"size": 5, "held_out": 5}, "held_out must be below size, got 5 of 5"),
        ({"size": 1}, "held_out must be below size, got 1 of 1"),
        ({"size": 5, "temperature": 0.0}, "temperature must be above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.bic(**arguments)
