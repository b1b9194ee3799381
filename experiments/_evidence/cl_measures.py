"""The measures of the survey: by hand, in loops, and the trade between stability and plasticity that they show."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from ctrain_jax import continual, core, metrics, models, streams
from experiments._evidence._common import Check, Claim, estimate, gate, means, runs


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `metrics.cl_measures`."""
    matrices = np.random.default_rng(0).uniform(size=(100, 5, 5)).astype(np.float32)
    matrices[50:] = np.where(np.eye(5, dtype=bool), 1.0, matrices[50:])
    both = metrics.cl_measures(matrices)
    above = np.asarray(both.forgetting + both.backward_transfer)
    naive, er = _measured(seeds)
    return [
        gate("a matrix of three experiences by hand, all seven numbers (largest error)", _by_hand(), most=1e-6),
        gate(
            "compiled and mapped over seeds, the sums of the definitions written as loops (largest error)",
            _loops(),
            most=1e-6,
        ),
        gate(
            "forgetting is at least minus backward transfer on 100 random matrices (smallest difference)",
            above.min(),
            least=-1e-6,
        ),
        gate(
            "and equal to it on the 50 whose experiences peak when they are learned (largest difference)",
            np.abs(above[50:]).max(),
            most=1e-6,
        ),
        estimate(
            "class-incremental digits, MLP, er with 200 rows: points of forgetting less than naive "
            f"({means(naive=naive.forgetting, er=er.forgetting)})",
            naive.forgetting - er.forgetting,
            least=30,
        ),
        estimate(
            "the same: points of intransigence more than naive, against one learner of all data so far "
            f"({means(naive=naive.intransigence, er=er.intransigence)})",
            er.intransigence - naive.intransigence,
            least=0,
        ),
    ]


def _by_hand() -> float:
    matrix = [[0.90, 0.99, 0.30], [0.95, 0.80, 0.97], [0.60, 0.50, 0.70]]
    run = metrics.cl_measures(matrix, joint=[0.90, 0.95, 0.85], scratch=[0.85, 0.90, 0.40], baseline=[0.40, 0.10, 0.20])
    return np.max(np.abs(np.array(run) - [0.60, 2.375 / 3, 0.325, -0.30, 0.10, 0.10, 0.83]))


def _loops() -> float:
    rng = np.random.default_rng(1)
    matrix = rng.uniform(size=(3, 6, 6)).astype(np.float32)
    references = {name: rng.uniform(size=(3, 6)).astype(np.float32) for name in ("joint", "scratch", "baseline")}
    mapped = jax.jit(jax.vmap(lambda m, r: metrics.cl_measures(m, **r)))(matrix, references)
    worst, num = 0.0, 6
    for s in range(3):
        a = matrix[s].astype(np.float64)
        joint, scratch, baseline = (references[name][s] for name in ("joint", "scratch", "baseline"))
        want = [
            a[-1].mean(),
            np.mean([a[i, : i + 1].mean() for i in range(num)]),
            np.mean([a[j:-1, j].max() - a[-1, j] for j in range(num - 1)]),
            np.mean([a[-1, j] - a[j, j] for j in range(num - 1)]),
            np.mean([joint[k] - a[k, k] for k in range(num)]),
            np.mean([a[j, j] - scratch[j] for j in range(1, num)]),
            np.mean([a[j - 1, j] - baseline[j] for j in range(1, num)]),
        ]
        worst = max(worst, np.max(np.abs(np.array([x[s] for x in mapped]) - want)))
    return worst


def _measured(seeds: Sequence[int]) -> list[metrics.ClMeasures]:
    """Of naive and er, in points."""
    stream = streams.class_incremental(streams.digits(), 5)
    model = core.from_linen(models.MLP(10, hidden=(100,)))

    def matrix(method, stream):
        learner = core.make_learner(model, method, optax.adam(1e-3), stream, epochs=10)
        return 100 * np.asarray(runs(learner, seeds).accuracy)

    joint = np.diagonal(matrix(core.identity(), streams.cumulative(stream)), axis1=1, axis2=2)
    found = [metrics.cl_measures(matrix(m, stream), joint=joint) for m in (core.identity(), continual.er(200))]
    return [metrics.ClMeasures(*map(np.asarray, run)) for run in found]


CHECK = Check(
    "ctrain_jax.metrics.cl_measures",
    "Wang, Zhang, Su and Zhu, A Comprehensive Survey of Continual Learning: Theory, Method and Application, 2023, "
    "arXiv 2302.00487",
    claims,
    rows=(150,),
)
