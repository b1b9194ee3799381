"""Whole runs: chunks, fused streams, seeds, restarts and the debug mode are one run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, streams, testing
from tests.short import short_learner, short_run


def method():
    return core.chain(continual.ewc(1.0, online=True), continual.er(20))


@functools.cache
def setting():
    learner = short_learner(method())
    return learner, core.to_device(learner.stream)


@functools.cache
def whole():
    return core.run_stream(setting()[0], 0, data=setting()[1])


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jnp.floating):
            np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5)
        elif not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(x, y)


def test_a_run_learns_what_arrives_and_returns_a_matrix():
    result = whole()
    assert result.accuracy.shape == (3, 3) and result.baseline["accuracy"].shape == (3,)
    assert float(result.accuracy[-1].mean()) > float(result.baseline["accuracy"].mean()) + 0.2
    assert int(result.state.step) == 36


@pytest.mark.parametrize("length", [1, 5, 7])
def test_any_length_of_chunks_gives_the_same_bits(length):
    learner, data = setting()
    for event in core.iterate(learner, data, core.start(learner, 0), chunk_steps=lambda: length):
        state = event.state
    same(whole().state, state)


def test_experiences_one_by_one_are_the_run():
    learner, data = setting()
    state = core.start(learner, 0)
    for t in range(3):
        state = core.run_experience(learner, state, data, t)
    same(whole().state, state)
    same(core.evaluate(learner, state, data, 2), jax.tree.map(lambda m: m[-1], whole().metrics))


def test_the_place_in_the_stream_follows_from_the_state():
    learner, data = setting()
    events = core.iterate(learner, data, core.start(learner, 0), chunk_steps=lambda: 9)
    seen = [(event.experience, event.step, core.position(learner, event.state)) for event in events]
    assert seen == [
        (0, 9, (0, 9)), (0, 12, (1, 0)), (1, 9, (1, 9)), (1, 12, (2, 0)), (2, 9, (2, 9)), (2, 12, (3, 0)),
    ]  # fmt: skip
    assert list(core.iterate(learner, data, whole().state)) == []


def test_the_fused_stream_is_the_chunked_one_to_rounding():
    learner, data = setting()
    fused = jax.jit(functools.partial(core.run_fused, learner))(data, jax.random.key(0))
    close(whole().state, fused.state)
    np.testing.assert_allclose(whole().accuracy, fused.accuracy, atol=0.03)
    close(whole().baseline, fused.baseline)


def test_a_seed_of_a_sweep_is_its_single_run_to_rounding():
    learner, data = setting()
    swept = core.run_stream(learner, [3, 0], data=data)
    close(jax.tree.map(lambda x: x[1], swept.state), whole().state)
    np.testing.assert_allclose(swept.accuracy[1], whole().accuracy, atol=0.03)
    assert not np.array_equal(*swept.state.params["Dense_0"]["kernel"])


def test_vmapped_seeds_are_the_mapped_ones_to_rounding():
    """What accelerators do, here on the CPU."""
    learner, data = setting()
    keys = jnp.stack([jax.random.key(s) for s in (3, 0)])
    fused = jax.jit(jax.vmap(functools.partial(core.run_fused, learner), (None, 0)))(data, keys)
    close(jax.tree.map(lambda x: x[1], fused.state), whole().state)


def test_hyper_parameters_map_over_whole_runs():
    """lam is a tracer inside the factory, the learning rate inside inject_hyperparams."""
    stream = testing.standard_stream()
    data = core.to_device(stream)

    def run(lam, rate):
        method = core.chain(continual.ewc(lam, online=True), continual.er(20))
        tx = optax.inject_hyperparams(optax.adamw)(rate)
        return core.run_fused(short_learner(method, optimizer=tx), data, jax.random.key(0)).state.params

    lams, rates = jnp.asarray([0.0, 1.0, 1.0]), jnp.asarray([3e-3, 3e-3, 1e-3])
    params = jax.jit(core.mapped(run))(lams, rates)
    close(jax.tree.map(lambda x: x[1], params), whole().state.params)
    kernel = params["Dense_0"]["kernel"]
    assert not np.allclose(kernel[0], kernel[1]) and not np.allclose(kernel[1], kernel[2])


def test_mapped_is_vmap_in_its_values():
    def function(x, y, z):
        return {"sum": x + y, "product": x * z}

    x, z = jnp.arange(4.0), jnp.arange(4.0) + 1
    same(core.mapped(function, (0, None, 0))(x, 2.0, z), jax.vmap(function, (0, None, 0))(x, 2.0, z))


def test_training_starts_from_given_variables():
    learner, data = setting()
    trained = whole().state
    given = core.Variables(trained.params, trained.model_state)
    state = core.start(learner, 5, variables=given)
    same(state.params, trained.params)
    same(state.model_state, trained.model_state)
    same(state.method_state["ewc"].anchor, trained.params)
    result = core.run_stream(learner, 5, data=data, variables=given)
    np.testing.assert_allclose(result.baseline["accuracy"], whole().accuracy[-1], atol=1e-6)


def test_the_state_may_be_donated_right_after_the_edges():
    """begin that keeps a snapshot of params aliases them; the donated chunk must not collide with it."""
    snapshot = core.Method("snapshot", init=lambda rng, params, ctx: params, begin=lambda s, ts, ctx: (ts.params, ts))
    learner = short_learner(snapshot, steps=3)
    result = core.run_stream(learner, 0)
    kept = result.state.method_state["snapshot"]["Dense_0"]["kernel"]
    assert np.isfinite(kept).all() and not np.array_equal(kept, result.state.params["Dense_0"]["kernel"])


def test_a_chunk_moves_nothing_between_host_and_device():
    learner, data = setting()
    chunk = jax.jit(learner.chunk)
    place = [jax.device_put(np.int32(number)) for number in (1, 0, 5)]
    state = core.start(learner, 0)
    with jax.transfer_guard("disallow"):
        state, record = chunk(state, data, *place)
        jax.block_until_ready((state, record))
        with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
            chunk(state, data, *place[:2], np.int32(5))


def test_one_trace_for_a_stream_of_unequal_experiences():
    traces = []
    counter = core.Method("counter", update=lambda s, ts, ctx: (traces.append(1) or s, ts))
    learner = short_learner(counter, steps=None, epochs=2)
    assert len(set(learner.spec.steps)) == 3
    core.run_stream(learner, 0)
    assert len(traces) == 1


def test_a_state_of_python_numbers_is_traced_once_as_well():
    """Numbers of Python are weakly typed until something touches them; the second chunk must not be another program."""
    traces = []
    counter = core.Method("counter", init=lambda *_: 0.0, update=lambda s, ts, ctx: (traces.append(1) or s + 1, ts))
    learner = short_learner(counter, steps=3)
    result = core.run_stream(learner, 0)
    assert len(traces) == 1 and float(result.state.method_state["counter"]) == 9.0


def test_debug_mode_is_the_same_run_and_names_the_hook_the_experience_and_the_step():
    learner = short_learner(core.chain(continual.er(20)), steps=2)
    close(core.run_stream(learner, 0).state, core.run_stream(learner, 0, jit=False).state)

    def update(s, ts, ctx):
        if int(ts.step) == 4:  # a concrete number: only without jit
            raise FloatingPointError("loss is not finite")
        return s, ts

    failing = short_learner(core.chain(continual.er(20), core.Method("careful", update=update)), steps=2)
    with pytest.raises(FloatingPointError, match="not finite") as raised:
        core.run_stream(failing, 0, jit=False)
    assert raised.value.__notes__ == ["in careful.update", "at experience 1, step 1"]
    with pytest.raises(ValueError, match="jit=False runs one seed"):
        core.run_stream(learner, [0, 1], jit=False)


def test_pmap_of_the_step_works():
    learner, data = setting()
    states = jax.tree.map(lambda x: x[None], core.start(learner, 0))
    stepped, _ = jax.pmap(learner.step, in_axes=(0, None, None, None))(states, data, 0, 0)
    once, _ = jax.jit(learner.step)(core.start(learner, 0), data, 0, 0)
    close(jax.tree.map(lambda x: x[0], stepped), once)


def test_a_joint_stream_keeps_the_views_of_its_rows():
    """A row reaches the model through the view of the experience that it came from, whenever it arrives."""
    stream = testing.standard_stream()
    shapes = {"inputs": jnp.zeros((8, 12)), "row": jnp.zeros(8, jnp.int32), "experience": jnp.zeros(8, jnp.int32)}
    seen = core.Method(
        "seen", init=lambda *_: shapes, update=lambda s, ts, ctx: ({k: ctx.batch[k] for k in shapes}, ts)
    )
    learner = short_learner(seen, stream=streams.joint(stream), steps=None, epochs=12)
    data, step = core.to_device(learner.stream), jax.jit(learner.step)
    state, met = core.start(learner, 0), set()
    order, inputs = np.asarray(stream.origins.view), stream.source.train["inputs"]
    for i in range(4):
        state, _ = step(state, data, 0, i)
        batch = jax.tree.map(np.asarray, state.method_state["seen"])
        for x, row, origin in zip(batch["inputs"], batch["row"], batch["experience"], strict=True):
            assert origin == np.searchsorted([50, 87, 153], row, side="right")
            np.testing.assert_array_equal(x, inputs[row][order[origin]])
            met.add(int(origin))
    assert met == {0, 1, 2}
    result = core.run_stream(learner, 0)
    assert result.accuracy.shape == (1, 3) and float(result.accuracy.mean()) > 0.9


def test_evaluation_is_the_mean_over_exactly_the_rows_of_each_experience():
    learner, data = setting()
    stream, state = learner.stream, whole().state
    model = testing.standard_model()
    for t in range(3):
        size = int(stream.experiences["test"].size[t])
        rows = stream.experiences["test"].rows[t][:size]
        x = stream.source.test["inputs"][rows][:, np.asarray(stream.origins.view)[t]]
        answered = model.apply(core.Variables(state.params, state.model_state), x)[0].logits.argmax(-1)
        expected = np.mean(answered == stream.source.test["labels"][rows])
        np.testing.assert_allclose(core.evaluate(learner, state, data, 2)["accuracy"][t], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="no 'valid' split, only .'test', 'train'.: build it with valid_fraction"):
        core.evaluate(learner, state, data, 2, "valid")


@pytest.mark.parametrize("heads, width", [("task", 2), ("seen", 4)])
def test_heads_restrict_what_a_row_is_told_apart_from(heads, width):
    stream = testing.standard_stream(task_known=heads == "task")._replace(heads=heads)
    seen = core.Method(
        "seen",
        init=lambda *_: jnp.zeros((8, 6), bool),
        update=lambda s, ts, ctx: (ctx.batch["classes"], ts),
    )
    learner = short_learner(seen, stream=stream)
    state, _ = jax.jit(learner.step)(core.start(learner, 0), core.to_device(stream), 1, 0)
    expected = np.arange(6) // 2 == 1 if heads == "task" else np.arange(6) < 4
    assert expected.sum() == width
    np.testing.assert_array_equal(state.method_state["seen"], np.broadcast_to(expected, (8, 6)))


def test_mixed_precision_comes_from_the_model():
    """bfloat16 inside, float32 parameters, losses and states outside."""
    model = core.from_linen(models.MLP(6, hidden=(16,), dtype=jnp.bfloat16))
    state = short_run(core.chain(continual.er(20)), model=model, steps=20)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.float32)}
    full = short_run(core.chain(continual.er(20)), model=core.from_linen(models.MLP(6, hidden=(16,))), steps=20)
    kernels = [s.params["head"]["kernel"] for s in (state, full)]
    assert not np.array_equal(*kernels)
    np.testing.assert_allclose(*kernels, atol=0.05)
