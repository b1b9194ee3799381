"""NEVIS: one stream of many image data sets, each a task of its own, in the order in which they were published.

Bornschein, Galashov, Hemsley, Rannen-Triki et al., "NEVIS'22: A Stream of 100 Tasks Sampled from 30 Years of Computer
Vision Research", 2022, arXiv 2211.11747. Opened at the source: the learners and the metrics of google-deepmind/dm_nevis
(`finetuning_dknn_learner.py`, `nevis_metrics.py`); the paper was not opened. The numbers of the protocol are on the
diagonal of the accuracy matrix (each task by the network as it was right after it) and `metrics.flops_of`;
`metrics.pareto` says which learners are worth their cost.

Where we differ: the tasks are those that the user gives, single-label classification alone; images are brought to one
shape when the stream is made, and by default to that of the largest task; a validation set is cut from the training
rows by class.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ctrain_jax.core._base import Source, Stream
from ctrain_jax.ops import check_choice
from ctrain_jax.streams._assemble import held_out_rows, tested_apart

_PARTS = ("all", "meta_train", "meta_test")


def nevis(
    tasks: Sequence[Source],
    *,
    shape: tuple[int, int, int] | None = None,
    fit: str = "resize",
    part: str = "all",
    num_meta_train: int = 0,
    valid_fraction: float = 0.1,
    seed: int = 0,
) -> Stream:
    """Image data sets one after another, each with classes of its own; the task of a row is known.

    The rows of all tasks become one source: images of one shape, and the labels of a task follow those of the task
    before it. A learner is designed on the first tasks, with any number of runs (`part="meta_train"`), and judged on
    the rest, or on the whole, in one run. All three are streams over the same source and the same classes, so that one
    model fits them.

    Args:
        tasks: sources of uint8 images `[N, H, W]`, or `[N, H, W, C]` with 1 or 3 channels, without a mean and std.
        shape: height, width and channels (1 or 3) of every image; by default the largest of each. Grey becomes RGB by
            repetition, RGB grey by its luma (ITU-R 601); one channel gives `[N, H, W]`.
        fit: "resize" (bilinear, both sides as they come) or "pad" (zeros around the image, which must not be larger).
        part: "all" of the tasks, the first `num_meta_train` ("meta_train") or those after them ("meta_test").
        num_meta_train: tasks to design a learner on.
        valid_fraction: the share of the training rows of each class that becomes the "valid" split, rounded; 0 for no
            such split.
        seed: draws the validation rows.

    Returns:
        A `Stream` with an experience for each task, `heads="task"` and `task_known=True`. Its source holds the rows of
        all tasks, whatever `part` is.

    Raises:
        TypeError: tasks that are no sources of uint8 images in memory.
        ValueError: no task, images of another number of axes or channels, a `shape` or `fit` that does not suit them, a
            `part` without tasks, a `valid_fraction` outside of [0, 1).

    Example:
        >>> from ctrain_jax import streams
        >>> stream = nevis([streams.digits(), streams.fashion_mnist()], shape=(16, 16, 3))
        >>> stream.source.train["inputs"].shape, stream.source.num_classes, stream.experiences["train"].size.tolist()
        ((11437, 16, 16, 3), 20, [1294, 9000])

    References:
        Bornschein et al., NEVIS'22, 2022, arXiv 2211.11747.
    """
    check_choice("fit", fit, ("resize", "pad"))
    check_choice("part", part, _PARTS)
    tasks = list(tasks)
    _check_tasks(tasks)
    num = len(tasks)
    if isinstance(num_meta_train, bool) or not 0 <= num_meta_train <= num:
        raise ValueError(f"nevis: num_meta_train must lie between 0 and {num} tasks, got {num_meta_train}.")
    chosen = {"all": range(num), "meta_train": range(num_meta_train), "meta_test": range(num_meta_train, num)}[part]
    if not chosen:
        raise ValueError(f"nevis: part={part!r} has no task with num_meta_train={num_meta_train} of {num}; change it.")
    wanted = _common_shape(tasks) if shape is None else shape
    if len(wanted) != 3 or min(wanted) < 1 or wanted[2] not in (1, 3):
        raise ValueError(f"nevis: shape must be height, width and 1 or 3 channels, got {wanted}; as in (32, 32, 3).")
    first = np.cumsum([0, *(task.num_classes for task in tasks)])
    train, test = (_merged(tasks, split, wanted, fit, first) for split in ("train", "test"))
    source = Source("nevis", train, test, int(first[-1]))
    held_out = held_out_rows("nevis", source, valid_fraction, seed)
    rows = {split: _rows(tasks, split) for split in ("train", "test")}
    members = {
        "train": [rows["train"][t][~held_out[rows["train"][t]]] for t in chosen],
        "valid": [rows["train"][t][held_out[rows["train"][t]]] for t in chosen],
        "test": [rows["test"][t] for t in chosen],
    }
    number = np.arange(source.num_classes)
    classes = np.stack([(first[t] <= number) & (number < first[t + 1]) for t in chosen])
    stream = tested_apart("nevis", source, members, classes, valid_fraction)
    name = "nevis" if part == "all" else f"nevis_{part}"
    return stream._replace(name=name, heads="task", task_known=True)


def _check_tasks(tasks: list[Any]) -> None:
    if not tasks:
        raise ValueError("nevis: tasks must be at least one source, got none; give streams.digits(), say.")
    for t, task in enumerate(tasks):
        if not isinstance(task, Source):
            raise TypeError(f"nevis: task {t} must be a Source, got {type(task).__name__}; use streams.arrays.")
        for part in (task.train, task.test):
            inputs, labels = part["inputs"], part["labels"]
            if not isinstance(inputs, np.ndarray) or inputs.dtype != np.uint8 or labels.dtype.kind != "i":
                raise TypeError(
                    f"nevis: task {t} ({task.name}) must have uint8 images in memory and integer labels, got "
                    f"{type(inputs).__name__} of {inputs.dtype} and {labels.dtype}; convert it by streams.arrays."
                )
            if inputs.ndim not in (3, 4) or (inputs.ndim == 4 and inputs.shape[3] not in (1, 3)):
                raise ValueError(
                    f"nevis: the images of task {t} ({task.name}) must be [N, H, W] or [N, H, W, 1 or 3], got "
                    f"{inputs.shape}; reshape them."
                )
        if task.mean is not None or task.std is not None:
            raise ValueError(
                f"nevis: task {t} ({task.name}) has a mean or std of its own, and a stream has one for all tasks; "
                "leave them out, and give them to the source of the stream."
            )


def _channels(images: np.ndarray) -> int:
    return 1 if images.ndim == 3 else images.shape[3]


def _common_shape(tasks: list[Source]) -> tuple[int, int, int]:
    images = [task.train["inputs"] for task in tasks]
    return max(x.shape[1] for x in images), max(x.shape[2] for x in images), max(map(_channels, images))


def _rows(tasks: list[Source], split: str) -> list[np.ndarray]:
    """The row numbers of each task in the merged source."""
    sizes = [len(getattr(task, split)["labels"]) for task in tasks]
    return np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])


def _merged(
    tasks: list[Source], split: str, shape: tuple[int, int, int], fit: str, first: np.ndarray
) -> dict[str, np.ndarray]:
    parts = [getattr(task, split) for task in tasks]
    inputs = np.empty((sum(len(p["labels"]) for p in parts), *(shape if shape[2] == 3 else shape[:2])), np.uint8)
    for t, (part, rows) in enumerate(zip(parts, _rows(tasks, split), strict=True)):
        images = _coloured(part["inputs"], shape[2])
        inputs[rows] = _resized(images, shape[:2]) if fit == "resize" else _padded(images, shape[:2], t)
    labels = [part["labels"] + offset for part, offset in zip(parts, first, strict=False)]
    return {"inputs": inputs, "labels": np.concatenate(labels).astype(np.int32)}


def _coloured(images: np.ndarray, channels: int) -> np.ndarray:
    """`[N, H, W]` for one channel, `[N, H, W, 3]` for three."""
    grey = images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
    if channels == 1 and grey.ndim == 4:
        return np.round(grey @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3) if channels == 3 and grey.ndim == 3 else grey


def _resized(images: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if images.shape[1:3] == tuple(size):
        return images
    from PIL import Image

    height, width = size
    wanted = (width, height)
    return np.stack([np.asarray(Image.fromarray(x).resize(wanted, Image.Resampling.BILINEAR)) for x in images])


def _padded(images: np.ndarray, size: tuple[int, ...], t: int) -> np.ndarray:
    spare = [wanted - given for wanted, given in zip(size, images.shape[1:3], strict=True)]
    if min(spare) < 0:
        raise ValueError(
            f"nevis: the images of task {t}, {images.shape[1:3]}, are larger than shape {size}; use fit='resize'."
        )
    around = [(s // 2, s - s // 2) for s in spare]
    return np.pad(images, [(0, 0), *around, *[(0, 0)] * (images.ndim - 3)])
