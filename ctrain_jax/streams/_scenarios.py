"""Scenarios in which the classes of a source arrive in pieces, and what joins the pieces again.

Class-, task- and domain-incremental learning as van de Ven and Tolias distinguish them (2019, arXiv:1904.07734): the
same split of the classes, and a row is told apart from all classes, from its own task's, or from the task's after
relabelling. Written from the description in the paper.
"""

from collections.abc import Sequence

import numpy as np

from ctrain_jax.core._base import Source, Stream
from ctrain_jax.streams._assemble import class_order_of, split, stack, unpadded


def class_incremental(
    source: Source,
    num_experiences: int,
    *,
    class_order: Sequence[int] | None = None,
    seed: int | None = None,
    valid_fraction: float = 0.0,
    heads: str = "all",
) -> Stream:
    """New classes arrive in each experience; a row is told apart from all of them, and its task is not known.

    Args:
        source: a classification source.
        num_experiences: the number of experiences `T`. Classes are dealt in order, `C // T` to each, and one more to
            each of the first `C % T`.
        class_order: the order of the classes, a permutation of `0..C-1`; else a permutation drawn from `seed`.
        seed: draws the order of the classes (None: ascending) and the validation rows (None counts as 0).
        valid_fraction: the share of the training rows of each class that becomes the "valid" split, rounded.
        heads: "all" classes compete from the start, or only those "seen" so far.

    Returns:
        A `Stream` of `T` experiences.

    Raises:
        ValueError: a number, an order, a fraction or a `heads` that does not fit, or an experience without a row.

    Example:
        >>> from ctrain_jax import streams
        >>> stream = class_incremental(streams.digits(), 4)
        >>> stream.experiences["train"].size.tolist(), stream.experiences["train"].classes.sum(axis=1).tolist()
        ([429, 438, 288, 282], [3, 3, 2, 2])

    References:
        van de Ven and Tolias, Three scenarios for continual learning, 2019, arXiv:1904.07734.
    """
    if heads not in ("all", "seen"):
        raise ValueError(
            f"class_incremental: heads must be 'all' or 'seen', got {heads!r}; for a head a task use task_incremental."
        )
    stream = split("class_incremental", source, num_experiences, class_order, seed, valid_fraction)
    return stream._replace(heads=heads)


def task_incremental(
    source: Source,
    num_experiences: int,
    *,
    class_order: Sequence[int] | None = None,
    seed: int | None = None,
    valid_fraction: float = 0.0,
) -> Stream:
    """New classes arrive in each experience; the task of a row is known, and it is told apart from its task's classes.

    Args:
        source: a classification source.
        num_experiences: the number of experiences; classes are dealt as in `class_incremental`.
        class_order: see `class_incremental`.
        seed: see `class_incremental`.
        valid_fraction: see `class_incremental`.

    Returns:
        A `Stream` with `heads="task"` and `task_known=True`.

    Raises:
        ValueError: as `class_incremental`.

    Example:
        >>> from ctrain_jax import streams
        >>> stream = task_incremental(streams.digits(), 5)
        >>> stream.heads, stream.task_known, stream.origins.classes[1].nonzero()[0].tolist()
        ('task', True, [2, 3])

    References:
        van de Ven and Tolias, Three scenarios for continual learning, 2019, arXiv:1904.07734.
    """
    stream = split("task_incremental", source, num_experiences, class_order, seed, valid_fraction)
    return stream._replace(heads="task", task_known=True)


def domain_incremental(
    source: Source,
    num_experiences: int,
    *,
    class_order: Sequence[int] | None = None,
    seed: int | None = None,
    valid_fraction: float = 0.0,
) -> Stream:
    """New classes arrive in each experience, and the label of a row is the position of its class among them.

    "Is it the first or the second class of its pair?" (split MNIST: even or odd). The stream's source is a relabelled
    copy with `C / T` classes; the task of a row is not known.

    Args:
        source: a classification source.
        num_experiences: the number of experiences `T`; must divide the number of classes.
        class_order: see `class_incremental`; positions follow this order.
        seed: see `class_incremental`.
        valid_fraction: see `class_incremental`.

    Returns:
        A `Stream` in which every experience has the same classes.

    Raises:
        ValueError: as `class_incremental`, and when the classes cannot be dealt evenly.

    Example:
        >>> from ctrain_jax import streams
        >>> stream = domain_incremental(streams.digits(), 5)
        >>> stream.source.num_classes, stream.origins.classes.tolist()[4]
        (2, [True, True])

    References:
        van de Ven and Tolias, Three scenarios for continual learning, 2019, arXiv:1904.07734.
    """
    stream = split("domain_incremental", source, num_experiences, class_order, seed, valid_fraction)
    if source.num_classes % num_experiences:
        raise ValueError(
            f"domain_incremental: every experience needs equally many classes, got {source.num_classes} classes for "
            f"{num_experiences} experiences; choose a number that divides them."
        )
    width = source.num_classes // num_experiences
    order = class_order_of("domain_incremental", source.num_classes, class_order, seed)
    position = np.empty(source.num_classes, np.int32)
    position[order] = np.arange(source.num_classes, dtype=np.int32) % width
    train, test = ({**part, "labels": position[part["labels"]]} for part in (source.train, source.test))
    shared = np.ones((num_experiences, width), bool)
    return stream._replace(
        source=source._replace(train=train, test=test, num_classes=width),
        experiences={name: e._replace(classes=shared, seen=shared) for name, e in stream.experiences.items()},
        origins=stream.origins._replace(classes=shared),
    )


def joint(stream: Stream) -> Stream:
    """One experience with every training row of a stream, each under its own view: the usual upper bound.

    Args:
        stream: any stream; its test and valid experiences, origins and view stay as they are.

    Returns:
        A `Stream` with one training experience of as many rows as all of the stream's together.

    Example:
        >>> from ctrain_jax import streams
        >>> stream = joint(class_incremental(streams.digits(), 5))
        >>> stream.experiences["train"].size.tolist(), stream.experiences["test"].size.tolist()
        ([1437], [72, 72, 72, 72, 72])
    """
    rows, origins = unpadded(stream.experiences["train"])
    classes = np.asarray(stream.experiences["train"].seen)[-1:]
    train = stack("train", [np.concatenate(rows)], [np.concatenate(origins)], classes)
    return stream._replace(name=f"{stream.name}_joint", experiences={**stream.experiences, "train": train})


def cumulative(stream: Stream) -> Stream:
    """As many experiences as before, where the t-th holds all training rows of the first t, each under its own view.

    Args:
        stream: any stream; its test and valid experiences, origins and view stay as they are.

    Returns:
        A `Stream` whose training experiences grow.

    Example:
        >>> from ctrain_jax import streams
        >>> cumulative(class_incremental(streams.digits(), 5)).experiences["train"].size.tolist()
        [288, 576, 867, 1155, 1437]
    """
    rows, origins = unpadded(stream.experiences["train"])
    until = range(1, len(rows) + 1)
    train = stack(
        "train",
        [np.concatenate(rows[:t]) for t in until],
        [np.concatenate(origins[:t]) for t in until],
        np.asarray(stream.experiences["train"].seen),
    )
    return stream._replace(name=f"{stream.name}_cumulative", experiences={**stream.experiences, "train": train})
