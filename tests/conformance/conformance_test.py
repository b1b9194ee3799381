"""Every public factory is held against the promises of the library, the moment that it is exported."""

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest

from ctrain_jax import core, models, testing
from tests.conformance.rows import CHAINS, METHODS, OPTIMIZERS, TRANSFORMS
from tests.layout_test import FACTORIES, OPTIM
from tests.short import short_learner

RETURNS = {name: inspect.signature(factory).return_annotation for name, factory in FACTORIES.items()}


def flat(rows):
    return [pytest.param(make, id=f"{name}-{k}") for name, makes in rows.items() for k, make in enumerate(makes)]


def test_every_factory_has_a_row_and_every_row_a_factory():
    known = {core.Method: METHODS, core.ModelTransform: TRANSFORMS}
    unknown = {name: kind for name, kind in RETURNS.items() if kind not in known}
    assert not unknown, "a public callable of a family returns a Method, a ModelTransform or an optax transform"
    for kind, rows in known.items():
        assert {name for name, returned in RETURNS.items() if returned is kind} == set(rows)


def test_every_optimizer_has_a_row_and_every_row_an_optimizer():
    kinds = {name: inspect.signature(factory).return_annotation for name, factory in OPTIM.items()}
    transforms = {optax.GradientTransformation, optax.GradientTransformationExtraArgs}
    assert set(kinds.values()) <= {*transforms, optax.Schedule}, "optim makes optax transforms and schedules"
    assert {name for name, kind in kinds.items() if kind in transforms} == set(OPTIMIZERS)


@pytest.mark.parametrize("make", flat(METHODS))
def test_method(make):
    testing.check_method(make())


@pytest.mark.parametrize("make", flat(METHODS))
def test_a_method_lives_without_boundaries_or_says_that_it_cannot(make):
    method = make()
    stream = testing.standard_stream(task_known="task" in method.needs)._replace(boundaries=False)
    if "boundaries" in method.needs:
        names = "|".join(part.name for part in method.parts or (method,))
        with pytest.raises(ValueError, match=f"^({names}) needs to know where experiences begin and end"):
            short_learner(method, stream=stream)
        return
    learner, data, at = short_learner(method, stream=stream), core.to_device(stream), jnp.int32(1)

    def run(key):
        ts = learner.begin(learner.init(key), data, at)
        ts, _ = learner.step(ts, data, at, at)
        return learner.evaluate(learner.end(ts, data, at), data, at)

    jax.eval_shape(run, jax.random.key(0))


@pytest.mark.parametrize("make", flat({"chain": CHAINS}))
def test_chain(make):
    testing.check_method(make())


@pytest.mark.parametrize("make", flat(TRANSFORMS))
def test_transform(make):
    model = core.from_linen(models.ViT(3, patch=4, width=8, depth=1, heads=2))
    testing.check_model_transform(make(), model, jnp.ones((2, 8, 8)))


@pytest.mark.parametrize("row", flat(OPTIMIZERS))
def test_optimizer(row):
    make, extra = row if isinstance(row, tuple) else (row, None)
    testing.check_optimizer(make(), extra=extra)


def shaken(ts):
    """Noise from outside of the state: another number in each call."""
    noise = jax.pure_callback(lambda: next(NOISE), jax.ShapeDtypeStruct((), jnp.float32))
    return ts._replace(params=jax.tree.map(lambda p: p + noise, ts.params))


def numbers():
    value = 0.0
    while True:
        value += 1e-3
        yield jnp.float32(value)


NOISE = numbers()


def test_the_checks_fail_where_a_promise_is_broken():
    with pytest.raises(AssertionError, match=r"changing its state at \['b'\] changes neither"):
        testing.check_method(core.Method("b", init=lambda *_: jnp.zeros(3)))
    with pytest.raises(AssertionError, match="chunks of 7 steps end in other bits"):
        testing.check_method(core.Method("b", update=lambda s, ts, ctx: (s, shaken(ts))))
    frozen = core.from_linen(models.MLP(3, hidden=(4,)))
    with pytest.raises(AssertionError, match="training does not move params"):
        testing.check_model_transform(with_idle_parameter, frozen, jnp.ones((2, 4)))
    with pytest.raises(AssertionError, match="init is not a function of its key"):
        testing.check_model_transform(with_unsteady_init, frozen, jnp.ones((2, 4)))


def with_idle_parameter(model):
    def init(rng, inputs):
        made = model.init(rng, inputs)
        return made._replace(params={"net": made.params, "idle": jnp.zeros(2)})

    return core.Model(init, lambda v, x, **o: model.apply(v._replace(params=v.params["net"]), x, **o))


def with_unsteady_init(model):
    calls = []

    def init(rng, inputs):
        calls.append(1)
        return model.init(jax.random.fold_in(rng, len(calls)), inputs)

    return core.Model(init, model.apply)
