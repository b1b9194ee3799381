"""What importances cost: the diagonal of the Fisher information and MAS against one gradient of the mean loss."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import core, models, ops
from experiments._speed._common import Measure, Options, Program, Suite, in_turns, ratio

CLASSES, EXAMPLES = 10, 512
MODELS = {
    "mlp": (models.MLP(CLASSES, hidden=(400, 400)), (28, 28)),
    "cnn": (models.CNN(CLASSES), (28, 28)),
}
BOUNDS = {"sampled": 3.0, "empirical": 3.0, "exact": CLASSES + 1.0}


def run(options: Options) -> Iterator[Measure]:
    """The ratio of the seconds over the same examples."""
    number, rounds = (16, 3) if options.small else (EXAMPLES, 21)
    for name, (module, shape) in MODELS.items():
        programs = _programs(core.from_linen(module), shape, number)
        times = in_turns(programs, rounds)
        for mode, bound in (BOUNDS | {"mas": 3.0}).items():
            found = ratio(times[mode], times["gradient"])
            yield Measure(f"{mode}/{name}", found["ratio"], bound, detail=found)


def _programs(model: core.Model, shape: tuple[int, ...], number: int) -> dict[str, Program]:
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.random((number, *shape), np.float32))
    labels = jnp.asarray(rng.integers(0, CLASSES, number))
    key = jax.random.key(0)
    variables = model.init(key, inputs[:1])

    def forward(params: Any, inputs: jax.Array) -> jax.Array:
        return model.apply(variables._replace(params=params), inputs)[0].logits

    def loss(params: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(forward(params, inputs), labels).mean()

    def fisher(mode: str) -> Program:
        diagonal = jax.jit(lambda params: ops.fisher_diagonal(forward, params, inputs, key, labels=labels, mode=mode))
        return Program(lambda _: diagonal(variables.params))

    gradient = jax.jit(jax.grad(loss))
    mas = jax.jit(
        lambda params: ops.absolute_gradients(forward, params, inputs, lambda logits: jnp.square(logits).sum(-1))
    )
    return {
        "gradient": Program(lambda _: gradient(variables.params)),
        **{mode: fisher(mode) for mode in BOUNDS},
        "mas": Program(lambda _: mas(variables.params)),
    }


SUITE = Suite("Fisher information and MAS importances against one gradient over the same examples", run)
