"""Task-free MAS: when importance is renewed, of which rows, and what it is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, testing
from ctrain_jax.continual.regularization._task_free_mas import UNSEEN, Watch, watched

STREAM, MODEL = testing.standard_stream(), testing.standard_model()


def plateaus(losses, window, mean, variance):
    """The steps at which a plateau is found, by the library and by the rule as it is written."""

    def step(watch, loss):
        return watched(watch, loss, mean, variance)

    start = Watch(jnp.full(window, UNSEEN), jnp.float32(0), jnp.bool_(True))
    found = np.flatnonzero(jax.lax.scan(step, start, jnp.asarray(losses, jnp.float32))[1])
    expected, limit, risen = [], 0.0, True
    for k in range(len(losses)):
        seen = np.asarray(losses[max(0, k + 1 - window) : k + 1], np.float64)
        risen = risen or seen.mean() > limit
        if len(seen) == window and risen and seen.mean() < mean and seen.var() < variance:
            expected.append(k)
            limit, risen = seen.mean() + seen.std(), False
    return found.tolist(), expected


def test_a_plateau_is_found_once_for_each_shift():
    """Three levels of loss, each falling, with noise that no window takes for a peak."""
    rng = np.random.default_rng(0)
    falling = 2 * np.exp(-np.arange(60) / 5) + 0.1
    trace = np.concatenate([falling, falling, falling]) + 0.005 * np.sin(np.arange(180))
    found, expected = plateaus(trace, 5, 0.2, 0.1)
    assert found == expected and [at // 60 for at in found] == [0, 1, 2]
    noisy = np.abs(rng.normal(0.3, 0.3, 300))
    found, expected = plateaus(noisy, 4, 0.35, 0.05)
    assert found == expected and len(found) > 5


def test_importance_is_the_mean_over_plateaus_of_stored_rows():
    """Thresholds that each step meets, and a peak each time: the rows stored are those of the largest losses."""
    method = continual.task_free_mas(0.5, size=3, window=1, mean=1e9, variance=1e9)
    learner = core.make_learner(MODEL, method, optax.sgd(0.05), STREAM, batch_size=8)
    data = core.to_device(STREAM)
    state = learner.begin(core.start(learner), data, 0)
    expected, stored, count = jax.tree.map(np.zeros_like, state.params), [], 0
    order = np.asarray(STREAM.origins.view[0])
    inputs, labels = (np.asarray(STREAM.source.train[name]) for name in ("inputs", "labels"))

    @jax.jit
    def answer(params, model_state, row):
        return MODEL.apply(core.Variables(params, model_state), row[None])[0].logits[0]

    slope = jax.jit(jax.grad(lambda *args: jnp.sum(jnp.square(answer(*args)))))
    for k in range(3):
        own = state.method_state["task_free_mas"]
        # A plateau that lies below every loss: the next window is a peak.
        own = own._replace(watch=own.watch._replace(limit=jnp.float32(-1)))
        state, _ = learner.step(state._replace(method_state={"task_free_mas": own}), data, 0, k)
        new = state.method_state["task_free_mas"]
        parts = [slope(state.params, state.model_state, jnp.asarray(inputs[row][order])) for row in stored]
        found = jax.tree.map(lambda z, *g: np.sum(np.abs(g), axis=0) / len(g) if g else z, expected, *parts)
        count += 1
        expected = jax.tree.map(lambda old, new, k=count: old + (new - old) / k, expected, found)
        for ours, theirs in zip(jax.tree.leaves(new.omega), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
        jax.tree.map(np.testing.assert_array_equal, new.anchor, state.params)
        stored = np.asarray(new.records["row"]).tolist()
        assert int(new.plateaus) == count and len(set(stored)) == 3 and min(stored) >= 0
    assert max(np.max(x) for x in jax.tree.leaves(expected)) > 0.1
    assert set(labels[stored].tolist()) <= {0, 1}
    away = jax.tree.map(lambda p: p + 0.1, state.params)
    value = 0.5 * 0.01 * sum(np.sum(o) for o in jax.tree.leaves(expected))
    np.testing.assert_allclose(method.loss(new, away, None)[0], value, rtol=1e-3)


def test_the_rows_of_the_largest_losses_are_stored_and_join_the_next_batch():
    seen = []

    def update(s, ts, ctx):
        losses = ctx.problem.loss(ctx.outputs, ctx.batch)
        jax.debug.callback(
            lambda *x: seen.append([np.asarray(v) for v in x]), ctx.batch["row"], ctx.batch["weights"], losses
        )
        return s, ts

    method = core.chain(continual.task_free_mas(0.0, size=4), core.Method("look", update=update))
    learner = core.make_learner(MODEL, method, optax.sgd(0.1), STREAM, batch_size=8, steps=3)
    state = core.run_experience(learner, core.start(learner), core.to_device(STREAM), 0)
    jax.effects_barrier()
    means = [np.average(losses, weights=weights) for _, weights, losses in seen]
    np.testing.assert_allclose(state.method_state["task_free_mas"].watch.window[-3:], means, rtol=1e-5)
    assert len(seen) == 3 and [w[8:].sum() for _, w, _ in seen] == [0, 4, 4]
    for (rows, weights, losses), (after, _, _) in zip(seen[:-1], seen[1:], strict=True):
        hard = rows[weights > 0][np.argsort(-losses[weights > 0])[:4]]
        assert set(after[8:].tolist()) == set(hard.tolist())


def test_what_it_refuses():
    for wrong, sentence in (
        ({"lam": -1.0}, "lam must be 0 or above"),
        ({"size": 0}, "size"),
        ({"window": 0}, "window"),
        ({"mean": 0.0}, "mean must be"),
        ({"variance": -1.0}, "variance must be"),
    ):
        with pytest.raises(ValueError, match=sentence):
            continual.task_free_mas(**{"lam": 1.0, **wrong})
