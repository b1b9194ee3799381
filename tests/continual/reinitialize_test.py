"""From scratch: what an experience starts from is a draw of its own, and what came before leaves no trace."""

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax import continual, core
from tests.short import short_learner


def test_each_experience_starts_from_a_draw_of_its_own():
    learner = short_learner(continual.reinitialize())
    data, begin = core.to_device(learner.stream), jax.jit(learner.begin)
    fresh = core.start(learner)
    # A learner that has been somewhere else: other parameters, statistics and moments.
    past = jax.tree.map(lambda x: x + 1 if jnp.issubdtype(x.dtype, jnp.floating) else x, fresh)
    first = begin(past, data, 0)
    jax.tree.map(np.testing.assert_array_equal, (first.params, first.model_state), (past.params, past.model_state))
    starts = [begin(state, data, t) for t in (1, 2) for state in (fresh, past)]
    for one, other in ((starts[0], starts[1]), (starts[2], starts[3])):
        jax.tree.map(np.testing.assert_array_equal, one._replace(rng=0), other._replace(rng=0))
    for start in starts:
        jax.tree.map(np.testing.assert_array_equal, start.opt_state, fresh.opt_state)
        jax.tree.map(np.testing.assert_array_equal, start.model_state, fresh.model_state)
    # Kernels differ from each other and from those of the learner; the scale is that of the same law.
    kernels = [np.asarray(s.params["head"]["kernel"]) for s in (fresh, starts[0], starts[2])]
    assert not np.array_equal(kernels[0], kernels[1]) and not np.array_equal(kernels[1], kernels[2])
    assert all(0.5 < k.std() / kernels[0].std() < 2 for k in kernels)
