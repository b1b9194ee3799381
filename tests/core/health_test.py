"""Numbers that go wrong are found, their step and leaf are named, and skipping a step is as if it had not been."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, testing

STEPS = 6


def poisoned(where, at, value=jnp.nan, seed=None, **options):
    """A learner whose numbers go wrong when `at` steps are done, in runs of one seed or of all."""

    in_step = where in ("loss", "gradient")  # the state is the number of steps done, else something of its own

    def loss(s, params, ctx):
        if where == "loss":
            return jnp.where(s == at, value, 0.0), {}
        if where == "gradient":
            # sqrt at 0: its value is 0, its slope is infinite.
            return jnp.sqrt(jnp.where(s == at, 0.0, 1.0) * jnp.sum(1 + params["head"]["bias"] ** 2)), {}
        return 0.0, {}

    def hook(name):
        def run(s, ts, ctx):
            hit = ts.step == at
            if seed is not None:
                hit &= jax.random.key_data(ts.rng)[-1] == seed
            if where == name:
                ts = ts._replace(model_state=jax.tree.map(lambda x: jnp.where(hit, value, x), ts.model_state))
            s = ts.step if in_step else s
            return (jnp.where(hit, value, s) if where == f"own {name}" else s), ts

        return run

    def init(rng, params, ctx):
        return jnp.int32(0) if in_step else jnp.float32(0)

    method = core.Method("poison", init=init, loss=loss, begin=hook("begin"), update=hook("update"), end=hook("end"))
    return core.make_learner(
        testing.standard_model(),
        core.chain(continual.er(20), method),
        optax.adamw(3e-3),
        testing.standard_stream(),
        batch_size=8,
        steps=STEPS,
        **options,
    )


def first_broken(learner, seed=0, length=4):
    """The steps of the run at the first event that is broken, as a run would see it."""
    data, state, done = core.to_device(learner.stream), core.start(learner, seed), 0
    for event in core.iterate(learner, data, state, chunk_steps=lambda: length):
        done = int(np.ravel(event.state.step)[0])
        if core.broken(event.state, event.record).any():
            return data, done
    return data, None


@pytest.mark.parametrize(
    ("where", "at", "what", "step", "leaf"),
    [
        ("loss", 8, "the loss", 8, ()),
        ("gradient", 9, "the gradient", 9, ("params.head.bias",)),
        (
            "update",
            9,
            "the state after the update",
            8,
            ("model_state.batch_stats.BatchNorm_0.mean", "model_state.batch_stats.BatchNorm_0.var"),
        ),
        ("own update", 9, "the state after the update", 8, ("method_state.poison",)),
        (
            "begin",
            6,
            "the state after begin",
            6,
            ("model_state.batch_stats.BatchNorm_0.mean", "model_state.batch_stats.BatchNorm_0.var"),
        ),
        ("own end", 12, "the state after end", 11, ("method_state.poison",)),
    ],
)
def test_the_step_and_the_leaf_are_found(where, at, what, step, leaf):
    learner = poisoned(where, at)
    data, until = first_broken(learner)
    assert until is not None and until - 4 <= step + 1 <= until
    found = core.locate(learner, data, core.start(learner, 0), until)
    assert (found.what, found.step, found.experience, found.seeds) == (what, step, step // STEPS, (0,))
    assert set(leaf) <= set(found.leaves) and len(found.leaves) == len(leaf)
    assert str(found).startswith(f"{what} of step {step + 1} (experience {step // STEPS}) is not finite")


def test_the_seed_is_found():
    learner = poisoned("update", 9, seed=7)
    data, until = first_broken(learner, [5, 7, 3])
    found = core.locate(learner, data, core.start(learner, [5, 7, 3]), until)
    assert (found.seeds, found.step) == ((1,), 8)


def test_a_healthy_run_has_no_breakdown():
    learner = poisoned("nowhere", 0)
    data, until = first_broken(learner)
    assert until is None
    assert core.locate(learner, data, core.start(learner, 0), 3 * STEPS) is None


def test_what_a_method_keeps_may_be_infinite():
    learner = poisoned("own update", 9, value=jnp.inf)
    assert first_broken(learner)[1] is None
    assert first_broken(poisoned("update", 9, value=jnp.inf))[1] is not None


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def test_a_skipped_step_changes_nothing_but_the_count():
    learner = poisoned("update", 3, skip_nonfinite=True)
    data, state = core.to_device(learner.stream), core.start(learner, 0)
    step = jax.jit(learner.step)
    for i in range(2):
        state, record = step(state, data, 0, i)
        assert record["skipped"] == 0 and record["loss"] > 0
    after, record = step(state, data, 0, 2)
    assert record["skipped"] == 1 and record["loss"] == 0 and after.step == 3
    for before, now in zip(leaves(state._replace(rng=0, step=0)), leaves(after._replace(rng=0, step=0)), strict=True):
        np.testing.assert_array_equal(before, now)
    # The record of a chunk is the mean of the steps that were taken.
    records = []
    for i in range(3, 6):
        after, record = step(after, data, 0, i)
        records.append(record)
    _, mean = jax.jit(learner.chunk)(state, data, 0, 2, 4)
    assert mean["skipped"] == 1
    np.testing.assert_allclose(mean["loss"], np.mean([r["loss"] for r in records]), rtol=1e-5)


@pytest.mark.parametrize("where", ["gradient", "update"])
def test_a_run_that_skips_stays_whole(where):
    learner = poisoned(where, 7, skip_nonfinite=True)
    result = core.run_stream(learner, seed=[0, 1])
    assert not core.broken(result.state).any() and (result.state.step == 3 * STEPS).all()
    assert core.broken(core.run_stream(poisoned(where, 7), seed=[0, 1]).state).all()


def test_a_run_without_accidents_is_the_same_with_and_without_skipping():
    with_it, without = (
        core.run_stream(poisoned("nowhere", 0, skip_nonfinite=skip), jit=True) for skip in (True, False)
    )
    for a, b in zip(leaves(with_it.state.params), leaves(without.state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
