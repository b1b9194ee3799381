"""Three parts of a batch: their ratios, and what they keep of a pre-trained CNN over eight updates."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax import continual, core
from experiments._evidence._common import Check, Claim, estimate, gate, means, runs
from experiments._evidence.weight_interpolation import WHERE, accumulation, learner, retention, updates

SIZE = 900  # rows of memory, 100 of each experience
RATIOS = (0.5, 0.3, 0.2)


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.three_way`."""
    stream = updates(data_dir)
    plain, mixed = (runs(learner(stream, m), seeds) for m in (core.identity(), continual.three_way(SIZE)))
    return [
        gate(
            "rows of each part less those of its ratio, in a batch of the third experience (largest)",
            _composition(stream),
            most=0.5,
        ),
        estimate(
            f"{WHERE}, 3 epochs each, {SIZE} rows of memory, even parts: points of accuracy on Fashion-MNIST at the "
            f"end above plain fine-tuning ({means(plain=retention(plain), three_way=retention(mixed))})",
            retention(mixed) - retention(plain),
            least=5,
        ),
        estimate(
            "the same: points of mean accuracy on the updates at the end above plain fine-tuning "
            f"({means(plain=accumulation(plain), three_way=accumulation(mixed))})",
            accumulation(mixed) - accumulation(plain),
            least=0,
        ),
    ]


def _composition(stream: core.Stream) -> float:
    """A method behind it counts the rows by their experience."""

    def count(s, ts, ctx):
        experience, weights = ctx.batch["experience"], ctx.batch["weights"]
        return jnp.stack([jnp.sum(weights * (experience == t)) for t in (2, 1, 0)]), ts

    counted = core.Method("count", init=lambda rng, params, ctx: jnp.zeros(3), update=count)
    own = learner(stream, core.chain(continual.three_way(SIZE, ratios=RATIOS), counted))
    data, state, end = core.to_device(stream), core.start(own), jax.jit(own.end)
    for t in range(2):
        state = end(state, data, t)
    found = np.asarray(jax.jit(own.step)(state, data, 2, 0)[0].method_state["count"])
    return np.abs(found - own.spec.batch_size * np.array(RATIOS) / RATIOS[0]).max()


CHECK = Check(
    "ctrain_jax.continual.three_way",
    "Roth, Udandarao, Dziadzio et al., A Practitioner's Guide to Continual Multimodal Pretraining, 2024, arXiv "
    "2408.14471",
    claims,
    rows=(53,),
    data=True,
)
