"""Methods and chains: names, order, routes, and the sentences for what cannot work."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, testing
from tests.short import short_learner
from tests.short import short_run as run


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


NOTHING = core.Method("nothing", loss=lambda s, params, ctx: (0.0 * optax.tree.sum(params), {}))


def test_chain_flattens_and_names_states_uniquely():
    a, b, c = continual.er(10), continual.ewc(1.0), continual.er(20)
    assert [p.name for p in core.chain(a, core.chain(b, c)).parts] == ["er", "ewc", "er"]
    assert core.chain(core.chain(a, b), c).parts == core.chain(a, core.chain(b, c)).parts
    assert core.chain(core.identity(), a).parts == core.chain(a).parts
    state = run(core.chain(a, b, c))
    assert set(state.method_state) == {"er", "ewc", "er_1"}
    assert state.method_state["er_1"].buffer.records["row"].shape == (20,)


def test_random_numbers_follow_the_name_not_the_position():
    alone = run(continual.er(10))
    beside = run(core.chain(NOTHING, continual.er(10)))
    assert_same(alone.params, beside.params)
    assert_same(alone.method_state["er"], beside.method_state["er"])


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_switched_off_neighbour_changes_nothing(place):
    off = continual.ewc(0.0)
    chained = core.chain(off, continual.er(10)) if place == "before" else core.chain(continual.er(10), off)
    plain, beside = run(continual.er(10)), run(chained)
    assert_same(plain.method_state["er"], beside.method_state["er"])
    for x, y in zip(jax.tree.leaves(plain.params), jax.tree.leaves(beside.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)  # another program rounds in other places


def test_every_hook_step_experience_and_seed_has_random_numbers_of_its_own():
    def note(hook):
        def run(s, ts, ctx):
            place = 3 * ctx.experience.index + {"begin": 0, "update": 1, "end": 2}[hook]
            return s.at[place].set(jax.random.bits(ctx.rng, (2,))), ts

        return run

    def both(s, ts, ctx):
        s, ts = note("update")(s, ts, ctx)
        # Two steps an experience: the first one's numbers go to a row of their own.
        return s.at[6 + ts.step].set(jax.random.bits(ctx.rng, (2,))), ts

    spy = core.Method(
        "spy",
        init=lambda *_: jnp.zeros((12, 2), jnp.uint32),
        begin=note("begin"),
        update=both,
        end=note("end"),
    )
    tables = [np.asarray(run(spy, steps=2, seed=seed).method_state["spy"]) for seed in (0, 1)]
    drawn = [tuple(row) for table in tables for row in table[[0, 2, 3, 5, 7, 8, 9, 10]]]
    assert len(set(drawn)) == len(drawn) == 16 and (0, 0) not in drawn
    np.testing.assert_array_equal(tables[0], np.asarray(run(spy, steps=2).method_state["spy"]))


def test_two_methods_of_one_name_draw_different_numbers():
    state = run(core.chain(continual.er(10), continual.er(10)), steps=40)
    rows = [np.sort(state.method_state[name].buffer.records["row"]) for name in ("er", "er_1")]
    assert not np.array_equal(*rows)


def scaled(name, factor, seen):
    """A method whose optimizer wrapper multiplies gradients by its own state's factor, and updates by 1 + factor."""

    def optimizer(tx):
        def update(grads, state, params=None, *, method_state, ctx, **extra):
            seen.append((name, ctx.name, jax.tree.map(jnp.shape, method_state)))
            grads = jax.tree.map(lambda g: g * method_state, grads)
            updates, state = tx.update(grads, state, params, method_state=method_state, ctx=ctx, **extra)
            return jax.tree.map(lambda u: u + factor, updates), state

        return optax.GradientTransformationExtraArgs(tx.init, update)

    return core.Method(name, init=lambda rng, params, ctx: jnp.asarray(factor), optimizer=optimizer)


def test_the_first_method_is_the_outermost_and_each_sees_its_own_state():
    # u = -lr * (2 * 3 * g); the inner adds 3, then the outer adds 2.
    seen = []
    stream = testing.standard_stream()
    method = core.chain(scaled("two", 2.0, seen), continual.er(10), scaled("three", 3.0, seen))
    learner = core.make_learner(testing.standard_model(), method, optax.sgd(0.5), stream, batch_size=8, steps=1)
    grads = []
    watch = core.Method("watch", update=lambda s, ts, ctx: (grads.append(ctx.grads) or s, ts))
    data = core.to_device(stream)
    before = core.start(learner, 0)
    after, _ = jax.jit(learner.step)(before, data, 0, 0)
    watcher = core.make_learner(
        testing.standard_model(), core.chain(continual.er(10), watch), optax.sgd(0.5), stream, batch_size=8, steps=1
    )
    with jax.disable_jit():
        watcher.step(core.start(watcher, 0), data, jnp.int32(0), jnp.int32(0))
    for p, q, g in zip(
        jax.tree.leaves(before.params), jax.tree.leaves(after.params), jax.tree.leaves(grads[0]), strict=True
    ):
        np.testing.assert_allclose(q, p - 0.5 * 6 * g + 3 + 2, rtol=2e-4, atol=2e-5)
    assert [(name, slot) for name, slot, _ in seen] == [("two", "two"), ("three", "three")]
    assert all(shape == () for _, _, shape in seen)


def test_model_and_problem_wrappers_nest_like_the_optimizers():
    def named(name, order):
        def model(inner):
            def apply(*args, **options):
                order.append(name)
                return inner.apply(*args, **options)

            return core.Model(inner.init, apply)

        def problem(inner):
            def loss(outputs, batch):
                order.append(f"{name}.loss")
                return inner.loss(outputs, batch)

            return core.Problem(loss, inner.metrics)

        return core.Method(name, model=model, problem=problem)

    order = []
    stream = testing.standard_stream()
    method = core.chain(named("outer", order), named("inner", order))
    learner = core.make_learner(testing.standard_model(), method, optax.sgd(0.1), stream, batch_size=8, steps=1)
    order.clear()
    state = jax.eval_shape(learner.init, jax.random.key(0))
    jax.eval_shape(learner.step, state, core.to_device(stream), jnp.int32(0), jnp.int32(0))
    assert order[:4] == ["outer", "inner", "outer.loss", "inner.loss"]


def test_before_and_after_wrap_the_optimizer_on_their_side():
    clip = core.Method("clip", optimizer=core.before(optax.clip_by_global_norm(1e-3)))
    double = core.Method("double", optimizer=core.after(optax.scale(2.0)))
    clipped = run(clip, optimizer=optax.sgd(1.0), steps=1)
    doubled = run(core.chain(double, clip), optimizer=optax.sgd(1.0), steps=1)
    start = run_start(core.identity())
    moved = optax.tree.norm(optax.tree.sub(clipped.params, start.params))
    # Two experiences of one step each; every step moves by at most the clip.
    assert 1e-3 < moved <= 2e-3 * 1.001
    twice = optax.tree.norm(optax.tree.sub(doubled.params, start.params))
    np.testing.assert_allclose(twice, 2 * moved, rtol=0.05)


def run_start(method):
    return core.start(short_learner(method), 0)


def test_a_partition_outside_of_a_projection_is_refused_with_the_order_that_works():
    def labels(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "keys" if "bias" in jax.tree_util.keystr(path) else "rest", params
        )

    keys = core.Method("keys", optimizer=lambda tx: optax.partition({"keys": optax.sgd(1.0), "rest": tx}, labels))
    projection = core.Method("projection", optimizer=core.after(optax.scale(0.5)))
    with pytest.raises(ValueError, match="projection sits inside the partition of keys.*put keys last"):
        run(core.chain(keys, projection), steps=1)
    state = run(core.chain(projection, keys), steps=1)
    assert np.isfinite(jax.tree.leaves(state.params)[0]).all()


def test_hooks_run_from_left_to_right_and_see_earlier_edits():
    def add(name, amount):
        def update(s, ts, ctx):
            return s, ts._replace(params=jax.tree.map(lambda p: p + amount, ts.params))

        return core.Method(name, update=update)

    def keep(s, ts, ctx):
        return jax.tree.leaves(ts.params)[0], ts

    def first(rng, params, ctx):
        return jax.tree.leaves(params)[0]

    last = core.Method("last", init=first, update=keep)
    state = run(core.chain(add("a", 1.0), add("b", 2.0), last), optimizer=optax.set_to_zero(), steps=1)
    np.testing.assert_array_equal(state.method_state["last"], jax.tree.leaves(state.params)[0])


@pytest.mark.parametrize("hook", ["begin", "end"])
def test_at_an_edge_the_forward_pass_is_that_of_the_network_that_methods_before_left(hook):
    def changed(tree):
        return jax.tree.map(lambda x: 1.5 * x + 1, tree)

    def change(s, ts, ctx):
        return s, ts._replace(params=changed(ts.params), model_state=changed(ts.model_state))

    def look(s, ts, ctx):
        return {"params": ctx.params, "model_state": ctx.model_state}, ts

    def init(rng, params, ctx):
        return {"params": params, "model_state": ctx.model_state}

    looking = core.Method("looking", init=init, **{hook: look})
    learner = short_learner(core.chain(core.Method("first", **{hook: change}), looking))
    state, data = core.start(learner), core.to_device(learner.stream)
    after = jax.jit(getattr(learner, hook))(state, data, 0)
    assert jax.tree.leaves(state.model_state)
    assert_same(after.method_state["looking"], {"params": after.params, "model_state": after.model_state})
    for new, old in zip(jax.tree.leaves(after.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(new, 1.5 * old + 1, rtol=1e-6)


def broken(hook, function):
    return core.Method("broken", **{hook: function})


def reads(field):
    return broken("augment", lambda s, batch, ctx: {**batch, "weights": batch[field][:, 0]})


STRUCTURE = [
    (
        broken("update", lambda s, ts, ctx: ((), ts._replace(params={}))),
        TypeError,
        "broken.update changed the structure of the train state",
    ),
    (
        core.Method("broken", init=lambda *_: jnp.zeros(3), end=lambda s, ts, ctx: (jnp.zeros(4), ts)),
        TypeError,
        r"broken.end changed its state: expected float32\[3\], got float32\[4\]",
    ),
    (
        core.Method("broken", init=lambda *_: jnp.zeros(3), update=lambda s, ts, ctx: (s.astype(jnp.bfloat16), ts)),
        TypeError,
        r"expected float32\[3\], got bfloat16\[3\]",
    ),
    (reads("targets"), KeyError, "broken.augment reads batch.'targets'.*put the one that adds it first"),
    (reads("memory"), KeyError, "put the memory first"),
    (reads("classes"), KeyError, "streams with heads='seen' or 'task' only"),
    (
        broken("loss", lambda s, p, ctx: (ctx.grads, {})),
        AttributeError,
        "ctx.grads exists in optimizer and update, not in loss",
    ),
    (broken("augment", lambda s, b, ctx: ctx.outputs), AttributeError, "ctx.outputs exists in .*, not in augment"),
    (broken("begin", lambda s, ts, ctx: ctx.batch), AttributeError, "ctx.batch exists in .*, not in begin"),
    (broken("update", lambda s, ts, ctx: ctx.scan), AttributeError, "ctx.scan exists in begin and end, not in update"),
    (core.Method("broken", init=lambda rng, p, ctx: ctx.fetch), AttributeError, "ctx.fetch exists in .*, not in init"),
]  # fmt: skip


@pytest.mark.parametrize("method, error, sentence", STRUCTURE)
def test_what_a_hook_may_not_do_is_one_sentence_that_names_it(method, error, sentence):
    with pytest.raises(error, match=sentence) as raised:
        run(method, steps=1)
    told = f"{raised.value} {' '.join(getattr(raised.value, '__notes__', []))}"
    assert "broken." in told


def test_chain_refuses_what_is_no_method():
    with pytest.raises(TypeError, match="call the factory"):
        core.chain(continual.er)
    with pytest.raises(TypeError, match="give an optax transform to the learner"):
        core.chain(optax.sgd(0.1))


def test_rows_are_appended_before_fields_are_added():
    def targets(s, batch, ctx):
        return {**batch, "targets": jax.nn.one_hot(batch["labels"], 6)}

    soft = core.Method("soft", augment=targets)
    run(core.chain(continual.er(10), soft), steps=1)
    with pytest.raises(ValueError, match="The appended rows have no targets: put the method that appends rows before"):
        run(core.chain(soft, continual.er(10)), steps=1)


def test_labels_that_the_protocol_hides_are_refused_in_a_sentence():
    hidden = testing.standard_stream()._replace(labels=False)
    with pytest.raises(ValueError, match="er needs labels, which standard hides"):
        run(continual.er(10), stream=hidden)
    silent = core.Method("silent", problem=lambda p: core.Problem(lambda o, b: jnp.zeros(len(b["inputs"])), p.metrics))
    reads_labels = core.Method("careless", update=lambda s, ts, ctx: (ctx.incoming["labels"], ts))
    with pytest.raises(KeyError, match="careless.update reads batch.'labels'., which this stream hides"):
        run(core.chain(silent, reads_labels), stream=hidden, steps=1)
    state = run(silent, stream=hidden, steps=1, online=True)
    assert state.step == 2
