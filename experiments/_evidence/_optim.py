"""What the checks of optimizers share: a plain optax loop with an MLP on the embedded Fashion-MNIST."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import models, streams

BATCH = 32


class Task(NamedTuple):
    """A loss of parameters, and where to start."""

    init: Callable[[jax.Array], optax.Params]  # key -> params
    loss: Callable[..., jax.Array]  # (params, rows=all) -> mean cross-entropy over these training rows
    accuracy: Callable[[optax.Params], jax.Array]  # on the test rows, in percent
    rows: int


def fashion(hidden: Sequence[int] = (400, 400)) -> Task:
    """An MLP on the embedded Fashion-MNIST."""
    source, model = streams.fashion_mnist(), models.MLP(10, hidden=tuple(hidden))
    train, test = (
        (jnp.asarray(split["inputs"] / np.float32(255)), jnp.asarray(split["labels"]))
        for split in (source.train, source.test)
    )

    def init(key):
        return model.init(key, train[0][:1])["params"]

    def logits(params, inputs):
        return model.apply({"params": params}, inputs).logits

    def loss(params, rows=None):
        inputs, labels = train if rows is None else (train[0][rows], train[1][rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, inputs), labels).mean()

    def accuracy(params):
        return 100 * (logits(params, test[0]).argmax(-1) == test[1]).mean()

    return Task(init, loss, accuracy, len(source.train["labels"]))


def train(task: Task, tx: optax.GradientTransformation, key: jax.Array, epochs: int) -> tuple[optax.Params, Any]:
    """Parameters and state of the optimizer after whole batches of all rows, in another order in each epoch."""
    tx = optax.with_extra_args_support(tx)
    first, order = jax.random.split(key)
    params = task.init(first)

    def step(carry, rows):
        params, state = carry

        def grad_fn(params):
            return jax.grad(task.loss)(params, rows)

        updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
        return (optax.apply_updates(params, updates), state), None

    orders = [jax.random.permutation(k, task.rows) for k in jax.random.split(order, epochs)]
    batches = jnp.concatenate([o[: task.rows // BATCH * BATCH].reshape(-1, BATCH) for o in orders])
    return jax.lax.scan(step, (params, tx.init(params)), batches)[0]


def steps(task: Task, epochs: int) -> int:
    """How many steps `train` takes."""
    return epochs * (task.rows // BATCH)


def keys(seeds: Sequence[int]) -> jax.Array:
    """A key for each seed."""
    return jnp.stack([jax.random.key(seed) for seed in seeds])
