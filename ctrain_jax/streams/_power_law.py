"""Power-law rehearsal: what was learned long ago comes back, but ever more rarely.

Gandhi, Shah, Marupudi and Varma, "Natural Mitigation of Catastrophic Interference: Continual Learning in Power-Law
Learning Environments" (first: "Catastrophic Interference is Mitigated in Naturalistic Power-Law Learning
Environments"), 2024, arXiv:2401.10393. Of the paper the abstract was opened, and environments.py of
archana53/power-law-for-CI, the project of which it came.

Where we differ: the law is over the time since an experience was learned, counted in experiences, where their code
takes a power that rises with its position, (0.1 + 0.01 i)^4 by default; each row that comes back is drawn, where it
rounds expected numbers; `fraction` is of the rows of the experience at hand. What comes back does not count as learned
again: otherwise all would be equally recent after one experience.
"""

import numpy as np

from ctrain_jax.core._base import Stream
from ctrain_jax.ops import check_non_negative
from ctrain_jax.streams._assemble import stack, unpadded


def power_law(stream: Stream, *, exponent: float = 1.0, fraction: float = 0.1, seed: int = 0) -> Stream:
    r"""Rows of earlier experiences come back among those of each experience, with a power of the time since then.

    Experience :math:`T` (counted from 0) of :math:`n` rows gets :math:`\mathrm{round}(f n)` more. Each belongs to an
    earlier experience :math:`i` with the probability

    .. math:: p_T(i) = \frac{(T - i)^{-d}}{\sum_{j < T} (T - j)^{-d}}

    and is one of its rows, drawn without coming twice as long as there are enough. It keeps its origin: it is seen
    under the view, and told apart from the classes, of the experience that it came from.

    Args:
        stream: any stream; its test and valid experiences, origins and view stay as they are.
        exponent: :math:`d`; 0 brings all earlier experiences back evenly, a large one only the last.
        fraction: :math:`f`, rows that come back for each row of the experience; 0 changes nothing.
        seed: draws the rows.

    Returns:
        A `Stream` of as many experiences, of which all but the first have more rows.

    Raises:
        ValueError: a negative or infinite `exponent` or `fraction`.

    Example:
        >>> from ctrain_jax import streams
        >>> stream = power_law(streams.permuted(streams.digits(), 3), fraction=0.5)
        >>> stream.experiences["train"].size.tolist(), np.bincount(stream.experiences["train"].origin[2]).tolist()
        ([1437, 2155, 2155], [242, 476, 1437])

    References:
        Gandhi et al., Natural mitigation of catastrophic interference: continual learning in power-law learning
        environments, 2024, arXiv:2401.10393.
    """
    check_non_negative("power_law: exponent", exponent)
    check_non_negative("power_law: fraction", fraction)
    if not np.isfinite([exponent, fraction]).all():
        raise ValueError(f"power_law: exponent and fraction must be finite, got {exponent} and {fraction}; lower them.")
    train = stream.experiences["train"]
    rows, origins = unpadded(train)
    classes = np.array(train.classes)
    rng = np.random.default_rng(seed)
    mixed_rows, mixed_origins = rows[:1], origins[:1]
    for t in range(1, len(rows)):
        recency = (t - np.arange(t)) ** -float(exponent)
        counts = rng.multinomial(round(fraction * len(rows[t])), recency / recency.sum())
        picks = [
            rng.choice(len(old), count, replace=bool(count > len(old)))
            for old, count in zip(rows[:t], counts, strict=True)
        ]
        mixed_rows.append(np.concatenate([rows[t], *(rows[i][pick] for i, pick in enumerate(picks))]))
        mixed_origins.append(np.concatenate([origins[t], *(origins[i][pick] for i, pick in enumerate(picks))]))
        classes[t] |= np.asarray(train.classes)[:t][counts > 0].any(axis=0)
    mixed = stack("train", mixed_rows, mixed_origins, classes)
    return stream._replace(name=f"{stream.name}_power_law", experiences={**stream.experiences, "train": mixed})
