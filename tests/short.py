"""Short runs for tests: one program for the whole of them."""

import jax
import jax.numpy as jnp
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
