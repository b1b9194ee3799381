"""The same experiences in another order: easy ones first, frequent ones first, at random.

Of the stream orderings of Roth, Udandarao, Dziadzio et al., "A Practitioner's Guide to Continual Multimodal
Pretraining", 2024, arXiv 2408.14471 (FoMo-in-Flux). The README of a copy of ExplainableML/fomo_in_flux was opened,
where a stream is a file with the order of its classes; the paper was not. Where we differ: whole experiences are
reordered, and the score is the caller's.
"""

import jax
import numpy as np
from numpy.typing import ArrayLike

from ctrain_jax.core._base import Stream


def order_stream(stream: Stream, scores: ArrayLike) -> Stream:
    """The experiences of a stream by rising score; equal ones keep their order.

    Easy to hard: one minus the accuracies of the learner before it is trained (`Result.baseline`); rare to frequent:
    `stream.experiences["train"].size`; at random: `numpy.random.default_rng(seed).permutation(T)`; by similarity: the
    place of each on a path. Experiences, their tasks and origins are numbered anew, from 0.

    Args:
        stream: any stream. Splits with as many experiences as "train" follow its order, others stay.
        scores: `[T]`, finite.

    Returns:
        A `Stream` over the same source.

    Raises:
        ValueError: scores that are not `[T]` or not finite.

    Example:
        >>> from ctrain_jax import streams
        >>> stream = order_stream(streams.class_incremental(streams.digits(), 4), [2.0, 1.0, 3.0, 0.0])
        >>> stream.experiences["train"].size.tolist(), stream.origins.classes[0].nonzero()[0].tolist()
        ([282, 438, 429, 288], [8, 9])

    References:
        Roth et al., 2024, arXiv 2408.14471.
    """
    score = np.asarray(scores, np.float64)
    num = len(stream.experiences["train"].size)
    if score.shape != (num,) or not np.isfinite(score).all():
        raise ValueError(
            f"order_stream: scores must be {num} finite numbers, one for each experience, got {score.tolist()}; give "
            "one more or less."
        )
    order = np.argsort(score, kind="stable")
    rank = np.argsort(order).astype(np.int32)
    # What has no experience of its own (the origin of a test of all classes) keeps its number.
    num_origins = len(stream.origins.task)
    places = np.arange(num_origins, dtype=np.int32)
    kept = places.copy()
    if num_origins >= num:
        places[:num], kept[:num] = rank, order

    def number(task):
        task = np.asarray(task)
        return np.where(task < num, rank[np.minimum(task, num - 1)], task).astype(np.int32)

    experiences = {}
    for name, e in stream.experiences.items():
        e = e._replace(origin=places[np.asarray(e.origin)], task=number(e.task))
        if len(e.size) == num:
            e = jax.tree.map(lambda x: np.asarray(x)[order], e)
            e = e._replace(
                index=np.arange(num, dtype=np.int32), seen=np.logical_or.accumulate(np.asarray(e.classes), axis=0)
            )
        experiences[name] = e
    origins = jax.tree.map(lambda x: np.asarray(x)[kept], stream.origins)
    origins = origins._replace(task=number(origins.task))
    return stream._replace(name=f"{stream.name}_ordered", experiences=experiences, origins=origins)
