"""PackNet: what is kept and what stays to the bit; Split-MNIST by tasks, against plain training and no training on."""

from collections.abc import Sequence

import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, estimate, final, forgotten, gate, handwritten, means, runs
from experiments._evidence.supsup import kept

TASKS, ROWS, TESTS, SHARE = 5, 5_000, 2_000, 0.75
WHERE = f"task-incremental Split-MNIST ({ROWS:,} rows), {TASKS} tasks, MLP of 100 and 100, 5 epochs"


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.packnet`."""
    moved, states = kept(continual.packnet(3, share=SHARE))
    off, changed = _owned(states)
    methods = {
        "naive": core.identity(),
        "pruned": continual.packnet(TASKS, share=SHARE, retrain_share=0.0),
        "packnet": continual.packnet(TASKS, share=SHARE),
    }
    results = {name: by_tasks(method, seeds, data_dir) for name, method in methods.items()}
    ends = {name: final(result) for name, result in results.items()}
    return [
        gate("weights kept less what an experience has to keep (largest difference of a kernel)", off, most=0),
        gate("AdamW with decay: weights that change after their experience, or without an owner", changed, most=0),
        gate("AdamW and BatchNorm: earlier answers after later experiences (largest difference)", moved, most=0),
        gate(
            f"{WHERE}, share {SHARE}: points of forgetting (largest of a seed)",
            np.abs(forgotten(results["packnet"])).max(),
            most=0,
        ),
        estimate(
            f"the same: points of final accuracy above naive ({means(**ends)})",
            ends["packnet"] - ends["naive"],
            least=0,
        ),
        estimate("the same: above pruning at the end of an experience", ends["packnet"] - ends["pruned"], least=0),
    ]


def by_tasks(method: core.Method, seeds: Sequence[int], data_dir: str | None) -> core.Result:
    """Runs on Split-MNIST by tasks."""
    source = handwritten(data_dir, ROWS)
    source = source._replace(test={name: leaf[:TESTS] for name, leaf in source.test.items()})
    learner = core.make_learner(
        core.from_linen(models.MLP(10, hidden=(100, 100))),
        method,
        optax.adam(1e-3),
        streams.task_incremental(source, TASKS),
        batch_size=32,
        epochs=5,
        eval_batch_size=TESTS // TASKS,
    )
    return runs(learner, seeds)


def _owned(states: Sequence[core.TrainState]) -> tuple[int, int]:
    """By how many weights an experience misses its number; weights of a kernel that moved and should not."""
    off = changed = 0
    for name, leaf in states[-1].frozen["owner"].items():
        owner, layer = np.asarray(leaf), name.split(".")[0]
        kernels = [np.asarray(state.params[layer]["kernel"]) for state in states]
        left = owner.size
        for t in range(3):
            number = left - round(SHARE * left)
            off, left = max(off, abs(int(np.sum(owner == t)) - number)), left - number
            if not np.any(kernels[t + 1][owner == t] != kernels[t][owner == t]):
                raise AssertionError(
                    f"No weight of {name} learned in experience {t}: the gates would hold for nothing."
                )
            changed += int(np.sum(kernels[t + 1][owner < t] != kernels[t][owner < t]))
            changed += int(np.sum(kernels[t + 1][owner > t] != 0))
    return off, changed


CHECK = Check(
    "ctrain_jax.continual.packnet",
    "Mallya and Lazebnik, PackNet: Adding Multiple Tasks to a Single Network by Iterative Pruning, CVPR 2018, "
    "arXiv 1711.05769",
    claims,
    data=True,
)
