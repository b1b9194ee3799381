"""One step: what is minimised, what foreign optimizers are told, and what padding does not change."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, testing
from tests.short import short_learner, short_run


def close(a, b, rtol=1e-5, atol=1e-6):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def norm(a, b):
    return float(optax.tree.norm(optax.tree.sub(a, b)))


def test_a_step_is_the_step_of_a_hand_written_loop():
    """Plain SGD on the same batches, from the arrays alone: no part of core but the order of the rows."""
    learner = short_learner(core.identity(), optimizer=optax.sgd(0.1))
    data = core.to_device(learner.stream)
    state = core.start(learner, 0)
    model, params, stats = testing.standard_model(), state.params, state.model_state
    inputs, labels = learner.stream.source.train["inputs"], learner.stream.source.train["labels"]
    order = np.asarray(learner.stream.origins.view)
    seen = core.Method(
        "seen", init=lambda *_: jnp.zeros(8, jnp.int32), update=lambda s, ts, ctx: (ctx.batch["row"], ts)
    )
    watcher = short_learner(core.chain(seen), optimizer=optax.sgd(0.1))
    watched = core.start(watcher, 0)
    step, watch, gradient = jax.jit(learner.step), jax.jit(watcher.step), jax.jit(learner.gradient)
    for i in range(4):  # the fifth batch is padded
        watched, _ = watch(watched, data, 1, i)
        told, found = gradient(state, data, 1, i)
        state, record = step(state, data, 1, i)
        rows = np.asarray(watched.method_state["seen"])
        assert len(set(rows.tolist())) == 8
        x, y = inputs[rows][:, order[1]], labels[rows]

        def loss(params, stats=stats, x=x, y=y):
            outputs, new = model.apply(core.Variables(params, stats), x, train=True)
            picked = jnp.take_along_axis(jax.nn.log_softmax(outputs.logits), y[:, None], 1)
            return -picked.mean(), new

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        np.testing.assert_allclose(record["loss"], value, rtol=1e-5)
        np.testing.assert_allclose(told, value, rtol=1e-5)
        close(found, grads)
    close((state.params, state.model_state), (params, stats))


def test_padding_rows_are_real_rows_of_weight_zero():
    """Experience 1 has 37 rows: the fifth batch of 8 holds 5 rows and 3 from the beginning of the epoch."""
    fields = ("row", "weights", "experience")
    shapes = {"row": jnp.zeros(8, jnp.int32), "weights": jnp.zeros(8), "experience": jnp.zeros(8, jnp.int32)}
    seen = core.Method(
        "seen", init=lambda *_: shapes, update=lambda s, ts, ctx: ({k: ctx.batch[k] for k in fields}, ts)
    )
    learner = short_learner(seen)
    data, state, step = core.to_device(learner.stream), core.start(learner, 0), jax.jit(learner.step)
    epochs = []
    for epoch in range(2):
        rows = []
        for i in range(5):
            state, _ = step(state, data, 1, 5 * epoch + i)
            batch = jax.tree.map(np.asarray, state.method_state["seen"])
            rows.append(batch["row"][batch["weights"] > 0])
            assert set(batch["row"].tolist()) <= set(range(50, 87))
            assert batch["experience"].tolist() == [1] * 8
        assert batch["weights"].tolist() == [1] * 5 + [0] * 3
        assert batch["row"][5:].tolist() == rows[0][:3].tolist()
        epochs.append(np.concatenate(rows).tolist())
        assert sorted(epochs[-1]) == list(range(50, 87))
    assert epochs[0] != epochs[1]


def test_an_empty_memory_leaves_the_first_step_a_plain_one_batchnorm_included():
    def first(method):
        learner = short_learner(method, optimizer=optax.sgd(0.1))
        state, _ = jax.jit(learner.step)(core.start(learner, 0), core.to_device(learner.stream), 0, 0)
        return state.params, state.model_state

    plain = first(core.identity())
    close(plain, first(continual.er(10)), rtol=1e-5, atol=1e-6)
    close(plain, first(continual.er(10, batch_size=16)), rtol=1e-5, atol=1e-6)
    close(plain, first(continual.derpp(10)), rtol=1e-5, atol=1e-6)


def test_a_loss_threads_its_model_state_to_the_next_method_and_into_the_train_state():
    def add(name, amount):
        def loss(s, params, ctx):
            state = jax.tree.map(lambda x: x + amount, ctx.model_state)
            return jnp.zeros(()), {"model_state": state, "told": amount}

        def update(s, ts, ctx):
            return ctx.aux[ctx.name]["told"], ts

        return core.Method(name, init=lambda *_: jnp.zeros(()), loss=loss, update=update)

    plain = short_run(core.identity(), steps=1, experiences=1)
    both = short_run(core.chain(add("one", 1.0), add("ten", 10.0)), steps=1, experiences=1)
    close(jax.tree.map(lambda x: x + 11.0, plain.model_state), both.model_state)
    assert (float(both.method_state["one"]), float(both.method_state["ten"])) == (1.0, 10.0)


def test_grad_fn_is_a_function_of_params_with_and_without_penalties():
    """Penalties are part of the gradient; penalties=False is the task's own; another batch replaces the step's."""
    seen = {}

    def loss(s, params, ctx):
        return 0.5 * 3.0 * optax.tree.norm(params, squared=True), {}

    def update(s, ts, ctx):
        seen["total"] = ctx.grads
        seen["again"] = ctx.grad_fn(ctx.params)
        seen["task"] = ctx.grad_fn(ctx.params, penalties=False)
        seen["params"] = ctx.params
        seen["value"] = ctx.value
        seen["value_fn"] = ctx.value_fn(ctx.params)
        half = {k: v[:4] for k, v in ctx.batch.items()}
        seen["half"] = ctx.grad_fn(ctx.params, batch=half, penalties=False)
        return s, ts

    learner = short_learner(core.Method("spy", loss=loss, update=update))
    with jax.disable_jit():
        learner.step(core.start(learner, 0), core.to_device(learner.stream), jnp.int32(0), jnp.int32(0))
    close(seen["total"], seen["again"], rtol=1e-6)
    close(seen["total"], optax.tree.add_scale(seen["task"], 3.0, seen["params"]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen["value"], seen["value_fn"], rtol=1e-6)
    assert norm(seen["half"], seen["task"]) > 1e-2


def test_augment_may_ask_for_the_gradient_of_the_incoming_batch():
    def augment(s, batch, ctx):
        grads = ctx.grad_fn(ctx.params)
        return {**batch, "weights": batch["weights"] * jnp.where(optax.tree.norm(grads) > 0, 1.0, jnp.nan)}

    assert np.isfinite(short_run(core.Method("virtual", augment=augment), steps=2).params["Dense_0"]["kernel"]).all()


class Half(nn.Module):
    """A frozen kernel and a trained head."""

    @nn.compact
    def __call__(self, inputs, train: bool = False):
        return nn.Dense(6)(jnp.tanh(inputs))


def frozen_model():
    base = core.from_linen(Half())

    def init(rng, inputs):
        made = base.init(rng, inputs)
        return core.Variables(made.params, {}, {"kernel": jax.random.normal(rng, (12, 12))})

    def apply(variables, inputs, **options):
        return base.apply(core.Variables(variables.params, {}), inputs @ variables.frozen["kernel"], **options)

    return core.Model(init, apply)


def test_the_forward_pass_draws_other_numbers_in_each_step():
    """What dropout is seeded with."""

    def init(rng, inputs):
        return core.Variables({"w": jnp.zeros((12, 6))}, {"drawn": jnp.zeros((9, 2), jnp.uint32), "at": jnp.int32(0)})

    def apply(variables, inputs, *, train=False, rng=None, task=None):
        state = variables.model_state
        if train:
            drawn = state["drawn"].at[state["at"]].set(jax.random.bits(rng, (2,)))
            state = {"drawn": drawn, "at": state["at"] + 1}
        return core.Outputs(inputs @ variables.params["w"]), state

    state = short_run(core.identity(), model=core.Model(init, apply), steps=4)
    drawn = {tuple(row) for row in np.asarray(state.model_state["drawn"]).tolist()}
    assert int(state.model_state["at"]) == 8 and len(drawn - {(0, 0)}) == 8


def test_frozen_arrays_are_neither_trained_nor_seen_by_penalties():
    stored = short_run(continual.ewc(1.0), model=frozen_model(), steps=3)
    learner = short_learner(core.identity(), model=frozen_model())
    np.testing.assert_array_equal(core.start(learner, 0).frozen["kernel"], stored.frozen["kernel"])
    assert jax.tree.structure(stored.method_state["ewc"].fisher) == jax.tree.structure(stored.params)
    assert "kernel" not in stored.params


def sam(rho):
    """Sharpness-aware minimisation by grad_fn, as any optimizer of a user might be written."""

    def update(grads, state, params=None, *, grad_fn, **extra):
        scale = rho / (optax.tree.norm(grads) + 1e-12)
        up = jax.tree.map(lambda p, g: p + scale * g, params, grads)
        return jax.tree.map(lambda g: -0.1 * g, grad_fn(up)), state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def by_bias(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "bias" if "bias" in jax.tree_util.keystr(path) else "rest", params
    )


OPTIMIZERS = {
    "lbfgs": lambda: optax.lbfgs(),
    "schedule_free": lambda: optax.contrib.schedule_free_sgd(0.1),
    "multi_steps": lambda: optax.MultiSteps(optax.sgd(0.1), 2),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(1e-2),
    "polyak": lambda: optax.polyak_sgd(0.1),
    "reduce_on_plateau": lambda: optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()),
    "plain": lambda: optax.GradientTransformation(
        lambda params: (), lambda grads, state, params=None: (jax.tree.map(lambda g: -0.1 * g, grads), state)
    ),
    "sam": lambda: sam(0.05),
    "partition": lambda: optax.partition({"bias": optax.sgd(0.0), "rest": optax.adam(1e-2)}, by_bias),
    "sam_in_a_partition": lambda: optax.partition({"bias": sam(0.05), "rest": optax.set_to_zero()}, by_bias),
    "lbfgs_in_a_partition": lambda: optax.partition(
        {"bias": optax.set_to_zero(), "rest": optax.lbfgs()}, by_bias, mask_compatible_extra_args=True
    ),
    "masked": lambda: optax.chain(
        optax.masked(optax.add_decayed_weights(0.1), lambda params: by_bias_mask(params)), optax.sgd(0.1)
    ),
}  # fmt: skip


def by_bias_mask(params):
    return jax.tree.map(lambda label: label == "rest", by_bias(params))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_foreign_optimizers_get_what_they_declare_and_lower_the_loss(name):
    learner = short_learner(core.Method("spy"), optimizer=OPTIMIZERS[name]())
    data, state = core.to_device(learner.stream), core.start(learner, 0)
    start = state.params
    losses = []
    chunk = jax.jit(learner.chunk)
    for i in range(4):
        state, record = chunk(state, data, 0, 7 * i, 7 if i else 1)  # the first loss is that of the first step alone
        losses.append(float(record["loss"]))
    assert losses[-1] < losses[0]
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), start, state.params)
    if name == "sam_in_a_partition":
        labels = by_bias(start)
        assert jax.tree.all(jax.tree.map(lambda m, label: m == (label == "bias"), moved, labels))
    if name == "partition":
        assert not moved["head"]["bias"] and moved["head"]["kernel"]


def test_sam_in_a_partition_takes_the_gradient_of_the_whole_model():
    """The hole of a partition is filled from the current params: the numbers of the hand-written step."""
    learner = short_learner(core.identity(), optimizer=OPTIMIZERS["sam_in_a_partition"]())
    seen = {}
    spy = core.Method("spy", update=lambda s, ts, ctx: (seen.update(g=ctx.grads, f=ctx.grad_fn, p=ctx.params) or s, ts))
    watcher = short_learner(spy, optimizer=optax.sgd(0.1))
    data, state = core.to_device(learner.stream), core.start(learner, 0)
    new, _ = jax.jit(learner.step)(state, data, 0, 0)
    with jax.disable_jit():
        watcher.step(core.start(watcher, 0), data, jnp.int32(0), jnp.int32(0))
    mask = jax.tree.map(lambda label: float(label == "bias"), by_bias(seen["p"]))
    own = jax.tree.map(lambda m, g: m * g, mask, seen["g"])
    up = optax.tree.add_scale(seen["p"], 0.05 / optax.tree.norm(own), own)
    step = jax.tree.map(lambda m, g: -0.1 * m * g, mask, seen["f"](up))
    close(new.params, optax.tree.add(state.params, step), rtol=1e-4, atol=1e-6)


def test_a_gradient_free_method_costs_no_backward_pass():
    def flops(method):
        learner = short_learner(method)
        state = jax.eval_shape(learner.init, jax.random.key(0))
        lowered = jax.jit(learner.step).lower(state, core.to_device(learner.stream), 0, 0)
        return lowered.compile().cost_analysis()["flops"]

    still = core.Method("still", optimizer=lambda tx: optax.set_to_zero())
    assert flops(still) < 0.6 * flops(core.identity())


def test_online_scores_come_before_the_batch_is_learned():
    def predict(s, ctx):
        assert "labels" not in ctx.batch and "task" not in ctx.batch
        return ctx.outputs

    learner = short_learner(core.Method("spy", predict=predict), optimizer=optax.sgd(0.5), online=True)
    data, state = core.to_device(learner.stream), core.start(learner, 0)
    _, record = jax.jit(learner.step)(state, data, 0, 0)
    assert set(record) == {"loss", "accuracy", "online_accuracy"}
    model = testing.standard_model()
    positions, _ = core_positions(learner, state)
    rows = learner.stream.experiences["train"].rows[0][positions]
    x = learner.stream.source.train["inputs"][rows][:, np.asarray(learner.stream.origins.view)[0]]
    y = learner.stream.source.train["labels"][rows]
    answered = model.apply(core.Variables(state.params, state.model_state), x)[0].logits.argmax(-1)
    np.testing.assert_allclose(record["online_accuracy"], np.mean(answered == y), rtol=1e-6)


def core_positions(learner, state):
    from ctrain_jax.core._data import batch_positions

    key = core.tag(jax.random.fold_in(state.rng, 0), "order")
    return batch_positions(key, jnp.int32(0), jnp.int32(50), 8)
