"""The optimizer started again: its moments are gone, the values that a sweep gave it are not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core
from tests.masked import STREAM
from tests.rehearsed import learner_of


@pytest.mark.parametrize("name", ["dst_cl", "exssnet", "packnet", "reinitialize", "supsup"])
def test_a_rate_of_a_sweep_outlives_the_moments(name):
    """The rate of 0.5 is in the state of the optimizer alone, within a chain as a user would have it."""
    method = getattr(continual, name)() if name == "reinitialize" else getattr(continual, name)(3)
    made = optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)
    learner = learner_of(method, stream=STREAM, optimizer=optax.chain(optax.clip_by_global_norm(1.0), made))
    state = core.start(learner)
    past = jax.tree.map(jnp.ones_like, state.opt_state)
    past = optax.tree.set(past, learning_rate=jnp.float32(0.5))
    after = jax.jit(learner.begin)(state._replace(opt_state=past), core.to_device(STREAM), 1).opt_state
    assert optax.tree.get(after, "learning_rate") == 0.5
    for leaf in jax.tree.leaves((optax.tree.get(after, "mu"), optax.tree.get(after, "nu"))):
        np.testing.assert_array_equal(leaf, 0)
