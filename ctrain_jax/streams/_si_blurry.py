"""Si-Blurry: classes arrive at random times, and some of their rows at others.

Moon, Park, Kim and Park, "Online Class Incremental Learning on Stochastic Blurry Task Boundary via Mask and Visual
Prompt Tuning", ICCV 2023, arXiv:2308.09303. The sampler of the authors' repository KHU-AGI/Si-Blurry
(utils/online_sampler.py, with `rnd_NM` as in all their scripts) was opened; of the paper an extract.

Where we differ: their code rounds the number of disjoint and of blurry classes down to multiples of the number of
experiences and leaves the rest of the data out; here every class and every row arrives. It draws how many rows leave
and enter each experience by cuts; here each row that is moved goes to an experience of its own draw, so that the
expected share of rows away from home has a closed form. It takes the first rows of a class in file order; here they are
drawn. It tests on the classes seen so far; here on all of them.
"""

import numpy as np

from ctrain_jax.core._base import Source, Stream
from ctrain_jax.ops import check_fraction, check_size
from ctrain_jax.streams._assemble import check_classes, held_out_rows, tested_together

_DRAWS = 1000


def si_blurry(
    source: Source,
    num_experiences: int,
    *,
    disjoint_ratio: float = 0.5,
    blurry_ratio: float = 0.1,
    seed: int = 0,
    valid_fraction: float = 0.0,
) -> Stream:
    r"""Classes arrive in random numbers, some of their rows at other times, and no boundary is told.

    A share :math:`m` of the classes, drawn at random, is disjoint, the others are blurry. Both parts are dealt to the
    experiences at uniformly drawn cuts: an experience is home to a random number of classes of each part, which may be
    0. Then a share :math:`n` of the rows of blurry classes is drawn, and each goes to a uniformly drawn experience:
    :math:`n (T - 1) / T` of them are expected away from home. Draws that leave an experience without a row are drawn
    again.

    The stream is for learning online, in one pass: `boundaries` is False, so that methods are told nothing of
    experiences (`stream._replace(boundaries=True)` tells them). The test is one experience of all classes, asked again
    after each training experience: the accuracy matrix is `[T, 1]`.

    Args:
        source: a classification source.
        num_experiences: the number of experiences `T`; 5 in the paper.
        disjoint_ratio: :math:`m`, the share of the classes whose rows arrive in one experience, rounded; 0.5 in the
            paper. 1 makes all disjoint.
        blurry_ratio: :math:`n`, the share of the rows of the other classes that is moved, rounded; 0.1 in the paper. 1
            spreads these classes evenly.
        seed: draws everything.
        valid_fraction: see `class_incremental`; "valid" is one experience of all classes as well.

    Returns:
        A `Stream` of `T` training experiences and one test experience, without boundaries.

    Raises:
        ValueError: a ratio outside of [0, 1], or a seed for which no draw gives every experience a row.

    Example:
        >>> from ctrain_jax import streams
        >>> stream = si_blurry(streams.digits(), 5)
        >>> stream.experiences["train"].size.tolist(), stream.experiences["test"].size.tolist(), stream.boundaries
        ([831, 16, 158, 419, 13], [360], False)

    References:
        Moon et al., Online class incremental learning on stochastic blurry task boundary via mask and visual prompt
        tuning, ICCV 2023, arXiv:2308.09303.
    """
    check_classes("si_blurry", source, num_experiences)
    check_size("si_blurry: num_experiences", num_experiences)
    check_fraction("si_blurry: disjoint_ratio", disjoint_ratio)
    check_fraction("si_blurry: blurry_ratio", blurry_ratio)
    held_out = held_out_rows("si_blurry", source, valid_fraction, seed)
    arriving = np.flatnonzero(~held_out)
    labels = source.train["labels"][arriving]
    num_classes, rng = source.num_classes, np.random.default_rng(seed)
    num_disjoint = round(disjoint_ratio * num_classes)
    for _ in range(_DRAWS):
        order = rng.permutation(num_classes)
        home = np.empty(num_classes, int)
        for part in (order[:num_disjoint], order[num_disjoint:]):
            cuts = np.sort(rng.integers(len(part) + 1, size=num_experiences - 1))
            home[part] = np.searchsorted(cuts, np.arange(len(part)), side="right")
        when = home[labels]
        moved = rng.permutation(np.flatnonzero(np.isin(labels, order[num_disjoint:])))
        moved = moved[: round(blurry_ratio * len(moved))]
        when[moved] = rng.integers(num_experiences, size=len(moved))
        if np.bincount(when, minlength=num_experiences).all():
            break
    else:
        raise ValueError(
            f"si_blurry: {_DRAWS} draws left one of {num_experiences} experiences without a row; ask for fewer "
            "experiences, or for a larger blurry_ratio."
        )
    classes = np.zeros((num_experiences, num_classes), bool)
    classes[when, labels] = True
    rows = [arriving[when == t] for t in range(num_experiences)]
    tested = np.ones(num_classes, bool)
    stream = tested_together("si_blurry", source, rows, classes, tested, held_out, valid_fraction)
    return stream._replace(boundaries=False)
