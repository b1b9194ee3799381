"""project_agem: the projection of one long vector, and the nearest one that keeps the constraint."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import optim
from experiments._evidence._common import Check, Claim, estimate, gate

SIZE, TRIALS = 1000, 20


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `optim.project_agem`."""
    return [
        gate("a reference of zeros changes nothing (largest difference)", _without(), most=0),
        gate(
            "the answer's product with the reference is not negative (least cosine, 100 random pairs in conflict)",
            min(_pairs(seed)[1] for seed in range(5)),
            least=-1e-5,
        ),
        estimate(
            f"{TRIALS} random pairs of {SIZE} numbers, float32: correct digits of the projection (-log10 of the "
            "largest relative error, against float64)",
            [_pairs(seed)[0] for seed in seeds],
            least=5,
        ),
    ]


def _without() -> float:
    g = jax.random.normal(jax.random.key(0), (SIZE,))
    return float(jnp.abs(_project(g, jnp.zeros(SIZE)) - g).max())


@jax.jit
def _project(g, r):
    return optim.project_agem().update(g, optax.EmptyState(), reference=r)[0]


def _pairs(seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    errors, cosines = [], []
    for _ in range(TRIALS):
        r = rng.normal(size=SIZE)
        g = rng.normal(size=SIZE) - rng.uniform(0.1, 3) * r
        found = np.float64(_project(jnp.float32(g), jnp.float32(r)))
        expected = g - r * (g @ r) / (r @ r)
        errors.append(np.linalg.norm(found - expected) / np.linalg.norm(g))
        cosines.append(found @ r / (np.linalg.norm(g) * np.linalg.norm(r)))
    return -np.log10(max(errors)), min(cosines)


CHECK = Check(
    "ctrain_jax.optim.project_agem",
    "Chaudhry et al., Efficient Lifelong Learning with A-GEM, ICLR 2019, arXiv 1812.00420",
    claims,
)
