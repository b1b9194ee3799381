"""SI: the shares of the parameters are the decrease of the loss; task-incremental accuracy above plain training."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from ctrain_jax import continual
from experiments._evidence._common import Check, Claim, gate
from experiments._evidence._penalties import above_naive, plain_without, small_steps


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.si`."""
    return [
        plain_without(continual.si(0.0)),
        gate(
            "the shares of all parameters of a softmax-linear model, over 60 small steps of gradient descent, add up "
            "to the decrease of its loss (relative difference)",
            _shares(),
            most=0.02,
        ),
        *above_naive(continual.si(100.0), "lam=100", seeds),
    ]


def _shares() -> float:
    start, end, decrease = small_steps(continual.si(1.0, damping=0.1))
    # After an experience of plain descent no share is clipped: each is a square.
    shares = jax.tree.map(
        lambda omega, new, old: np.sum(np.float64(omega) * ((np.float64(new) - np.float64(old)) ** 2 + 0.1)),
        end.method_state["si"].omega,
        end.params,
        start.params,
    )
    return abs(optax.tree.sum(shares) - decrease) / decrease


CHECK = Check(
    "ctrain_jax.continual.si",
    "Zenke et al., Continual Learning Through Synaptic Intelligence, ICML 2017, arXiv 1703.04200",
    claims,
)
