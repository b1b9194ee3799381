"""What a search for hyper-parameters may see: streams without test rows, and classes that are kept for later.

Cha and Cho, "Hyperparameters in Continual Learning: a Reality Check", 2024, arXiv 2403.09066 (the protocol of tuning on
one part of the classes, or on one data set, and evaluating on another). The abstract was opened, the paper was not.
"""

from collections.abc import Sequence

import numpy as np

from ctrain_jax.core._base import Experience, Source, Stream
from ctrain_jax.streams._assemble import check_source


def only_classes(source: Source, classes: Sequence[int]) -> Source:
    """The rows of some classes, which are numbered from 0 in the order given.

    Args:
        source: a classification source.
        classes: at least one, each once.

    Returns:
        A `Source` of `len(classes)` classes, whose rows keep their order.

    Raises:
        ValueError: no class, one twice, or one that the source does not have; float labels.
        TypeError: not a source.

    Example:
        >>> from ctrain_jax import streams
        >>> half = only_classes(streams.digits(), [5, 6, 7, 8, 9])
        >>> half.num_classes, np.bincount(half.test["labels"]).tolist()
        (5, [36, 36, 36, 36, 36])
    """
    check_source("only_classes", source, 1)
    if np.asarray(source.train["labels"]).dtype.kind != "i":
        raise ValueError("only_classes: the source must have integer labels; give a classification.")
    chosen = [int(c) for c in classes]
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(source.num_classes)):
        raise ValueError(
            f"only_classes expects different classes of 0 to {source.num_classes - 1}, got {list(classes)}: name each "
            "that is to stay once."
        )
    number = np.full(source.num_classes, -1, np.int32)
    number[chosen] = np.arange(len(chosen))

    def kept(part: dict) -> dict:
        labels = number[np.asarray(part["labels"])]
        rows = np.flatnonzero(labels >= 0)
        return {field: values[rows] for field, values in part.items()} | {"labels": labels[rows]}

    name = f"{source.name}[{','.join(map(str, chosen))}]"
    return source._replace(name=name, train=kept(source.train), test=kept(source.test), num_classes=len(chosen))


def selection(stream: Stream) -> Stream:
    """The stream that hyper-parameters are chosen on: tests ask its validation rows, and its test rows are gone.

    Whatever looks at this stream, an evaluation, a search, a plot, cannot see a test row: `source.test` holds copies of
    the validation rows alone, and there is no "valid" split any more.

    Args:
        stream: one with validation rows, as scenarios make with `valid_fraction`.

    Returns:
        A `Stream` called `selection(...)` with the same training rows.

    Raises:
        ValueError: a stream without validation rows.

    Example:
        >>> from ctrain_jax import streams
        >>> stream = streams.class_incremental(streams.digits(), 5, valid_fraction=0.1)
        >>> chosen_on = selection(stream)
        >>> chosen_on.name, chosen_on.experiences["test"].size.tolist() == stream.experiences["valid"].size.tolist()
        ('selection(digits_class_incremental)', True)
    """
    if "valid" not in stream.experiences:
        raise ValueError(
            f"selection needs validation rows, and {stream.name} holds none out: set valid_fraction of its scenario."
        )
    valid = stream.experiences["valid"]
    rows, place = np.unique(np.asarray(valid.rows), return_inverse=True)
    test = Experience(*valid)._replace(rows=place.reshape(valid.rows.shape).astype(np.int32))
    held_out = {field: values[rows] for field, values in stream.source.train.items()}
    return stream._replace(
        name=f"selection({stream.name})",
        source=stream.source._replace(test=held_out),
        experiences={"train": stream.experiences["train"], "test": test},
    )
