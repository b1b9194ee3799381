"""What the checks of training without a memory share: digits after clothes, and a strength from two experiences."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import core, metrics, models, streams
from experiments._evidence._common import handwritten, runs, trained

ROWS = 5_000
OTHERS = (5, 6, 7)  # seeds on which strengths are chosen
BASE = core.from_linen(models.CNN(10, widths=(8, 16)))
ADAM = optax.adam(1e-3)
WHERE = (
    f"Split-MNIST ({ROWS:,} rows) in 5 experiences, one head, from a CNN of Fashion-MNIST, strengths chosen on the "
    "first two"
)


class Digits:
    """Runs of methods on Split-MNIST, each from a network that was trained on Fashion-MNIST."""

    def __init__(
        self,
        data_dir: str | None,
        seeds: Sequence[int],
        *,
        model: core.Model = BASE,
        optimizer: optax.GradientTransformation = ADAM,
        epochs: int = 1,
    ) -> None:
        self._options = {"optimizer": optimizer, "epochs": epochs, "batch_size": 32}
        self._model = model
        source = handwritten(data_dir, ROWS)
        self._stream, self._seeds = streams.class_incremental(source, 5), seeds
        held_out = streams.selection(streams.class_incremental(source, 5, valid_fraction=0.2))
        first = {name: jax.tree.map(lambda x: x[:2], part) for name, part in held_out.experiences.items()}
        self._first = held_out._replace(experiences=first)
        clothes = streams.class_incremental(streams.fashion_mnist(), 1)
        plain = core.make_learner(model, core.identity(), ADAM, clothes, batch_size=32)
        both = runs(plain, (*seeds, *OTHERS))
        self._bases = jax.tree.map(lambda x: x[: len(seeds)], trained(both))
        self._others = jax.tree.map(lambda x: x[len(seeds) :], trained(both))

    def run(self, method: core.Method) -> core.Result:
        """The whole stream for each seed."""
        return runs(self._learner(method, self._stream), self._seeds, self._bases)

    def best(self, make: Callable[[Any], core.Method], strengths: Sequence[float]) -> float:
        """The strength that is best on rows held out of the first two experiences, for seeds of their own."""

        def run(data: core.Data, rng: jax.Array, strength: jax.Array, other: jax.Array) -> jax.Array:
            base = jax.tree.map(lambda x: x[other.astype(int)], self._others)
            return core.run_fused(self._learner(make(strength), self._first), data, rng, base).accuracy

        others = [float(k) for k in range(len(OTHERS))]
        found = core.sweep(run, core.to_device(self._first), strength=strengths, other=others)
        accuracy = np.asarray(metrics.final_accuracy(jnp.asarray(found.result)))
        return strengths[int(accuracy.mean((1, 2)).argmax())]

    def _learner(self, method: core.Method, stream: core.Stream) -> core.Learner:
        return core.make_learner(self._model, method, stream=stream, **self._options)
