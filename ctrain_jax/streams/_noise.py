"""Sources made harder: wrong labels, and classes that are rare.

Label noise as in Han et al., "Co-teaching: robust training of deep neural networks with extremely noisy labels", 2018,
arXiv 1804.06872 (opened: data/utils.py of bhanML/Co-teaching); imbalance as in Cao et al., "Learning imbalanced
datasets with label-distribution-aware margin loss" (LDAM), 2019, arXiv 1906.07413 (opened: imbalance_cifar.py of
kaidic/LDAM-DRW). Where we differ: the rows keep their order, and the middle class of an odd number is a rare one.
"""

import numpy as np

from ctrain_jax.core._base import Source
from ctrain_jax.ops import check_choice, check_fraction
from ctrain_jax.streams._assemble import check_source


def label_noise(source: Source, rate: float, kind: str = "symmetric", *, seed: int = 0) -> Source:
    """The source with a share of its training labels wrong; test labels stay.

        symmetric: c -> each other class with probability rate / (C - 1);   pairwise: c -> c + 1 mod C with rate

    Each row is drawn for itself, so the share is `rate` on average.

    Args:
        source: a classification source.
        rate: the probability that a label is wrong, in [0, 1].
        kind: "symmetric" or "pairwise".
        seed: of the draws.

    Returns:
        A `Source` that shares its inputs with the given one.

    Raises:
        ValueError: a rate or a kind that does not fit, fewer than two classes, or float labels.
        TypeError: not a source.

    Example:
        >>> from ctrain_jax import streams
        >>> clean, noisy = streams.digits(), label_noise(streams.digits(), 0.4)
        >>> round(float((noisy.train["labels"] != clean.train["labels"]).mean()), 2), noisy.name
        (0.39, 'digits_label_noise')

    References:
        Han et al., Co-teaching: robust training of deep neural networks with extremely noisy labels, 2018,
        arXiv:1804.06872.
    """
    labels = _labels("label_noise", source)
    check_fraction("rate", rate)
    check_choice("kind", kind, ("symmetric", "pairwise"))
    if source.num_classes < 2:
        raise ValueError(f"label_noise: a wrong label needs at least 2 classes, got {source.num_classes}; give more.")
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(labels)) < rate
    step = rng.integers(1, source.num_classes, len(labels)) if kind == "symmetric" else 1
    noisy = np.where(wrong, (labels + step) % source.num_classes, labels).astype(np.int32)
    return source._replace(name=f"{source.name}_label_noise", train={**source.train, "labels": noisy})


def imbalanced(source: Source, ratio: float, kind: str = "exponential", *, seed: int = 0) -> Source:
    """The source with fewer training rows of later classes; the test split stays.

        exponential: n_c = n ratio^(-c / (C - 1));   step: n_c = n for c < C // 2, then n / ratio

    `n` is the size of the largest class. `n_c` is rounded down, at least 1, and no more than there are.

    Args:
        source: a classification source.
        ratio: rows of the first class for each of the last, at least 1 (LDAM: 10 and 100).
        kind: "exponential" (long-tailed) or "step".
        seed: draws the rows that stay.

    Returns:
        A `Source` with fewer training rows, in the order of the given ones.

    Raises:
        ValueError: a ratio or a kind that does not fit, or float labels.
        TypeError: not a source.

    Example:
        >>> from ctrain_jax import streams
        >>> np.bincount(imbalanced(streams.fashion_mnist(), 100).train["labels"]).tolist()
        [1000, 599, 359, 215, 129, 77, 46, 27, 16, 10]

    References:
        Cao et al., Learning imbalanced datasets with label-distribution-aware margin loss, 2019, arXiv:1906.07413.
    """
    labels = _labels("imbalanced", source)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float | np.number) or not 1 <= ratio < np.inf:
        raise ValueError(f"imbalanced: ratio must be a number of at least 1, got {ratio!r}; 10 and 100 are usual.")
    check_choice("kind", kind, ("exponential", "step"))
    place = np.arange(source.num_classes)
    if kind == "exponential":
        share = float(ratio) ** -(place / max(source.num_classes - 1, 1))
    else:
        share = np.where(place < source.num_classes // 2, 1.0, 1 / ratio)
    counts = np.bincount(labels, minlength=source.num_classes)
    wanted = np.maximum(1, np.floor(counts.max() * share + 1e-9).astype(int))  # 1000 / 100 is 10
    rng = np.random.default_rng(seed)
    kept = [rng.permutation(np.flatnonzero(labels == c))[:n] for c, n in enumerate(wanted)]
    rows = np.sort(np.concatenate(kept))
    train = {field: values[rows] for field, values in source.train.items()}
    return source._replace(name=f"{source.name}_imbalanced", train=train)


def _labels(kind: str, source: Source) -> np.ndarray:
    check_source(kind, source, 1)
    labels = np.asarray(source.train["labels"])
    if labels.dtype.kind != "i":
        raise ValueError(f"{kind}: the source must have integer labels, got {labels.dtype}; give a classification.")
    return labels
