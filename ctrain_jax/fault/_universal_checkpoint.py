"""Universal Checkpointing: what was saved in parts is one whole, and is dealt out in any other parts.

Lian et al., "Universal Checkpointing: Efficient and Flexible Checkpointing for Large Scale Distributed Training", 2024,
arXiv 2406.18820. Opened at the source: the abstract; neither the paper's text nor DeepSpeed's code was. Written from
the idea: a language of patterns says of each parameter how ranks hold it, from which its whole is put together.
Where we differ: in JAX a sharded array is one array, and `core.open_checkpoints` already writes the parts of each
process and gives them back on any other mesh, random numbers and the place in the data included. What is left, and is
here, are checkpoints that other programs wrote rank by rank: fused parameters, padding, copies that drifted apart.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ctrain_jax.ops import check_choice, check_size


class Held(NamedTuple):
    """How the ranks hold a leaf."""

    how: str = "replicated"  # each has all of it; "sharded": a part; "averaged": all of it, but copies drifted apart
    axis: int = 0  # of "sharded"
    blocks: tuple[int, ...] = ()  # sizes along the axis of what is fused there, each of which is sharded by itself
    size: int | None = None  # along the axis, without the rows that were added so that the ranks divide it


class UniversalCheckpoint(NamedTuple):
    """A pair of pure functions on trees of numpy arrays, the inverse of one another."""

    consolidate: Callable[[Sequence[Any]], Any]  # (the trees of all ranks, in order) -> the tree of whole leaves
    partition: Callable[[Any, int], list[Any]]  # (the tree of whole leaves, number of ranks) -> a tree for each rank


def universal_checkpoint(rules: Sequence[tuple[str, Held]]) -> UniversalCheckpoint:
    r"""Put the parts of a checkpoint together, and deal them out to another number of ranks.

    A leaf that is sharded along an axis is the ranks' parts one after the other. Where it is fused of blocks, such as
    the kernels of queries, keys and values, rank :math:`r` of :math:`R` holds its part of each:

    .. math:: x^{(r)} = [\, q_{r} ;\; k_{r} ;\; v_{r} \,], \qquad q = [\, q_{0} ; \ldots ; q_{R-1} \,]

    so that parts are taken block by block. Rows that were added for the ranks to divide an axis are dropped from the
    whole, and zeros are added again for the next number of ranks.

    Args:
      rules: (pattern, how its leaves are held); the first pattern that is found in the path of a leaf counts, such as
        `opt_state.0.mu.block_0.qkv.kernel`.

    Returns:
      The pair. Leaves of `consolidate` are numpy arrays of whatever dtype the parts have.

    Raises:
      ValueError: an unknown way of holding, blocks that are not positive; and from the functions a leaf without a rule,
        ranks whose trees or shapes do not fit together, replicas that differ, blocks that the ranks do not divide.

    Example:
      >>> fused = universal_checkpoint([("qkv", Held("sharded", blocks=(4, 4, 4)))])
      >>> whole = {"qkv": np.arange(12)}
      >>> [part["qkv"].tolist() for part in fused.partition(whole, 2)]
      [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]
      >>> fused.consolidate(fused.partition(whole, 4))["qkv"].tolist() == whole["qkv"].tolist()
      True
    """
    for pattern, held in rules:
        check_choice(f"how {pattern!r} is held", held.how, ("averaged", "replicated", "sharded"))
        for size in (*held.blocks, *(() if held.size is None else (held.size,))):
            check_size(f"a size of {pattern!r}", size)

    def rule_of(path: Any) -> tuple[str, Held]:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        for pattern, held in rules:
            if re.search(pattern, name):
                return name, held
        raise ValueError(f"{name} has no rule: add one, ('', Held()) for all that is replicated.")

    def consolidate(ranks: Sequence[Any]) -> Any:
        if not ranks:
            raise ValueError("consolidate expects the tree of each rank, got none.")
        if len({jax.tree.structure(tree) for tree in ranks}) > 1:
            raise ValueError(f"consolidate expects trees of one structure, got {len(ranks)} ranks that differ.")

        def whole(path: Any, *parts: Any) -> np.ndarray:
            return _joined(*rule_of(path), [np.asarray(part) for part in parts])

        return jax.tree_util.tree_map_with_path(whole, *ranks)

    def partition(tree: Any, num_ranks: int) -> list[Any]:
        check_size("num_ranks", num_ranks)
        parts = jax.tree_util.tree_map_with_path(lambda path, x: _dealt(*rule_of(path), np.asarray(x), num_ranks), tree)
        # A list of parts at each leaf becomes a list of trees.
        outer, inner = jax.tree.structure(tree), jax.tree.structure([0] * num_ranks)
        return jax.tree.transpose(outer, inner, parts)

    return UniversalCheckpoint(consolidate, partition)


def _joined(name: str, held: Held, parts: list[np.ndarray]) -> np.ndarray:
    first = parts[0]
    if held.how != "sharded":
        if any(part.shape != first.shape or part.dtype != first.dtype for part in parts):
            raise ValueError(f"{name} is {held.how}, and its copies have different shapes or dtypes: shard it.")
        if all(part.tobytes() == first.tobytes() for part in parts):
            return first  # and not their mean, which may be rounded
        if held.how == "averaged":
            return np.mean(np.stack(parts), axis=0, dtype=np.float64).astype(first.dtype)
        raise ValueError(f"{name} is replicated, and its copies differ: average it, or see which rank is wrong.")
    _check_axis(name, held, first)
    lengths = [part.shape[held.axis] for part in parts]
    sizes = held.blocks or (sum(lengths),)
    if sum(sizes) != sum(lengths) or len(held.blocks) and len(set(lengths)) > 1:
        raise ValueError(f"{name} expects {sum(sizes)} along axis {held.axis}, and the ranks hold {lengths}.")
    if not held.blocks:
        return _cut(held, np.concatenate(parts, held.axis))
    ends = np.cumsum(_shares(name, held, len(parts)))[:-1]
    pieces = [np.split(part, ends, held.axis) for part in parts]
    return _cut(held, np.concatenate([piece[b] for b in range(len(sizes)) for piece in pieces], held.axis))


def _dealt(name: str, held: Held, whole: np.ndarray, num_ranks: int) -> list[np.ndarray]:
    if held.how != "sharded":
        return [whole] * num_ranks
    _check_axis(name, held, whole)
    size = whole.shape[held.axis]
    if held.size is not None and size != held.size:
        raise ValueError(f"{name} expects {held.size} along axis {held.axis}, got {size}.")
    if held.blocks:
        if size != sum(held.blocks):
            raise ValueError(f"{name} expects blocks of {held.blocks} along axis {held.axis}, got {size} in all.")
        _shares(name, held, num_ranks)
        blocks = np.split(whole, np.cumsum(held.blocks)[:-1], held.axis)
        split = [np.split(block, num_ranks, held.axis) for block in blocks]
        return [np.concatenate([block[rank] for block in split], held.axis) for rank in range(num_ranks)]
    missing = -size % num_ranks
    if missing and held.size is None:
        raise ValueError(
            f"{name} has {size} along axis {held.axis}, which {num_ranks} ranks do not divide: give its rule "
            f"size={size}, and zeros are added."
        )
    widths = [(0, missing if axis == held.axis else 0) for axis in range(whole.ndim)]
    return np.split(np.pad(whole, widths), num_ranks, held.axis)


def _check_axis(name: str, held: Held, array: np.ndarray) -> None:
    if not 0 <= held.axis < array.ndim:
        raise ValueError(f"{name} has shape {array.shape} and is sharded along axis {held.axis}, which it lacks.")


def _shares(name: str, held: Held, num_ranks: int) -> list[int]:
    """What a rank holds of each block."""
    if any(block % num_ranks for block in held.blocks):
        raise ValueError(f"{name} is fused of {held.blocks}, which {num_ranks} ranks do not divide.")
    return [block // num_ranks for block in held.blocks]


def _cut(held: Held, whole: np.ndarray) -> np.ndarray:
    """Without the rows that were added."""
    return whole if held.size is None else np.take(whole, range(held.size), held.axis)
