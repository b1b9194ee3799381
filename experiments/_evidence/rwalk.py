"""RWalk: the shares of an interval are the decrease of the loss; task-incremental accuracy above plain training."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from ctrain_jax import continual
from experiments._evidence._common import Check, Claim, gate
from experiments._evidence._penalties import above_naive, plain_without, small_steps


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.rwalk`."""
    shares, extremes = _one_interval()
    return [
        plain_without(continual.rwalk(0.0)),
        gate(
            "the scores of a softmax-linear model over one interval of 60 small steps of gradient descent, times the "
            "distances, add up to the decrease of its loss (relative difference)",
            shares,
            most=0.02,
        ),
        gate("the importance after the first experience lies in [0, 2] (what is outside)", extremes, most=1e-6),
        *above_naive(continual.rwalk(10.0), "lam=10", seeds),
    ]


def _one_interval() -> tuple[float, float]:
    start, end, decrease = small_steps(continual.rwalk(1.0, period=60, damping=0.1, alpha=0.9))
    own = end.method_state["rwalk"]

    def share(score, fisher, new, old):
        score, fisher, new, old = (np.asarray(x, np.float64) for x in (score, fisher, new, old))
        return np.sum(score * (fisher / 2 * (new - old) ** 2 + 0.1))

    shares = jax.tree.map(share, own.score, own.fisher, end.params, start.params)
    outside = max(float(optax.tree.max(own.omega)) - 2, -float(optax.tree.min(own.omega)), 0.0)
    return abs(optax.tree.sum(shares) - decrease) / decrease, outside


CHECK = Check(
    "ctrain_jax.continual.rwalk",
    "Chaudhry et al., Riemannian Walk for Incremental Learning, ECCV 2018, arXiv 1801.10112",
    claims,
)
