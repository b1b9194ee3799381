"""L2 anchor: nothing in the first experience; task-incremental accuracy above plain training."""

from collections.abc import Sequence

from ctrain_jax import continual
from experiments._evidence._common import Check, Claim
from experiments._evidence._penalties import above_naive, first_is_plain, plain_without


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.l2_anchor`."""
    return [
        plain_without(continual.l2_anchor(0.0)),
        first_is_plain(continual.l2_anchor(100.0)),
        *above_naive(continual.l2_anchor(1.0), "lam=1", seeds),
    ]


CHECK = Check(
    "ctrain_jax.continual.l2_anchor",
    "Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017, arXiv 1612.00796 (baseline)",
    claims,
)
