"""The L2M measures: closed forms, a table by the authors' package, and runs that remember and that transfer."""

from collections.abc import Sequence

import numpy as np
import optax

from ctrain_jax import continual, core, metrics, models, streams
from experiments._evidence._common import Check, Claim, estimate, gate, means, runs

ANGLES, EVERY = (0, 15, 30, 45, 60), 5


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `metrics.l2_metrics`."""
    kept = {"naive": _kept(core.identity(), seeds), "er": _kept(continual.er(200), seeds)}
    return [
        gate(
            "closed forms: nothing forgotten is 0, a drop of d each block its mean, no change is contrast 0 and ratio "
            "1, curves of the expert are 1, twice the experience is an efficiency of 1/2 (largest error)",
            _closed_forms(),
            most=1e-6,
        ),
        gate(
            "six blocks of three experiences, curves and experts: maintenance, transfer both ways, relative "
            "performance, efficiency and recovery as the authors' package has them (largest error)",
            _package(),
            most=1e-6,
        ),
        estimate(
            "class-incremental digits, MLP, er with 200 rows: points of performance maintenance above naive "
            f"({means(**kept)})",
            kept["er"] - kept["naive"],
            least=30,
        ),
        estimate(
            "digits turned by 15 degrees more in each of 5 experiences, naive: relative performance over experts that "
            "start anew, without the first experience",
            _relative(seeds),
            least=1,
        ),
    ]


def _closed_forms() -> float:
    same, d = np.full((4, 4), 0.5), 0.1
    falling = 0.9 - d * np.maximum(np.arange(4)[:, None] - np.arange(4), 0)
    soon, late = (np.minimum(np.arange(n) / n * 3, 1) for n in (60, 120))
    run = metrics.l2_metrics(same, baseline=same[0], curves=np.tile(soon, (4, 1)), experts=np.tile(soon, (4, 1)))
    found = [
        *run[:5],
        *metrics.performance_maintenance(falling)[:3],
        *(np.nanmean(metrics.transfer(same, kind="ratio", direction=way)) for way in ("forward", "backward")),
        metrics.sample_efficiency(late, soon),
    ]
    return np.max(np.abs(np.array(found) - [0, 0, 0, 1, 1, -2 * d, -1.5 * d, -d, 1, 1, 0.5]))


def _package() -> float:
    """Against what the classes of the package l2metrics give for this table, taken as it is."""
    columns = [[0.8, 0.6, 0.9, 0.7, 0.5, 0.85], [0.3, 0.9, 0.5, 0.4, 0.95, 0.65], [0.2, 0.4, 0.3, 0.8, 0.6, 0.35]]
    curves = [
        [0.1, 0.2, 0.4, 0.5, 0.7, 0.8, 0.75, 0.8, 0.85, 0.8],
        [0.3, 0.5, 0.6, 0.7, 0.85, 0.9, 0.9, 0.85, 0.9, 0.9],
        [0.4, 0.6, 0.7, 0.85, 0.9, 0.9, 0.95, 0.9, 0.9, 0.85],
        [0.4, 0.5, 0.5, 0.6, 0.65, 0.7, 0.8, 0.75, 0.8, 0.8],
        [0.5, 0.8, 0.9, 0.95, 0.9, 0.95, 0.95, 0.9, 0.95, 0.95],
        [0.6, 0.86, 0.9, 0.8, 0.85, 0.9, 0.85, 0.95, 0.9, 0.9],
    ]
    experts = [
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.85, 0.8],
        [0.2, 0.4, 0.6, 0.7, 0.8, 0.8, 0.85, 0.9, 0.9, 0.85, 0.8, 0.85],
        [0.1, 0.3, 0.5, 0.6, 0.8, 0.85, 0.9, 0.9, 0.85, 0.8, 0.9, 0.85],
    ]
    run = metrics.l2_metrics(
        np.transpose(columns), [0, 1, 0, 2, 1, 0], baseline=[0.1, 0.2, 0.25], curves=curves, experts=experts
    )
    theirs = [
        [-0.2666666666666667, -0.4, -0.325],
        [0.2, -0.1111111111111111, 0.3333333333333333],
        [-0.142857142857143, -0.285714285714286, -0.125, -0.111111111111111, -0.142857142857143, -0.263157894736842],
        [0.9857142857142857, 1.0057803468208093, 0.9848484848484849],
        [0.31321839080459773, 0.48611111111111116, 0.888888888888889],
        [2.0],
    ]
    return np.max(np.abs(np.array(run) - [np.mean(x) for x in theirs]))


def _kept(method: core.Method, seeds: Sequence[int]) -> np.ndarray:
    """Performance maintenance in points `[S]`."""
    stream = streams.class_incremental(streams.digits(), 5)
    model = core.from_linen(models.MLP(10, hidden=(100,)))
    result = runs(core.make_learner(model, method, optax.adam(1e-3), stream, epochs=10), seeds)
    return 100 * np.asarray(metrics.l2_metrics(result.accuracy).performance_maintenance)


def _relative(seeds: Sequence[int]) -> np.ndarray:
    """Relative performance `[S]`, the mean over all but the first experience."""

    def traced(learner, data=None):
        _, trace = core.trace_stream(learner, seeds, every=EVERY, data=data)
        own = [np.asarray(trace.accuracy)[:, trace.experience == t, t] for t in range(trace.accuracy.shape[-1])]
        return np.stack(own, 1)

    def turned(angles):
        stream = streams.rotated(streams.digits(), len(angles), degrees=angles)
        model = core.from_linen(models.MLP(10, hidden=(100,)))
        return core.make_learner(model, core.identity(), optax.adam(1e-3), stream, epochs=2)

    curves, alone = traced(turned(ANGLES)), turned(ANGLES[:1])
    # One program for all experts: their streams differ in the angle alone.
    experts = [traced(alone, core.to_device(turned([angle]).stream)) for angle in ANGLES[1:]]
    return np.asarray(metrics.relative_performance(curves[:, 1:], np.concatenate(experts, 1))).mean(1)


CHECK = Check(
    "ctrain_jax.metrics.l2_metrics",
    "Baker, New, Aguilar-Simon et al., A Domain-Agnostic Approach for Characterization of Lifelong Learning Systems, "
    "2023, arXiv 2301.07799",
    claims,
    rows=(194,),
)
