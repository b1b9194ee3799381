"""Short runs for tests: one program for the whole of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import core, testing


def short_learner(method, *, optimizer=None, stream=None, model=None, steps=12, **options):
    """A learner on the standard stream and model."""
    return core.make_learner(
        model or testing.standard_model(),
        method,
        optimizer or optax.adamw(3e-3),
        stream or testing.standard_stream(),
        batch_size=8,
        steps=steps,
        **options,
    )


def short_run(method, *, experiences=2, seed=0, **options):
    """The state after the first experiences, edges included."""
    learner = short_learner(method, **options)
    data = core.to_device(learner.stream)

    def run(key, data):
        state = learner.init(key)
        for t in range(experiences):
            at = jnp.int32(t)
            state, _ = learner.chunk(learner.begin(state, data, at), data, at, 0, learner.spec.steps[t])
            state = learner.end(state, data, at)
        return state

    return jax.jit(run)(jax.random.key(seed), data)


def edges_of(method):
    """State of the method by name -> states after `begin`, before `end` and after it, of three experiences; one program
    for all."""
    learner = short_learner(method)
    data, begin, chunk, end = core.to_device(learner.stream), *map(jax.jit, (learner.begin, learner.chunk, learner.end))

    def run(**changes):
        state, result = core.start(learner), []
        own = state.method_state[method.name]._replace(**{name: jnp.float32(x) for name, x in changes.items()})
        state = state._replace(method_state={method.name: own})
        for t in range(3):
            at = jnp.int32(t)
            first = begin(state, data, at)
            last, _ = chunk(first, data, at, 0, 5)
            state = end(last, data, at)
            result.append((first, last, state))
        return result

    return run


def bits(tree):
    """The bytes of every leaf, of at least one."""
    leaves = jax.tree.leaves(tree)
    assert leaves
    return [np.asarray(leaf).tobytes() for leaf in leaves]
