"""DST-CL: densities, masks of constant size, answers that stay; Split-MNIST by tasks, both ways to grow."""

import itertools
from collections.abc import Sequence

import jax
import numpy as np
import optax

from ctrain_jax import continual, core, ops, testing
from experiments._evidence._common import Check, Claim, estimate, final, forgotten, gate, means
from experiments._evidence.packnet import TASKS, WHERE, by_tasks
from experiments._evidence.supsup import kept

DENSITY, EVERY = 0.1, 20
SHAPES = {"conv_0": (3, 3, 3, 64), "conv_1": (3, 3, 64, 128), "dense_0": (2048, 256), "dense_1": (256, 64)}


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.dst_cl`."""
    off, moved = _counted(), kept(continual.dst_cl(3, density=DENSITY, every=2))[0]
    methods = {
        "naive": core.identity(),
        "packnet": continual.packnet(TASKS),
        "random": continual.dst_cl(TASKS, density=DENSITY, every=EVERY, grow="random"),
        "dst_cl": continual.dst_cl(TASKS, density=DENSITY, every=EVERY),
    }
    results = {name: by_tasks(method, seeds, data_dir) for name, method in methods.items()}
    ends = {name: final(result) for name, result in results.items()}
    lost = max(np.abs(forgotten(results[name])).max() for name in ("random", "dst_cl"))
    return [
        gate(
            "ERK and uniform masks of four kernels, 1 to 99 percent asked: share of all weights (relative difference)",
            _asked(),
            most=0.001,
        ),
        gate("weights in a mask before and after a change of it, both ways (largest difference)", off, most=0),
        gate("AdamW and BatchNorm: earlier answers after later experiences (largest difference)", moved, most=0),
        gate(f"{WHERE}, density {DENSITY}: points of forgetting (largest of a seed)", lost, most=0),
        estimate(f"the same: final accuracy ({means(**ends)})", ends["dst_cl"], least=97),
        estimate(
            "the same: points by which the gradient grows better than chance",
            ends["dst_cl"] - ends["random"],
            least=-0.3,
        ),
        estimate("the same: points of final accuracy above naive", ends["dst_cl"] - ends["naive"], least=0),
    ]


def _asked() -> float:
    """The largest relative difference of the number of weights that masks of `SHAPES` have, rounding included."""
    size = {name: np.prod(shape) for name, shape in SHAPES.items()}
    off = []
    for density in (0.01, 0.05, 0.1, 0.2, 0.5, 0.8, 0.99):
        for found in (ops.erk_density(SHAPES, density), dict.fromkeys(SHAPES, density)):
            number = sum(round(found[name] * size[name]) for name in SHAPES)
            off.append(abs(number / sum(size.values()) / density - 1))
    return max(off)


def _counted() -> int:
    """The largest difference of sizes, where every step of two experiences changes the mask."""
    stream, off = testing.standard_stream(task_known=True), 0
    for layers, grow in itertools.product(("erk", "uniform"), ("gradient", "random")):
        method = continual.dst_cl(3, density=0.3, layers=layers, grow=grow, every=1)
        learner = core.make_learner(testing.standard_model(), method, optax.adam(1e-2), stream, batch_size=8)
        data, begin, step, end = core.to_device(stream), *map(jax.jit, (learner.begin, learner.step, learner.end))
        state = core.start(learner)
        for t in range(2):
            state = begin(state, data, t)
            first = _masks(state, t)
            for i in range(learner.spec.steps[t] - 1):
                state, _ = step(state, data, t, i)
                after = _masks(state, t)
                off = max(off, *(abs(int(a.sum()) - int(b.sum())) for a, b in zip(first, after, strict=True)))
                if i == 0 and not all(np.any(a != b) for a, b in zip(first, after, strict=True)):
                    raise AssertionError("A mask did not change: the gate would hold for nothing.")
            state = end(state, data, t)
    return off


def _masks(state: core.TrainState, task: int) -> list[np.ndarray]:
    return [np.asarray(bank[task]) for bank in jax.tree.leaves(state.frozen["masks"])]


CHECK = Check(
    "ctrain_jax.continual.dst_cl",
    "Yildirim et al., Continual Learning with Dynamic Sparse Training: Exploring Algorithms for Effective Model "
    "Updates, CPAL 2024, arXiv 2308.14831",
    claims,
    rows=(148,),
    data=True,
)
