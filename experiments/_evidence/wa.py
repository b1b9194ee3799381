"""WA: the first experience is plain, weights are aligned; class-incremental accuracy against naive and ER."""

from collections.abc import Sequence

import numpy as np

from ctrain_jax import continual, core
from experiments._evidence._common import Check, Claim, distance, gate, runs
from experiments._evidence.icarl import SIZE, compared, digits, first_experience, seen_fashion_mnist


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.wa`."""
    return [
        gate(
            "the first experience is plain training (largest difference of a parameter)",
            distance(first_experience(continual.wa(5)), first_experience(core.identity())),
            most=1e-5,
        ),
        gate(
            "after each experience the weights of its classes are as long as those of the old ones, in the mean "
            "(largest relative difference)",
            _lengths(),
            most=1e-5,
        ),
        *compared("wa", runs(seen_fashion_mnist(continual.wa(SIZE)), seeds), seeds),
    ]


def _lengths() -> float:
    learner = digits(continual.wa(5))
    data, state, worst = core.to_device(learner.stream), core.start(learner), 0.0
    for t in range(5):
        state = core.run_experience(learner, state, data, t)
        lengths = np.linalg.norm(np.asarray(state.params["head"]["kernel"], np.float64), axis=0)
        old, new = lengths[: 2 * t], lengths[2 * t : 2 * t + 2]
        worst = max(worst, abs(new.mean() / old.mean() - 1)) if t else worst
    return worst


CHECK = Check(
    "ctrain_jax.continual.wa",
    "Zhao et al., Maintaining Discrimination and Fairness in Class Incremental Learning, CVPR 2020, arXiv 1911.07053",
    claims,
)
