"""NEVIS: the front and the FLOPs by hand, and on ten tasks of four data sets what the past is worth."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, metrics, models, streams
from experiments._evidence._common import Check, Claim, estimate, gate, handwritten, means, runs

STEPS, BATCH, SHAPE = 200, 32, (16, 16, 3)
FRONT = ([0.5, 0.6, 0.4, 0.1, 0.1, 0.3], [1, 1, 2, 5, 6, 5], [0, 2, 3])  # errors, costs, the points that stay


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `streams.nevis`."""
    stream = streams.nevis(_tasks(data_dir), shape=SHAPE, valid_fraction=0.0)
    methods = {"independent": continual.reinitialize(), "ft_previous": core.identity()}
    error = {name: 100 * (1 - _diagonal(runs(learner(stream, method), seeds))) for name, method in methods.items()}
    sizes = stream.experiences["train"].size
    return [
        gate(
            "pareto: points of a list by hand that are on the front and should not be, or the other way",
            _front(),
            most=0,
        ),
        gate("flops_of a product of [m, k] and [k, n], less 2 m k n (largest over three shapes)", _product(), most=0),
        gate("rows that do not belong to exactly one task, and classes to more", _shared(stream), most=0),
        estimate(
            f"{len(sizes)} tasks of digits, MNIST, Fashion-MNIST and CIFAR-10, {min(sizes)} to {max(sizes)} rows, CNN, "
            f"{STEPS} steps each: forward transfer, points of error right after a task that a fresh network has above "
            f"one that goes on from the task before ({means(**error)})",
            error["independent"] - error["ft_previous"],
            least=0,
        ),
    ]


def cut(
    source: core.Source, groups: Sequence[Any], rows: int, name: str, *, turns: int = 0, tested: int = 300
) -> core.Source:
    """So many rows of some classes (or groups of classes: the label is the number of the group), turned by 90 degrees
    so many times."""
    parts = []
    for part, most in ((source.train, rows), (source.test, tested)):
        of = np.full(source.num_classes, -1)
        for label, group in enumerate(groups):
            of[np.atleast_1d(group)] = label
        labels = of[part["labels"]]
        some = [np.flatnonzero(labels == label)[: most // len(groups)] for label in range(len(groups))]
        chosen = np.sort(np.concatenate(some))
        parts += [np.rot90(part["inputs"][chosen], turns, axes=(1, 2)), labels[chosen]]
    return streams.arrays(*parts, name=name)


def _tasks(data_dir: str | None) -> list[core.Source]:
    """Ten tasks of three families: written by hand, of clothes, photographs."""
    mnist, fashion, digits = handwritten(data_dir, 12_000), streams.fashion_mnist(), streams.digits()
    cifar = streams.tfds("cifar10", data_dir, train_split="train[:14000]")
    low, high = range(5), range(5, 10)
    return [
        cut(mnist, low, 5000, "mnist_low"),
        cut(fashion, low, 5000, "fashion_low"),
        cut(cifar, low, 6000, "cifar_low"),
        cut(digits, low, 250, "digits_low"),
        cut(cifar, [(0, 1, 8, 9), (2, 3, 4, 5, 6, 7)], 400, "vehicle_or_animal"),
        cut(fashion, high, 100, "fashion_high"),
        cut(mnist, high, 300, "mnist_high_turned", turns=1),
        cut(cifar, high, 1000, "cifar_high"),
        cut(fashion, [(0, 2, 4, 6), (5, 7, 9)], 60, "shirt_or_shoe"),
        cut(digits, high, 125, "digits_high"),
    ]


def learner(stream: core.Stream, method: core.Method) -> core.Learner:
    """The CNN of all that is compared."""
    model = core.from_linen(models.CNN(stream.source.num_classes, widths=(16, 32)))
    return core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=BATCH, steps=STEPS)


def _diagonal(result: core.Result) -> np.ndarray:
    """The mean over tasks of the accuracy right after each `[S]`."""
    return np.asarray(metrics.learning_accuracy(result.accuracy))


def _front() -> float:
    found = np.flatnonzero(metrics.pareto(*FRONT[:2]))
    return len(set(found.tolist()) ^ set(FRONT[2]))


def _product() -> float:
    def less(m, k, n):
        shaped = jax.ShapeDtypeStruct
        return metrics.flops_of(jnp.matmul, shaped((m, k), jnp.float32), shaped((k, n), jnp.float32)) - 2 * m * k * n

    return max(abs(less(*shape)) for shape in ((3, 4, 5), (128, 784, 100), (1, 1000, 10)))


def _shared(stream: core.Stream) -> int:
    """Rows that are in no task or in several, or whose class is not of their task."""
    wrong = int((stream.origins.classes.sum(0) != 1).sum())
    for split in ("train", "test"):
        e, labels = stream.experiences[split], getattr(stream.source, split)["labels"]
        rows = [r[:n] for r, n in zip(e.rows, e.size, strict=True)]
        wrong += int((np.bincount(np.concatenate(rows), minlength=len(labels)) != 1).sum())
        wrong += sum(int((~stream.origins.classes[t][labels[r]]).sum()) for t, r in enumerate(rows))
    return wrong


CHECK = Check(
    "ctrain_jax.streams.nevis",
    "Bornschein, Galashov, Hemsley, Rannen-Triki et al., NEVIS'22: A Stream of 100 Tasks Sampled from 30 Years of "
    "Computer Vision Research, 2022, arXiv 2211.11747",
    claims,
    rows=(22,),
    data=True,
)
