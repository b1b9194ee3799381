"""Si-Blurry: every row once and as many away from home as they should be; what replay gains where boundaries blur."""

from collections.abc import Sequence

import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import SIZE, Check, Claim, estimate, final, gate, means, runs

NUM = 5


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `streams.si_blurry`."""
    amiss, shared, distance = _rows()
    er, naive = (_learned(method, seeds) for method in (continual.er(SIZE), core.identity()))
    return [
        gate("Fashion-MNIST, 5 seeds: training rows that do not arrive exactly once", amiss, most=0),
        gate("the same with blurry_ratio 0: classes that arrive in more than one experience", shared, most=0),
        gate(
            "the same, 20 seeds: distance of the rows of blurry classes away from home to n (T - 1) / T in standard "
            "errors",
            distance,
            most=3,
        ),
        estimate(
            f"Fashion-MNIST, MLP, one pass, a stream for each seed: points of ER with {SIZE} rows above naive "
            f"({means(er=er, naive=naive)})",
            er - naive,
            least=10,
        ),
    ]


def _rows() -> tuple[int, int, float]:
    """Rows that do not arrive once, classes that come twice without blur, and the share away from home."""
    source = streams.fashion_mnist()
    labels, each = source.train["labels"], len(source.train["labels"]) // 10
    amiss = shared = away = moved = 0
    for seed in range(20):
        table = np.zeros((NUM, 10), int)
        train = streams.si_blurry(source, NUM, seed=seed).experiences["train"]
        rows = [np.asarray(r)[:n] for r, n in zip(train.rows, train.size, strict=True)]
        for t, own in enumerate(rows):
            np.add.at(table[t], labels[own], 1)
        blurry = np.count_nonzero(table, axis=0) > 1
        away += (table.sum(0) - table.max(0))[blurry].sum()
        moved += round(0.1 * 5 * each)
        if seed < 5:
            arrived = np.bincount(np.concatenate(rows), minlength=len(labels))
            amiss += np.count_nonzero(arrived != 1)
            classes = streams.si_blurry(source, NUM, blurry_ratio=0.0, seed=seed).experiences["train"].classes
            shared += np.count_nonzero(np.sum(classes, axis=0) != 1)
    return amiss, shared, abs(away - moved * (NUM - 1) / NUM) / np.sqrt(moved * (NUM - 1) / NUM**2)


def _learned(method: core.Method, seeds: Sequence[int]) -> np.ndarray:
    """Final accuracy on all classes `[S]`."""
    found = []
    for seed in seeds:
        stream = streams.si_blurry(streams.fashion_mnist(), NUM, seed=seed)
        model = core.from_linen(models.MLP(10, hidden=(100,)))
        learner = core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=16)
        found.append(final(runs(learner, [seed]))[0])
    return np.array(found)


CHECK = Check(
    "ctrain_jax.streams.si_blurry",
    "Moon, Park, Kim and Park, Online Class Incremental Learning on Stochastic Blurry Task Boundary via Mask and "
    "Visual Prompt Tuning, ICCV 2023, arXiv 2308.09303",
    claims,
    rows=(32,),
)
