"""The stability gap: a hand-written trace, and the dip and recovery of a replayed task on Split-MNIST."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from ctrain_jax import continual, core, metrics, models, streams
from experiments._evidence._common import Check, Claim, estimate, gate, handwritten

STEPS, SOON = 400, 50


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `metrics.stability_gap`."""
    hand = np.array([[0.9, 0.0], [0.9, 0.0], [0.3, 0.5], [0.8, 0.6], [0.9, 0.7]])
    gap = metrics.stability_gap(hand, [0, 0, 1, 1, 1], window=5)
    narrow = (metrics.windowed_forgetting(hand, 2)[0], metrics.windowed_plasticity(hand, 2)[0])
    found = np.array([gap.minimum, gap.worst_case, *narrow])
    dropped, missing = _dip(seeds, data_dir)
    return [
        gate(
            "a trace written by hand: minimum .3, worst case .5, drop .6 and rise .5 in a window of 2 (largest error)",
            np.max(np.abs(found - [0.3, 0.5, 0.6, 0.5])),
            most=1e-6,
        ),
        gate(
            "windowed drops and rises equal brute force on random traces (largest difference)",
            _brute_force(),
            most=1e-6,
        ),
        estimate(
            "class-incremental Split-MNIST, ER with 2,000 rows, tested after each step: points that the first "
            f"experience falls within {SOON} steps of the second",
            dropped,
            least=10,
        ),
        estimate(
            "the same: points that are still missing when the second experience is over",
            missing,
            most=5,
        ),
    ]


def _dip(seeds: Sequence[int], data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    whole = streams.class_incremental(handwritten(data_dir), 5)
    stream = whole._replace(experiences=jax.tree.map(lambda x: x[:2], whole.experiences))
    learner = core.make_learner(
        core.from_linen(models.MLP(10)), continual.er(2000), optax.adam(1e-3), stream, batch_size=64, steps=STEPS
    )
    _, trace = core.trace_stream(learner, seeds)
    first = 100 * np.asarray(trace.accuracy)[..., 0]
    end = first[:, STEPS - 1]
    return end - first[:, STEPS : STEPS + SOON].min(1), end - first[:, -1]


def _brute_force() -> float:
    worst = 0.0
    for seed in range(3):
        trace = np.random.default_rng(seed).uniform(size=(40, 3))
        for window in (2, 7, 60):
            pairs = [(m, n) for n in range(40) for m in range(n) if n - m < window]
            drop = np.max([trace[m] - trace[n] for m, n in pairs], axis=0)
            rise = np.max([trace[n] - trace[m] for m, n in pairs], axis=0)
            errors = (
                metrics.windowed_forgetting(trace, window) - np.maximum(drop, 0),
                metrics.windowed_plasticity(trace, window) - np.maximum(rise, 0),
            )
            worst = max(worst, float(np.max(np.abs(errors))))
    return worst


CHECK = Check(
    "ctrain_jax.metrics.stability_gap",
    "De Lange et al., Continual evaluation for lifelong learning: Identifying the stability gap, ICLR 2023, "
    "arXiv 2205.13452",
    claims,
    rows=(299,),
    data=True,
)
