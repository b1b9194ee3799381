"""project_gem: the solution of the quadratic program, against an exact solver of another kind."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

from ctrain_jax import optim
from experiments._evidence._common import Check, Claim, estimate, gate

SIZE, NUM, TRIALS = 1000, 10, 10


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `optim.project_gem`."""
    return [
        gate(
            "one reference and no margin: what project_agem gives (largest relative difference, 20 pairs)",
            _single(),
            most=1e-5,
        ),
        gate(
            f"margin 0: the answer conflicts with none of {NUM} references (least cosine, 50 problems)",
            min(_problems(seed, 0.5, 0.0)[1] for seed in range(5)),
            least=-1e-4,
        ),
        *(
            estimate(
                f"{TRIALS} problems of {NUM} references of {SIZE} numbers that resemble each other by a cosine of "
                f"{cosine:g}, margin 0.5: correct digits (-log10 of the largest error in units of |g|, against the "
                "active-set solver of scipy in float64)",
                [_problems(seed, cosine, 0.5)[0] for seed in seeds],
                least=4,
            )
            for cosine in (0.0, 0.9)
        ),
    ]


@jax.jit
def _project(g, references, margin):
    tx, active = optim.project_gem(margin), jnp.ones(references.shape[0], bool)
    return tx.update(g, optax.EmptyState(), references=references, active=active)[0]


def _single() -> float:
    rng, differences = np.random.default_rng(0), []
    for _ in range(20):
        g, r = jnp.float32(rng.normal(size=(2, SIZE)))
        other = optim.project_agem().update(g, optax.EmptyState(), reference=r)[0]
        differences.append(float(jnp.linalg.norm(_project(g, r[None], 0.0) - other) / jnp.linalg.norm(g)))
    return max(differences)


def _problems(seed: int, cosine: float, margin: float) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    errors, cosines = [], []
    for _ in range(TRIALS):
        common = rng.normal(size=SIZE)
        references = cosine**0.5 * common + (1 - cosine) ** 0.5 * rng.normal(size=(NUM, SIZE))
        g = rng.normal(size=SIZE) - common / 2
        found = np.float64(_project(jnp.float32(g), jnp.float32(references), margin))
        pushed = g + margin * references.sum(0)
        expected = pushed + scipy.optimize.nnls(references.T, -pushed)[0] @ references
        expected = expected if np.any(references @ g < 0) else g
        errors.append(np.linalg.norm(found - expected) / np.linalg.norm(g))
        cosines.append(np.min(references @ found / np.linalg.norm(references, axis=1)) / np.linalg.norm(g))
    return -np.log10(max(errors)), min(cosines)


CHECK = Check(
    "ctrain_jax.optim.project_gem",
    "Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning, NeurIPS 2017, arXiv 1706.08840",
    claims,
)
