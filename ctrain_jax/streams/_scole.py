"""SCoLe: a long stream of small tasks, each of a few classes drawn at random, over one fixed label space.

Lesort, Ostapenko, Misra, Arefin, Rodriguez, Charlin and Rish, "Challenging Common Assumptions about Catastrophic
Forgetting and Knowledge Accumulation", CoLLAs 2023, arXiv:2207.04543. The authors' repository
TLESORT/SCoLe-SCaling-Continual-Learning (sampling.py, main.py, utils_training.py) was opened; of the paper the
abstract.

Where we differ: skewed probabilities are given as such, where their code makes them of one exponent; its other orders
(all pairs in turn, a share of the pairs, periods) are not here. Their mask is over the classes of a batch, which is
`losses.present_class_ce`; `heads="task"` is that over the classes of the experience.
"""

from collections.abc import Sequence

import numpy as np

from ctrain_jax.core._base import Source, Stream
from ctrain_jax.ops import check_choice, check_size
from ctrain_jax.streams._assemble import check_classes, held_out_rows, tested_together


def scole(
    source: Source,
    num_experiences: int,
    *,
    classes_per_experience: int = 2,
    probabilities: Sequence[float] | None = None,
    heads: str = "all",
    seed: int = 0,
    valid_fraction: float = 0.0,
) -> Stream:
    """Hundreds of experiences of a few classes each, drawn anew every time, tested on all classes.

    Each experience has all rows of its classes, so they come back: a class is in `k / C` of the experiences. The
    classes of experience `t` depend on `seed` and `t` alone. Row numbers are stored for each experience: 16 MB for
    1,000 experiences of 2,000 rows.

    The test is one experience of all classes, asked again after each training experience: the accuracy matrix is
    `[T, 1]`, and `metrics.accumulation_slope(accuracy[..., 0])` says how fast knowledge grows.

    Args:
        source: a classification source.
        num_experiences: the number of experiences `T`; 1,000 in the paper.
        classes_per_experience: `k`, from 1 to `C`.
        probabilities: of the classes, `[C]`, at least 0, divided by their sum; classes of an experience are drawn one
            after the other without coming twice. Even by default.
        heads: "all" classes compete in training, or only those of the "task": then a row's softmax is over the classes
            of its experience, and the others' rows of the head have no gradient. Tests are over all classes.
        seed: draws the classes and the validation rows.
        valid_fraction: see `class_incremental`; "valid" is one experience of all classes as well.

    Returns:
        A `Stream` of `T` training experiences and one test experience.

    Raises:
        ValueError: a number that does not fit, or fewer classes of a probability above 0 than an experience has.

    Example:
        >>> from ctrain_jax import streams
        >>> stream = scole(streams.digits(), 200)
        >>> [c.nonzero()[0].tolist() for c in stream.experiences["train"].classes[:4]], stream.experiences["test"].size
        ([[0, 4], [5, 8], [0, 2], [3, 5]], array([360], dtype=int32))

    References:
        Lesort et al., Challenging common assumptions about catastrophic forgetting and knowledge accumulation, 2023,
        arXiv:2207.04543.
    """
    check_classes("scole", source, num_experiences)
    check_size("scole: num_experiences", num_experiences)
    check_size("scole: classes_per_experience", classes_per_experience)
    check_choice("scole: heads", heads, ("all", "task"))
    num_classes = source.num_classes
    weights = np.asarray(np.ones(num_classes) if probabilities is None else probabilities, np.float64)
    if weights.shape != (num_classes,) or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(
            f"scole: probabilities must be a number of at least 0 for each of the {num_classes} classes, got "
            f"{probabilities}; name every class."
        )
    if (possible := np.count_nonzero(weights)) < classes_per_experience:
        raise ValueError(
            f"scole: classes_per_experience must be at most {possible}, the number of classes that can come, got "
            f"{classes_per_experience}; ask for fewer."
        )
    held_out = held_out_rows("scole", source, valid_fraction, seed)
    labels = source.train["labels"]
    rows_of = [np.flatnonzero((labels == c) & ~held_out) for c in range(num_classes)]
    classes = np.zeros((num_experiences, num_classes), bool)
    for t in range(num_experiences):
        # Not the numbers (seed, 1), which draw the validation rows.
        drawn = np.random.default_rng((seed, 2, t)).choice(
            num_classes, classes_per_experience, replace=False, p=weights / weights.sum()
        )
        classes[t, drawn] = True
    rows = [np.concatenate([rows_of[c] for c in np.flatnonzero(there)]) for there in classes]
    tested = np.ones(num_classes, bool)
    stream = tested_together("scole", source, rows, classes, tested, held_out, valid_fraction)
    return stream._replace(heads=heads)
