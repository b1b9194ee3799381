"""Meta-schedules: peaks on the outer curve, no jump within a stage, and eight updates of a pre-trained CNN."""

from collections.abc import Sequence

import numpy as np

from ctrain_jax import core, optim
from experiments._evidence._common import Check, Claim, estimate, gate, means, runs
from experiments._evidence.weight_interpolation import WHERE, accumulation, learner, retention, updates

PEAK, LENS, WARMUP = 1e-3, (60, 25, 100, 40), 0.1


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `optim.meta_schedule`."""
    stream = updates(data_dir)
    plain = learner(stream, core.identity(), PEAK)
    planned = learner(stream, core.identity(), optim.meta_schedule(plain.spec.steps, PEAK))
    constant, meta = (runs(own, seeds) for own in (plain, planned))
    return [
        *(
            gate(f"{outer}: peaks of the stages less the outer curve (largest, relative)", _peaks(outer), most=1e-5)
            for outer in ("cosine", "invsqrt")
        ),
        gate("largest step of the rate within a stage, by that of its steepest line and cosine", _jump(), most=1.0001),
        estimate(
            f"{WHERE}, 3 epochs each, Adam: points of accuracy on Fashion-MNIST at the end above a constant rate of "
            f"the same peak ({means(constant=retention(constant), meta=retention(meta))})",
            retention(meta) - retention(constant),
            least=0,
        ),
        estimate(
            "the same: points of mean accuracy on the updates at the end above it "
            f"({means(constant=accumulation(constant), meta=accumulation(meta))})",
            accumulation(meta) - accumulation(constant),
            least=0,
        ),
    ]


def _stages(outer: str) -> list[np.ndarray]:
    plan = optim.meta_schedule(LENS, PEAK, outer=outer, warmup=WARMUP)
    rates = np.array([plan(i) for i in range(sum(LENS))], np.float64)
    return np.split(rates, np.cumsum(LENS)[:-1])


def _peaks(outer: str) -> float:
    rise = np.ceil(WARMUP * np.array(LENS)).astype(int)
    since = np.cumsum([0, *LENS[:-1]]) + rise - rise[0]
    if outer == "cosine":
        curve = 0.5 * (1 + np.cos(np.pi * since / (sum(LENS) - rise[0])))
    else:
        curve = np.sqrt(rise[0] / (rise[0] + since))
    found = [stage.max() for stage in _stages(outer)]
    return np.abs(found / (PEAK * curve) - 1).max()


def _jump() -> float:
    """A rise of p in w steps moves p / w a step; half a cosine of n steps at most pi p / (2 n)."""
    worst = 0.0
    for outer in ("cosine", "invsqrt"):
        for stage, length in zip(_stages(outer), LENS, strict=True):
            rise = int(np.ceil(WARMUP * length))
            steepest = stage.max() * max(1 / rise, np.pi / (2 * (length - rise)))
            worst = max(worst, np.abs(np.diff(stage)).max() / steepest)
    return worst


CHECK = Check(
    "ctrain_jax.optim.meta_schedule",
    "Roth, Udandarao, Dziadzio et al., A Practitioner's Guide to Continual Multimodal Pretraining, 2024, arXiv "
    "2408.14471",
    claims,
    rows=(53,),
    data=True,
)
