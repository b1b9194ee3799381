"""How the scenarios put a stream together: which rows, padded how, held out how."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ctrain_jax.core._base import Experience, Origins, PyTree, Source, Stream


def split(
    kind: str,
    source: Source,
    num_experiences: int,
    class_order: Sequence[int] | None,
    seed: int | None,
    valid_fraction: float,
) -> Stream:
    """The stream of a source whose classes are dealt to experiences."""
    check_classes(kind, source, num_experiences)
    labels = source.train["labels"]
    if not 1 <= num_experiences <= source.num_classes:
        raise ValueError(
            f"{kind}: num_experiences must lie between 1 and the number of classes, {source.num_classes}, got "
            f"{num_experiences}; an experience needs a class of its own."
        )
    order = class_order_of(kind, source.num_classes, class_order, seed)
    classes = np.zeros((num_experiences, source.num_classes), bool)
    for t, dealt in enumerate(np.array_split(order, num_experiences)):
        classes[t, dealt] = True
    held_out = held_out_rows(kind, source, valid_fraction, seed or 0)
    members = {
        "train": [np.flatnonzero(c[labels] & ~held_out) for c in classes],
        "valid": [np.flatnonzero(c[labels] & held_out) for c in classes],
        "test": [np.flatnonzero(c[source.test["labels"]]) for c in classes],
    }
    return tested_apart(kind, source, members, classes, valid_fraction)


def everything(
    kind: str,
    source: Source,
    num_experiences: int,
    seed: int,
    valid_fraction: float,
    view: np.ndarray,
    view_fn: Callable[[jax.Array, PyTree], jax.Array],
) -> Stream:
    """The stream of a source that arrives whole in each experience, under another view."""
    check_source(kind, source, num_experiences)
    if num_experiences < 1:
        raise ValueError(f"{kind}: num_experiences must be at least 1, got {num_experiences}; ask for one or more.")
    held_out = held_out_rows(kind, source, valid_fraction, seed)
    members = {
        "train": [np.flatnonzero(~held_out)] * num_experiences,
        "valid": [np.flatnonzero(held_out)] * num_experiences,
        "test": [np.arange(len(source.test["labels"]))] * num_experiences,
    }
    classes = np.ones((num_experiences, source.num_classes), bool)
    stream = tested_apart(kind, source, members, classes, valid_fraction)
    return stream._replace(origins=stream.origins._replace(view=view), view_fn=view_fn)


def check_source(kind: str, source: Any, num_experiences: Any) -> None:
    """Raises unless a stream of that kind can be made of so many experiences: their rows are counted in 32 bits."""
    if not isinstance(source, Source):
        raise TypeError(f"{kind}: source must be a Source, got {type(source).__name__}; make one with streams.arrays.")
    if not isinstance(num_experiences, int | np.integer) or isinstance(num_experiences, bool):
        raise TypeError(f"{kind}: num_experiences must be a whole number, got {num_experiences!r}.")
    if num_experiences * len(source.train["labels"]) >= 2**31:
        raise ValueError(
            f"{kind}: the rows of all experiences must be fewer than 2**31, got num_experiences={num_experiences} of "
            f"{len(source.train['labels'])}; ask for fewer."
        )


def check_classes(kind: str, source: Any, num_experiences: Any) -> None:
    """Raises unless a stream of that kind, in which classes arrive, can be made of so many experiences."""
    check_source(kind, source, num_experiences)
    labels = source.train["labels"]
    if labels.dtype.kind != "i":
        raise ValueError(
            f"{kind}: the source must have integer labels, got {labels.dtype}; a regression can be permuted."
        )


def tested_apart(
    kind: str, source: Source, members: dict[str, list[np.ndarray]], classes: np.ndarray, valid_fraction: float
) -> Stream:
    """The stream in which the t-th experience of each split has the t-th member rows and the t-th origin."""
    experiences = {
        split: stack(split, rows, [np.full(len(r), t) for t, r in enumerate(rows)], classes)
        for split, rows in members.items()
        if split != "valid" or valid_fraction > 0
    }
    task: Any = np.arange(len(classes), dtype=np.int32)
    origin_classes: Any = classes
    return Stream(
        name=f"{source.name}_{kind}",
        source=source,
        experiences=experiences,
        origins=Origins(task=task, classes=origin_classes),
    )


def tested_together(
    kind: str,
    source: Source,
    rows: list[np.ndarray],
    classes: np.ndarray,
    tested: np.ndarray,
    held_out: np.ndarray,
    valid_fraction: float,
) -> Stream:
    """The stream in which such rows arrive, and all test rows of the classes `tested` `[C]` are one test experience.

    The rows of the test and of "valid" have an origin of their own, the last one, with all of these classes.
    """
    num, whole = len(rows), tested[None]
    train = stack("train", rows, [np.full(len(r), t) for t, r in enumerate(rows)], classes)
    experiences = {"train": train}
    for name, kept in {
        "valid": np.flatnonzero(tested[source.train["labels"]] & held_out),
        "test": np.flatnonzero(tested[source.test["labels"]]),
    }.items():
        if name != "valid" or valid_fraction > 0:
            experiences[name] = stack(name, [kept], [np.full(len(kept), num)], whole)
    task: Any = np.arange(num + 1, dtype=np.int32)
    origin_classes: Any = np.concatenate([classes, whole])
    return Stream(f"{source.name}_{kind}", source, experiences, Origins(task=task, classes=origin_classes))


def stack(split: str, rows: list[np.ndarray], origins: list[np.ndarray], classes: np.ndarray) -> Experience:
    """Experiences of unequal sizes as one, padded with their own rows in turn."""
    sizes = [len(r) for r in rows]
    if min(sizes) == 0:
        raise ValueError(
            f"streams: every experience needs a row, but '{split}' of experience {sizes.index(0)} has none; give its "
            "classes more rows, change valid_fraction, or ask for fewer experiences."
        )
    index = np.arange(len(rows), dtype=np.int32)
    # np.resize repeats its argument cyclically.
    fields: dict[str, Any] = {
        "index": index,
        "rows": np.stack([np.resize(r, max(sizes)) for r in rows]).astype(np.int32),
        "origin": np.stack([np.resize(o, max(sizes)) for o in origins]).astype(np.int32),
        "size": np.asarray(sizes, np.int32),
        "classes": classes,
        "seen": np.logical_or.accumulate(classes, axis=0),
        "task": index,
    }
    return Experience(**fields)


def unpadded(experience: Experience) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The rows and origins of each experience, without the padding."""
    sizes = np.asarray(experience.size)
    rows = [np.asarray(r)[:n] for r, n in zip(experience.rows, sizes, strict=True)]
    return rows, [np.asarray(o)[:n] for o, n in zip(experience.origin, sizes, strict=True)]


def class_order_of(kind: str, num_classes: int, class_order: Sequence[int] | None, seed: int | None) -> np.ndarray:
    """The order in which classes arrive."""
    if class_order is None:
        return np.arange(num_classes) if seed is None else np.random.default_rng(seed).permutation(num_classes)
    order = np.asarray(class_order)
    if not np.array_equal(np.sort(order), np.arange(num_classes)):
        raise ValueError(
            f"{kind}: class_order must be a permutation of 0..{num_classes - 1}, got {list(class_order)}; name every "
            "class once."
        )
    return order


def held_out_rows(kind: str, source: Source, valid_fraction: float, seed: int) -> np.ndarray:
    """Bool `[N]`, the training rows that are kept for validation: the same share of every class.

    One choice for the whole source, so that a row held out of one experience is not trained on in another.
    """
    if not 0 <= valid_fraction < 1:
        raise ValueError(f"{kind}: valid_fraction must lie in [0, 1), got {valid_fraction}; 0.1 is usual.")
    labels = source.train["labels"]
    strata = labels if labels.dtype.kind == "i" else np.zeros(len(labels), np.int32)
    held_out = np.zeros(len(labels), bool)
    rng = np.random.default_rng((seed, 1))  # not the stream of numbers that drew the order of the classes
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        count = round(valid_fraction * len(rows))
        if count == len(rows):
            raise ValueError(
                f"{kind}: valid_fraction {valid_fraction} leaves no training row of class {stratum}, which has "
                f"{len(rows)}; choose a smaller one."
            )
        held_out[rng.permutation(rows)[:count]] = True
    return held_out
