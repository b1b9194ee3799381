"""LUCIR: the first experience is of cosines, old weights stay; class-incremental accuracy against naive and ER."""

from collections.abc import Sequence

import numpy as np

from ctrain_jax import continual, core, models
from experiments._evidence._common import Check, Claim, distance, gate, runs
from experiments._evidence.icarl import SIZE, compared, digits, first_experience, seen_fashion_mnist


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.lucir`."""
    # At a learning rate of 1e-3 a scale that starts at 1 stays there.
    lucir = runs(seen_fashion_mnist(continual.lucir(SIZE, eta=10.0)), seeds)
    return [
        gate(
            "the first experience only trains with cosines (largest difference of a parameter)",
            _first(),
            most=1e-5,
        ),
        gate("weights of old classes stay as they are (largest difference)", _moved(), most=0),
        *compared("lucir", lucir, seeds),
    ]


def _first() -> float:
    method = continual.lucir(5, lam=5.0, eta=4.0)
    wrapped = method.model(core.from_linen(models.MLP(10, hidden=(32,))))
    return distance(first_experience(method), first_experience(core.identity(), wrapped))


def _moved() -> float:
    learner = digits(continual.lucir(5, eta=4.0))
    data, state, kernels = core.to_device(learner.stream), core.start(learner), []
    for t in range(5):
        state = core.run_experience(learner, state, data, t)
        kernels.append(np.array(state.params["head"]["kernel"]))
    return max(
        float(np.max(np.abs(new - old)[:, : 2 * (t + 1)]))
        for t, (old, new) in enumerate(zip(kernels, kernels[1:], strict=False))
    )


CHECK = Check(
    "ctrain_jax.continual.lucir",
    "Hou et al., Learning a Unified Classifier Incrementally via Rebalancing, CVPR 2019 (not on arXiv)",
    claims,
)
