"""Concept drift: what an input means changes while the stream runs, at once, gradually, or there and back.

The mixing of concepts is that of MOA and river (opened: concept_drift_stream.py of online-ml/river); the kinds of drift
are those of the survey by Lu et al., "Learning under concept drift: a review", 2018, arXiv 2004.05785. SEA: Street and
Kim, 2001, doi 10.1145/502512.502568; rotating hyperplane: Hulten, Spencer and Domingos, 2001, doi 10.1145/502512.502529
(opened: sea.py and hyper_plane.py of online-ml/river). Where we differ: a stream is cut into experiences, within which
rows have no order; and a hyperplane turns by an angle, where river lets single weights walk at random.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ctrain_jax.core._base import Origins, Source, Stream
from ctrain_jax.ops import check_fraction, check_size
from ctrain_jax.streams._assemble import check_source, stack
from ctrain_jax.streams._sources import arrays

_SEA = (8.0, 9.0, 7.0, 9.5)


def drifting(
    concepts: Sequence[Source],
    num_experiences: int,
    *,
    order: Sequence[int] | None = None,
    width: float = 0.0,
    size: int | None = None,
    seed: int = 0,
) -> Stream:
    r"""Concepts follow one another over the same kind of rows; a learner is not told when.

    With places :math:`p_k = k T / K` for the K entries of `order`, a row at time :math:`t \in [0, T)` belongs to the
    k-th entry, and not to one before it, with probability :math:`1 / (1 + \exp(-4 (t - p_k) / w))`; for w = 0 from
    :math:`p_k` on. So drift is abrupt (`width=0`), gradual (`width > 0`), recurring (`order=(0, 1, 0, 1)`), or
    incremental (many concepts that differ a little). Each concept gives its training rows in their own order and begins
    again when they are spent: time series stay in time, and a table that is sorted should be shuffled before.

    Prequential (test-then-train) accuracy is `online_accuracy` of `core.make_learner(..., online=True)`.

    Args:
        concepts: sources of equal inputs, labels, mean and std, such as `sea(0)`, `hyperplane(30)`, `series(...)`.
        num_experiences: the number of experiences T, equally long pieces of the stream.
        order: the concepts that follow one another, by their places; each once by default.
        width: of a change, in experiences.
        size: rows of an experience; all training rows, divided by T, by default.
        seed: draws which rows of a gradual change belong to which concept.

    Returns:
        A `Stream` with `boundaries=False`, the k-th test experience of which is the test split of the k-th concept.

    Raises:
        ValueError: concepts that do not fit together, or a number or an order that does not fit.
        TypeError: not sources.

    Example:
        >>> from ctrain_jax import streams
        >>> stream = drifting([streams.sea(0), streams.sea(3)], 20, order=(0, 1, 0), width=2.0)
        >>> stream.experiences["train"].origin.mean(axis=1).round(1).tolist()[:10]
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.5, 0.8, 1.0, 1.0]

    References:
        Lu et al., Learning under concept drift: a review, 2018, arXiv:2004.05785.
    """
    source = _joined(concepts)
    check_size("num_experiences", num_experiences)
    check_source("drifting", source, num_experiences)
    lengths = np.asarray([len(c.train["labels"]) for c in concepts])
    order = range(len(concepts)) if order is None else order
    if not order or not all(k in range(len(concepts)) for k in order):
        raise ValueError(
            f"drifting: order must name concepts by their places, 0 to {len(concepts) - 1}, got {tuple(order)!r}; name "
            "at least one."
        )
    if not 0 <= width < np.inf:
        raise ValueError(f"drifting: width must be 0 or a finite number of experiences above, got {width}.")
    size = max(1, int(lengths.sum()) // num_experiences) if size is None else size
    check_size("size", size)
    if size > lengths.min():
        raise ValueError(
            f"drifting: an experience of {size} rows needs concepts of as many, got {lengths.tolist()}; ask for more "
            "experiences or a smaller size."
        )
    owner = _owners(np.asarray(order), num_experiences, size, width, np.random.default_rng(seed))
    rows = np.zeros_like(owner)
    for k, (first, length) in enumerate(zip(np.cumsum(lengths) - lengths, lengths, strict=True)):
        own = owner == k
        rows[own] = first + np.arange(own.sum()) % length

    def everything(count: int) -> np.ndarray:
        return np.ones((count, source.num_classes), bool)

    counts = [len(c.test["labels"]) for c in concepts]
    train = stack("train", [*rows.reshape(-1, size)], [*owner.reshape(-1, size)], everything(num_experiences))
    ends = np.cumsum(counts)
    of_tests = [np.arange(end - n, end) for n, end in zip(counts, ends, strict=True)]
    test = stack("test", of_tests, [np.full(n, k) for k, n in enumerate(counts)], everything(len(concepts)))
    known: dict[str, Any] = {"task": np.arange(len(concepts), dtype=np.int32), "classes": everything(len(concepts))}
    return Stream(
        name=f"{source.name}_drifting",
        source=source,
        experiences={"train": train, "test": test},
        origins=Origins(**known),
        boundaries=False,
    )


def sea(concept: int = 0, num_rows: int = 10_000, *, noise: float = 0.1, seed: int = 0) -> Source:
    """One of the four SEA concepts: `label = [x_0 + x_1 > theta]` of `x` uniform in `[0, 10]^3`, `x_2` means nothing.

    Args:
        concept: 0, 1, 2 or 3: theta is 8, 9, 7 or 9.5.
        num_rows: training rows; a fifth as many test rows.
        noise: share of training labels that are flipped (the paper: 0.1).
        seed: of the rows; each concept has its own.

    Returns:
        A `Source` with float32 inputs `[N, 3]`, mean 5, and two classes.

    Raises:
        ValueError: an argument that does not fit.

    Example:
        >>> source = sea(1)
        >>> source.train["inputs"].shape, source.test["labels"].shape, source.num_classes
        ((10000, 3), (2000,), 2)

    References:
        Street and Kim, A streaming ensemble algorithm (SEA) for large-scale classification, 2001.
    """
    if concept not in range(len(_SEA)):
        raise ValueError(f"sea: concept must be 0, 1, 2 or 3, got {concept!r}; SEA has four.")
    rng = np.random.default_rng((seed, concept))
    return _labelled("sea", (3, 10.0), lambda x: x[:, 0] + x[:, 1] > _SEA[concept], num_rows, noise, rng)


def hyperplane(
    degrees: float = 0.0, num_rows: int = 10_000, *, num_features: int = 10, noise: float = 0.05, seed: int = 0
) -> Source:
    r"""A hyperplane through the middle of a cube: `label = [w . (x - 1/2) > 0]` of `x` uniform in `[0, 1]^d`.

    :math:`w = \cos(a) u + \sin(a) v` with orthonormal directions u and v of the seed, so two concepts disagree about
    `a / 180` of the rows. `drifting([hyperplane(a) for a in range(0, 91, 10)], 100)` rotates it.

    Args:
        degrees: the angle a.
        num_rows: training rows; a fifth as many test rows.
        num_features: the number of features d, at least 2.
        noise: share of training labels that are flipped (MOA: 0.05).
        seed: of the directions, and with the angle of the rows.

    Returns:
        A `Source` with float32 inputs `[N, d]`, mean 1/2, and two classes.

    Raises:
        ValueError: an argument that does not fit.

    Example:
        >>> hyperplane(45.0, 100).train["inputs"].shape
        (100, 10)

    References:
        Hulten, Spencer and Domingos, Mining time-changing data streams, 2001.
    """
    check_size("num_features", num_features)
    if num_features < 2 or not np.abs(degrees) < np.inf:
        raise ValueError(
            f"hyperplane: a finite angle and at least 2 features can turn, got degrees={degrees} and "
            f"num_features={num_features}; give more."
        )
    axes = np.linalg.qr(np.random.default_rng(seed).standard_normal((num_features, 2)))[0]
    w = axes @ [np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]
    rng = np.random.default_rng((seed, round(degrees % 360 * 1e6)))
    return _labelled("hyperplane", (num_features, 1.0), lambda x: (x - 0.5) @ w > 0, num_rows, noise, rng)


def series(values: Any, length: int, *, test_fraction: float = 0.2, name: str = "series") -> Source:
    """A time series as a regression: the next value from the `length` values before it.

    Args:
        values: `[N]` or `[N, k]`, numbers in the order of time.
        length: values in a window.
        test_fraction: the share of the windows, at the end, that becomes the test split; no value is in both.
        name: of the source.

    Returns:
        A `Source` with float32 inputs `[n, length]` or `[n, length, k]`, and labels `[n]` or `[n, k]`.

    Raises:
        ValueError: a length or a fraction that leaves no row, or values that are not finite numbers.

    Example:
        >>> source = series(np.sin(np.arange(100)), 8)
        >>> source.train["inputs"].shape, source.test["inputs"].shape
        ((66, 8), (18, 8))
    """
    check_size("length", length)
    check_fraction("test_fraction", test_fraction)
    values = np.asarray(values, np.float32)
    windows = len(values) - length if values.ndim in (1, 2) else 0
    tested = round(test_fraction * windows)
    if min(tested, windows - tested - length) < 1:
        raise ValueError(
            f"series: values must be [N] or [N, k] with rows for both splits, got shape {values.shape} for windows of "
            f"{length} and test_fraction={test_fraction}; give more values or a shorter length."
        )
    place = np.arange(windows)[:, None] + np.arange(length)
    inputs, labels = values[place], values[length:]
    until = windows - tested - length  # the windows between share values with the test split
    return arrays(inputs[:until], labels[:until], inputs[-tested:], labels[-tested:], name=name)


def _labelled(
    name: str, cube: tuple[int, float], concept: Any, num_rows: int, noise: float, rng: np.random.Generator
) -> Source:
    """Uniform rows in a cube of so many dimensions and such a side, labelled by a concept, for training with noise."""
    check_size("num_rows", num_rows)
    check_fraction("noise", noise)
    dimensions, side = cube
    x, x_test = ((side * rng.random((n, dimensions))).astype(np.float32) for n in (num_rows, -(-num_rows // 5)))
    y, y_test = (concept(part).astype(np.int32) for part in (x, x_test))
    wrong = rng.random(num_rows) < noise
    return arrays(x, y ^ wrong, x_test, y_test, name=name, num_classes=2, mean=side / 2)


def _owners(order: np.ndarray, num_experiences: int, size: int, width: float, rng: np.random.Generator) -> np.ndarray:
    """int `[T * size]`, the concept of each row."""
    time = (np.arange(num_experiences * size) + 0.5) / size
    owner = np.full(len(time), order[0])
    for k in range(1, len(order)):
        place = num_experiences * k / len(order)
        chance = 1 / (1 + np.exp(np.clip(-4 * (time - place) / width, -700, 700))) if width > 0 else time >= place
        owner = np.where(rng.random(len(time)) < chance, order[k], owner)
    return owner


def _joined(concepts: Sequence[Source]) -> Source:
    """One source of the rows of all concepts."""
    for source in concepts:
        check_source("drifting", source, 1)
    if not concepts:
        raise ValueError("drifting: concepts must be a sequence of sources, got none; give two or more.")
    first = concepts[0]
    for source in concepts:
        same = [np.array_equal(a, b) for a, b in zip(source[3:], first[3:], strict=True)]  # num_classes, mean, std
        same += [
            (source.train[f].dtype, source.train[f].shape[1:]) == (first.train[f].dtype, first.train[f].shape[1:])
            for f in ("inputs", "labels")
        ]
        if not all(same):
            raise ValueError(
                "drifting: concepts must agree in the shape and dtype of inputs and labels, in num_classes, mean and "
                f"std, got {first.name} and {source.name}; make them alike."
            )
    train, test = (
        {field: np.concatenate([getattr(c, split)[field][:] for c in concepts]) for field in ("inputs", "labels")}
        for split in ("train", "test")
    )
    return first._replace(train=train, test=test)
