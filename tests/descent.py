"""Descent on a softmax-linear model over all rows of an experience at once: by a learner, and by hand in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax import core, models, testing


def states_after(method, optimizer, *, steps, num):
    """The standard stream, the state at the start, and those after each of the first `num` experiences."""
    stream = testing.standard_stream()
    learner = core.make_learner(
        core.from_linen(models.MLP(6, hidden=())), method, optimizer, stream, batch_size=66, steps=steps
    )
    data, states = core.to_device(stream), [core.start(learner)]
    for t in range(num):
        # A run takes over the arrays of the state that it is given.
        states.append(core.run_experience(learner, jax.tree.map(jnp.array, states[-1]), data, t))
    return stream, states


def flat(params):
    """The kernel, and the bias below it: float64 [13, 6]."""
    return np.vstack([np.asarray(params["head"]["kernel"], np.float64), np.asarray(params["head"]["bias"], np.float64)])


def loss_and_slope(stream, t, theta):
    """Mean cross-entropy over the rows of an experience, and its gradient [13, 6]."""
    split = stream.experiences["train"]
    rows = split.rows[t][: split.size[t]]
    x = stream.source.train["inputs"][rows][:, np.asarray(stream.origins.view)[t]]
    x, y = np.hstack([x, np.ones((len(x), 1))]), stream.source.train["labels"][rows]
    p = np.exp(x @ theta)
    p /= p.sum(1, keepdims=True)
    return -np.mean(np.log(p[np.arange(len(y)), y])), x.T @ (p - np.eye(6)[y]) / len(y)
