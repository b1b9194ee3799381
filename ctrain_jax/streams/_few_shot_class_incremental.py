"""Few-shot class-incremental learning: a base of many rows, then new classes from a few rows each.

Tao, Hong, Chang, Dong, Wei and Gong, "Few-Shot Class-Incremental Learning", CVPR 2020, arXiv:2004.10956. Its abstract
was opened, no code. Where we differ: the rows of the sessions are drawn from a seed, where the benchmarks have lists of
them.
"""

from collections.abc import Sequence

import numpy as np

from ctrain_jax.core._base import Source, Stream
from ctrain_jax.ops import check_choice, check_size
from ctrain_jax.streams._assemble import check_classes, class_order_of, held_out_rows, tested_apart


def few_shot_class_incremental(
    source: Source,
    num_experiences: int,
    *,
    base_classes: int,
    shots: int = 5,
    class_order: Sequence[int] | None = None,
    heads: str = "all",
    seed: int = 0,
    valid_fraction: float = 0.0,
) -> Stream:
    r"""All rows of the base classes, then sessions of a few new classes with a few rows of each.

    The classes after the base are dealt evenly to the `T - 1` sessions: they have
    :math:`(C - \mathrm{base}) / (T - 1)` ways. Test experience :math:`j` has all test rows of the classes of session
    :math:`j`. `metrics.seen_accuracy` weighs sessions evenly; papers pool the test rows of all classes seen, which is
    `np.average(R[t, : t + 1], weights=stream.experiences["test"].size[: t + 1])` after session `t`.

    Args:
        source: a classification source.
        num_experiences: the number of experiences `T`, the base and at least one session; 9 for CIFAR-100 in the paper.
        base_classes: classes of the first experience; 60 for CIFAR-100 in the paper.
        shots: training rows of each other class; 5 in the paper.
        class_order: the order of the classes, a permutation of `0..C-1`; ascending by default.
        heads: see `class_incremental`.
        seed: draws the rows of the sessions and the validation rows.
        valid_fraction: see `class_incremental`; the share of all rows of a class, before its shots are drawn.

    Returns:
        A `Stream` of `T` experiences.

    Raises:
        ValueError: classes that cannot be dealt evenly, a class with fewer rows than shots, or as `class_incremental`.

    Example:
        >>> from ctrain_jax import streams
        >>> stream = few_shot_class_incremental(streams.digits(), 3, base_classes=6)  # sessions of 2 ways, 5 shots
        >>> stream.experiences["train"].size.tolist(), stream.experiences["test"].size.tolist()
        ([867, 10, 10], [216, 72, 72])

    References:
        Tao et al., Few-shot class-incremental learning, CVPR 2020, arXiv:2004.10956.
    """
    kind = "few_shot_class_incremental"
    check_classes(kind, source, num_experiences)
    for name, size in (("num_experiences", num_experiences), ("base_classes", base_classes), ("shots", shots)):
        check_size(f"{kind}: {name}", size)
    check_choice(f"{kind}: heads", heads, ("all", "seen"))
    rest, sessions = source.num_classes - base_classes, num_experiences - 1
    if rest < 1 or sessions < 1 or rest % sessions:
        raise ValueError(
            f"{kind}: sessions need equally many classes, got {sessions} sessions for the {rest} classes beyond "
            f"{base_classes} of the base; choose num_experiences and base_classes so that one divides the other."
        )
    order = class_order_of(kind, source.num_classes, class_order, None)
    classes = np.zeros((num_experiences, source.num_classes), bool)
    classes[0, order[:base_classes]] = True
    classes[np.repeat(np.arange(1, num_experiences), rest // sessions), order[base_classes:]] = True
    held_out = held_out_rows(kind, source, valid_fraction, seed)
    labels, rng = source.train["labels"], np.random.default_rng(seed)
    kept = ~held_out & classes[0][labels]
    for c in range(source.num_classes):
        if not classes[0, c]:
            rows = np.flatnonzero((labels == c) & ~held_out)
            if len(rows) < shots:
                raise ValueError(
                    f"{kind}: shots must be at most {len(rows)}, the training rows of class {c}, got {shots}; ask for "
                    "fewer."
                )
            kept[rng.choice(rows, shots, replace=False)] = True
    members = {
        "train": [np.flatnonzero(c[labels] & kept) for c in classes],
        "valid": [np.flatnonzero(c[labels] & held_out) for c in classes],
        "test": [np.flatnonzero(c[source.test["labels"]]) for c in classes],
    }
    return tested_apart(kind, source, members, classes, valid_fraction)._replace(heads=heads)
