"""ExSSNeT: weights that belong to one task and answers that stay to the bit; on permuted images, against SupSup."""

from collections.abc import Sequence

import numpy as np

from ctrain_jax import continual, core
from experiments._evidence._common import Check, Claim, estimate, final, forgotten, gate, means
from experiments._evidence.supsup import DENSITY, TASKS, WHERE, kept, off, permuted


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.exssnet`."""
    moved, states = kept(continual.exssnet(3, density=DENSITY))
    outside, twice = _changed(states)
    methods = (core.identity(), continual.supsup(TASKS, density=DENSITY), continual.exssnet(TASKS, density=DENSITY))
    results = [permuted(method, seeds) for method in methods]
    naive, supsup, exssnet = map(final, results)
    return [
        gate("AdamW with decay: weights that change outside of the exclusive set of their task", outside, most=0),
        gate("weights that change in two tasks", twice, most=0),
        gate("weights in a mask that are not round(0.1 N) of a kernel's N (largest difference)", off(states), most=0),
        gate("earlier answers after later experiences (largest difference)", moved, most=0),
        gate(f"{WHERE}: points of forgetting (largest of a seed)", np.abs(forgotten(results[2])).max(), most=0),
        estimate(
            f"the same: points of final accuracy above supsup ({means(supsup=supsup, exssnet=exssnet)})",
            exssnet - supsup,
            least=2,
        ),
        estimate(
            f"the same: points of final accuracy above naive ({means(naive=naive, exssnet=exssnet)})",
            exssnet - naive,
            least=0,
        ),
    ]


def _changed(states: Sequence[core.TrainState]) -> tuple[int, int]:
    """Weights that an experience changed outside of its exclusive set, and those that two changed."""
    outside = twice = 0
    for name, bank in states[-1].frozen["masks"].items():
        masks = np.asarray(bank)
        weights = [np.asarray(state.params["weights"][name]) for state in states]
        changed = [before != after for before, after in zip(weights[:-1], weights[1:], strict=True)]
        if not all(one.any() for one in changed):
            raise AssertionError(f"No weight of {name} learned in some experience: the gates would hold for nothing.")
        outside += sum(int(np.sum(one & ~(masks[t] & ~masks[:t].any(0)))) for t, one in enumerate(changed))
        twice += int(np.sum(np.sum(changed, axis=0) > 1))
    return outside, twice


CHECK = Check(
    "ctrain_jax.continual.exssnet",
    "Yadav and Bansal, Exclusive Supermask Subnetwork Training for Continual Learning, Findings of ACL 2023, "
    "arXiv 2210.10209",
    claims,
    rows=(307,),
)
