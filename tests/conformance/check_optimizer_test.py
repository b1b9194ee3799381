"""The check of optimizers fails where a promise is broken, in one sentence, and passes what optax has."""

import jax
import jax.numpy as jnp
import optax
import pytest

from ctrain_jax import testing


def passes_on(updates, state, extra):
    return updates, state


def transform(update=passes_on, init=lambda params: jnp.zeros(())):
    """A transform that accepts and ignores extra arguments, unless it is made not to."""
    return optax.GradientTransformationExtraArgs(init, lambda u, s, params=None, **extra: update(u, s, extra))


def scaled(factor, updates):
    return jax.tree.map(lambda u: factor * u, updates)


def counted(function):
    """Calls `function` with how often it was called before."""
    calls = []

    def call(*args):
        calls.append(1)
        return function(len(calls) - 1, *args)

    return call


def traced(tree):
    return isinstance(jax.tree.leaves(tree)[0], jax.core.Tracer)


def noisy_under_jit(updates, state, extra):
    if traced(updates):
        number = jax.ShapeDtypeStruct((), jnp.float32)
        noise = jax.pure_callback(lambda: next(NOISE), number, vmap_method="sequential")
        return jax.tree.map(lambda u: u * (1 + noise).astype(u.dtype), updates), state
    return updates, state


NOISE = (jnp.float32(1e-6 * k) for k in range(1000))


@jax.custom_batching.custom_vmap
def lone(x):
    return x


@lone.def_vmap
def lone_mapped(size, mapped, x):
    return 2 * x, mapped[0]


FAULTS = {
    "the state gets another leaf": (
        lambda: transform(lambda u, s, e: (u, (*s, jnp.zeros(()))), lambda params: ()),
        "update changes what the state .* is like: expected PyTreeDef",
    ),
    "the state gets longer": (
        lambda: transform(lambda u, s, e: (u, {"a": jnp.append(s["a"], 0.0)}), lambda params: {"a": jnp.zeros(1)}),
        r"at \['a'\]: expected float32\[1\], got float32\[2\]",
    ),
    "the state drifts from half to single precision": (
        lambda: transform(lambda u, s, e: (u, scaled(jnp.float32(0.5), s)), optax.tree.zeros_like),
        r"update changes what the state of params of half precision is like at .*: expected bfloat16\[2\]",
    ),
    "updates drift from half to single precision": (
        lambda: transform(lambda u, s, e: (scaled(jnp.float32(0.5), u), s)),
        r"updates are not like params of half precision at .*: expected bfloat16\[2\], got float32\[2\]",
    ),
    "updates of another structure": (
        lambda: transform(lambda u, s, e: (jax.tree.leaves(u), s)),
        "updates are not like params .*: expected PyTreeDef",
    ),
    "updates that are not finite": (
        lambda: transform(lambda u, s, e: (scaled(jnp.inf, u), s)),
        "updates of finite gradients are not finite",
    ),
    "a counter in Python": (
        lambda: transform(counted(lambda calls, u, s, e: (scaled(1.0 + calls, u), s))),
        "update is not a function of its arguments",
    ),
    "a counter in Python, in init": (
        lambda: transform(init=counted(lambda calls, params: jnp.float32(calls))),
        "init is not a function of params: two calls differ",
    ),
    "a structure that depends on the calls": (
        lambda: transform(init=counted(lambda calls, params: calls * (jnp.zeros(()),))),
        "init is not a function of params: expected PyTreeDef",
    ),
    "a parameter in the state": (lambda: transform(init=lambda params: params), "init keeps a parameter itself"),
    "a number of Python in the state": (lambda: transform(init=lambda params: 0.5), "init puts 0.5 into the state"),
    "another state under jit": (
        lambda: transform(init=lambda params: jnp.float32(traced(params))),
        "init gives another state under jit",
    ),
    "another update under jit": (
        lambda: transform(lambda u, s, e: (scaled(2.0 if traced(u) else 1.0, u), s)),
        r"update gives another result under jit, first at \[0\]",
    ),
    "other bits from a copy": (lambda: transform(noisy_under_jit), "a step from a copy in numpy ends in other bits"),
    "no room for other arguments": (
        lambda: optax.GradientTransformationExtraArgs(lambda params: (), lambda u, s, params=None: (u, s)),
        "update refuses an extra argument that it does not know",
    ),
    "reads any argument": (
        lambda: transform(lambda u, s, e: (scaled(1.0 + len(e), u), s)),
        "update reads an extra argument that it does not know",
    ),
    "another update where it is mapped": (
        lambda: transform(lambda u, s, e: (jax.tree.map(lone, u), s)),
        "mapped over params, a run ends elsewhere",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_fails_where_a_promise_is_broken(fault):
    make, sentence = FAULTS[fault]
    with pytest.raises(AssertionError, match=sentence):
        testing.check_optimizer(make())


def test_a_sound_transform_passes_and_its_extra_arguments_reach_it():
    testing.check_optimizer(transform())
    testing.check_optimizer(optax.adam(1e-2))
    seen = []

    def update(updates, state, params=None, *, reference, **extra):
        seen.append(reference)
        return updates, state

    needs = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    testing.check_optimizer(needs, extra={"reference": jnp.ones(())})
    assert all(reference == 1.0 for reference in seen)
    testing.check_optimizer(needs, extra=lambda params: {"reference": params})
    assert set(seen[-1]) == {"dense", "rest"}
