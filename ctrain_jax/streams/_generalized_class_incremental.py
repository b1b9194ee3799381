"""Generalized class-incremental learning: random classes in random amounts, and they may come back.

Mi, Kong, Lin, Yu and Faltings, "Generalized Class Incremental Learning", CVPR Workshops 2020,
doi:10.1109/CVPRW50498.2020.00128; also the setting of G-ACIL (arXiv:2403.15706). Of the paper the abstract was opened;
its sampler was as NeurAI-Lab/CLS-ER keeps it (datasets/gcil_cifar100.py).

Where we differ: each class that is drawn has one row for certain, where the code draws sizes until none is 0; labels
stay, where it numbers classes by their arrival; the test is of all classes that arrive in the stream from the start,
where it grows with the classes seen.
"""

import numpy as np

from ctrain_jax.core._base import Source, Stream
from ctrain_jax.ops import check_fraction, check_positive, check_size
from ctrain_jax.streams._assemble import check_classes, held_out_rows, tested_together


def generalized_class_incremental(
    source: Source,
    num_experiences: int,
    *,
    num_rows: int,
    max_classes: int | None = None,
    decay: float = 1.0,
    seed: int = 0,
    valid_fraction: float = 0.0,
) -> Stream:
    r"""A random number of random classes in random amounts each time; classes come back, rows do not.

    For each experience :math:`k` is drawn uniformly from 1 to `max_classes`, then :math:`k` of the classes that have
    rows left, then their sizes: one row each, and the others of `num_rows` with probabilities proportional to
    :math:`\delta^c` for class :math:`c`. A class gives no more than it has left, so an experience can be smaller.

    The test is one experience of all classes that arrive at some time, asked again after each training experience: the
    accuracy matrix is `[T, 1]`.

    Args:
        source: a classification source.
        num_experiences: the number of experiences `T`; 20 in the code.
        num_rows: rows of an experience; `T` times as many must be there. 1,000 in the code.
        max_classes: most classes of an experience; half of all by default, as in the code.
        decay: :math:`\delta`, above 0 and at most 1: 1 makes sizes even on average, less gives a long tail; 0.984 in
            the code's, for 100 classes.
        seed: draws everything.
        valid_fraction: see `class_incremental`; "valid" is one experience of the same classes as the test.

    Returns:
        A `Stream` of `T` training experiences and one test experience.

    Raises:
        ValueError: a number that does not fit, or more rows asked for than there are.

    Example:
        >>> from ctrain_jax import streams
        >>> train = generalized_class_incremental(streams.digits(), 4, num_rows=100).experiences["train"]
        >>> train.size.tolist(), train.classes.sum(axis=1).tolist(), train.seen.sum(axis=1).tolist()
        ([100, 100, 100, 100], [1, 1, 5, 4], [1, 2, 6, 8])

    References:
        Mi et al., Generalized class incremental learning, CVPR Workshops 2020, doi:10.1109/CVPRW50498.2020.00128.
    """
    kind = "generalized_class_incremental"
    check_classes(kind, source, num_experiences)
    check_size(f"{kind}: num_experiences", num_experiences)
    check_size(f"{kind}: num_rows", num_rows)
    check_positive(f"{kind}: decay", decay)
    check_fraction(f"{kind}: decay", decay)
    num_classes = source.num_classes
    most = -(-num_classes // 2) if max_classes is None else max_classes
    check_size(f"{kind}: max_classes", most)
    if most > min(num_classes, num_rows):
        raise ValueError(
            f"{kind}: max_classes must be at most {min(num_classes, num_rows)}, as there are {num_classes} classes and "
            f"each takes one of {num_rows} rows, got {most}; lower it."
        )
    held_out = held_out_rows(kind, source, valid_fraction, seed)
    if num_experiences * num_rows > np.sum(~held_out):
        raise ValueError(
            f"{kind}: {num_experiences} experiences of {num_rows} rows are more than the {np.sum(~held_out)} that may "
            "arrive; lower num_rows, or ask for fewer experiences."
        )
    labels, rng = source.train["labels"], np.random.default_rng(seed)
    left = [rng.permutation(np.flatnonzero((labels == c) & ~held_out)) for c in range(num_classes)]
    classes, rows = np.zeros((num_experiences, num_classes), bool), []
    for t in range(num_experiences):
        there = np.flatnonzero([len(r) for r in left])
        drawn = rng.choice(there, rng.integers(min(len(there), most)) + 1, replace=False)
        weights = decay ** (drawn - drawn.min()).astype(float)
        sizes = 1 + rng.multinomial(num_rows - len(drawn), weights / weights.sum())
        classes[t, drawn] = True
        rows.append(np.concatenate([left[c][:size] for c, size in zip(drawn, sizes, strict=True)]))
        for c, size in zip(drawn, sizes, strict=True):
            left[c] = left[c][size:]
    return tested_together(kind, source, rows, classes, classes.sum(axis=0) > 0, held_out, valid_fraction)
