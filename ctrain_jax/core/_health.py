"""Numbers that go wrong: whether a state is still one, and where it stopped being one.

A run looks at the loss of its steps, which comes out of the compiled loop anyway, and at its state once a chunk. The
step and the leaf are found afterwards, by running again from a state that was whole: a run repeats itself to the bit.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.core._base import Data, PyTree, TrainState
from ctrain_jax.core._learner import Learner
from ctrain_jax.core._leaves import named
from ctrain_jax.core._run import compiled, is_mapped, position
from ctrain_jax.core._step import Record


class Breakdown(NamedTuple):
    """Where the numbers of a run went wrong."""

    step: int  # steps of the run that were whole before it
    experience: int
    what: str  # "the loss", "the gradient", "the state after the update", "the state after begin" or "... after end"
    leaves: tuple[str, ...]  # the paths of the leaves that are not finite; none of a loss
    seeds: tuple[int, ...]  # places of the seeds that are concerned, (0,) of a run of one

    def __str__(self) -> str:
        more = f" and {len(self.leaves) - 3} more leaves" if len(self.leaves) > 3 else ""
        where = f" in {', '.join(self.leaves[:3])}{more}" if self.leaves else ""
        return f"{self.what} of step {self.step + 1} (experience {self.experience}) is not finite{where}"


def broken(state: TrainState, record: Record | None = None) -> np.ndarray:
    """Which seeds of a run have numbers that are not finite.

    What a method keeps may be infinite, such as the best of nothing, but not NaN.

    Args:
      state: of one seed, or of several.
      record: of an event; its losses are looked at as well.

    Returns:
      Bools `[S]`, one for each seed.
    """
    found = np.zeros(np.size(state.step), bool)
    for seeds in _bad_leaves(state, is_mapped(state)).values():
        found |= seeds
    if record is not None:
        found |= ~np.isfinite(np.ravel(np.asarray(record["loss"])))
    return found


def locate(learner: Learner, data: Data, state: TrainState, until: int) -> Breakdown | None:
    """Run again from a whole state, and find the step and the leaves in which numbers stop being finite.

    Args:
      learner: from `make_learner`.
      data: from `to_device`.
      state: of one seed or of several, whole: from `start`, or restored. It is not spent.
      until: the step of the run at which something was seen to be broken.

    Returns:
      The first breakdown; None where there is none up to and with step `until`.
    """
    many = is_mapped(state)
    begin, chunk, end, gradient = (
        compiled(f, many) for f in (learner.begin, learner.chunk, learner.end, learner.gradient)
    )
    t, i = position(learner, state)
    done = sum(learner.spec.steps[:t]) + i
    while done < until:
        at, steps = np.int32(t), learner.spec.steps[t]
        if i == 0:
            state = begin(state, data, at)
            if found := _breakdown(done, t, "the state after begin", state, many):
                return found
        length = most = min(steps - i, until - done)
        while most:
            length = min(length, most)
            new, record = chunk(state, data, at, np.int32(i), np.int32(length))
            if not np.any(broken(new, record)):
                state, i, done, most = new, i + length, done + length, most - length
            elif length > 1:
                length //= 2
            else:
                value, grads = gradient(state, data, at, np.int32(i))
                return (
                    _breakdown(done, t, "the loss", value, many)
                    or _breakdown(done, t, "the gradient", {"params": grads}, many)
                    or _breakdown(done, t, "the state after the update", new, many)
                )
        if i == steps:
            state = end(state, data, at)
            if found := _breakdown(done - 1, t, "the state after end", state, many):
                return found
            t, i = t + 1, 0
    return None


def _breakdown(done: int, t: int, what: str, tree: PyTree, many: bool) -> Breakdown | None:
    bad = {name: np.flatnonzero(seeds) for name, seeds in _bad_leaves(tree, many).items() if seeds.any()}
    if not bad:
        return None
    seeds = sorted({int(seed) for places in bad.values() for seed in places})
    return Breakdown(done, t, what, () if what == "the loss" else tuple(bad), tuple(seeds))


def _bad_leaves(tree: PyTree, many: bool) -> dict[str, np.ndarray]:
    """Of each leaf of floats, which seeds have a number in it that is wrong."""
    floats = {name: x for name, x in named(tree).items() if jnp.issubdtype(x.dtype, jnp.floating)}
    if not floats:
        return {}
    kept = tuple(name.startswith("method_state") for name in floats)
    return dict(zip(floats, np.asarray(_flags(tuple(floats.values()), kept, many)), strict=True))


@functools.partial(jax.jit, static_argnames=("kept", "many"))
def _flags(leaves: tuple[jax.Array, ...], kept: tuple[bool, ...], many: bool) -> jax.Array:
    def bad(leaf: jax.Array, is_kept: bool) -> jax.Array:
        wrong = jnp.isnan(leaf) if is_kept else ~jnp.isfinite(leaf)
        return jnp.any(wrong.reshape(leaf.shape[0] if many else 1, -1), axis=1)

    return jnp.stack([bad(leaf, is_kept) for leaf, is_kept in zip(leaves, kept, strict=True)])
