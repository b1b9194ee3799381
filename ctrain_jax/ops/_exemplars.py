"""Exemplars: a few rows of every class, chosen when an experience is over, that join the training set of the next one.

Rebuffi, Kolesnikov, Sperl and Lampert, "iCaRL: incremental classifier and representation learning", CVPR 2017,
arXiv 1611.07725, algorithms 2, 4 and 5. Where we differ: every class has the same number of slots from the start,
because shapes do not change while a program runs; a class that comes again shares its slots among its experiences,
which the paper does not treat; as many exemplars as rows join every batch, weighed so that the loss is in expectation
that of the union of both sets. Written from the equations.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.ops._checks import check_size
from ctrain_jax.ops._each_row import each_row, labeled_features
from ctrain_jax.ops._herding import herding
from ctrain_jax.ops._memory import append_rows
from ctrain_jax.ops._permutation import permute_index

Batch = dict[str, Any]


class ExemplarState(NamedTuple):
    """Which rows are held, each class's best first. `m` slots for each of the `C` classes."""

    row: jax.Array  # int32 [C, m]
    experience: jax.Array  # int32 [C, m]
    held: jax.Array  # bool [C, m]


class Exemplars(NamedTuple):
    """Pure functions over an `ExemplarState`; `ctx` is the context of a hook, `ts` the train state."""

    init: Callable[..., ExemplarState]  # (spec)
    herd: Callable[..., ExemplarState]  # (state, ctx of `end`, ts, without=None): keep the classes' herded rows
    sample: Callable[..., ExemplarState]  # (state, ctx of `begin` or `end`): keep random rows of each class
    keep: Callable[..., ExemplarState]  # (state, experience, picks): int32 [C, m] positions, best first, -1 for none
    draw: Callable[..., tuple[Batch, jax.Array]]  # (state, rng, num, incoming) -> (records [num], weights [num])
    join: Callable[..., Batch]  # (state, batch, ctx of `augment`) -> the batch of the union of experience and exemplars
    each: Callable[..., Any]  # (state, ctx, fn(batch of m rows)) -> what fn makes of each class's rows, [C, ...]


def exemplars(num: int) -> Exemplars:
    """The exemplar sets of a stream.

    A class that a later experience shows again keeps `num` rows: those that rank highest in any of its experiences,
    evenly, as the first picks of herding are the herded set of that size.

    Args:
      num: rows of each class.

    Returns:
      The functions. `draw` is uniform over all rows that are held, without repetition until all have come; where
      nothing is held it gives copies of incoming rows with weight 0. `join` appends as many exemplars as rows arrive,
      each weighed by `held / experience.size` times the mean weight of the incoming rows: the weighted mean loss of the
      batch is in expectation the mean loss over the union. `each` gives weight 0 to slots that are not held. `herd`
      passes over the rows of another state, `without`.

    Raises:
      ValueError: `num` below 1.
    """
    check_size("num", num)

    def init(spec: Any) -> ExemplarState:
        rows = jnp.zeros((spec.num_classes, num), jnp.int32)
        return ExemplarState(rows, rows, rows > 0)

    def keep(state: ExemplarState, experience: Any, picks: jax.Array) -> ExemplarState:
        def one(old, picks):
            # The rank of a row among those of its experience, which are held in their order.
            earlier = jnp.tril(old.experience[:, None] == old.experience[None, :], -1)
            new = ExemplarState(experience.rows[picks], experience.origin[picks], picks >= 0)
            both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), old, new)
            rank = jnp.concatenate([earlier.sum(1), jnp.arange(num)])
            best = jnp.argsort(jnp.where(both.held, rank, num), stable=True)[:num]
            return jax.tree.map(lambda x: x[best], both)

        return jax.vmap(one)(state, picks)

    def herd(state: ExemplarState, ctx: Any, ts: Any, without: ExemplarState | None = None) -> ExemplarState:
        skip = None if without is None else lambda batch: holds(without, batch)
        features, labels = labeled_features(ctx, ts, skip)
        return keep(state, ctx.experience, _of_each_class(ctx, num, lambda c: herding(features, labels == c, num)))

    def sample(state: ExemplarState, ctx: Any) -> ExemplarState:
        labels = each_row(ctx, lambda batch: batch["labels"], jnp.int32(-1))
        order = jax.random.permutation(ctx.rng, ctx.spec.max_rows)

        def pick(c):
            found = jnp.nonzero(labels[order] == c, size=num, fill_value=-1)[0]
            return jnp.where(found >= 0, order[found], -1).astype(jnp.int32)

        return keep(state, ctx.experience, _of_each_class(ctx, num, pick))

    def draw(state: ExemplarState, rng: jax.Array, size: int, incoming: Batch) -> tuple[Batch, jax.Array]:
        held = jnp.sum(state.held, dtype=jnp.int32)
        some = jnp.maximum(held, 1)
        number = permute_index(rng, jnp.arange(size) % some, some)
        slots = jnp.searchsorted(jnp.cumsum(state.held.ravel()), number + 1)
        copies = jnp.arange(size) % incoming["row"].shape[0]

        def fill(name, stored):
            return jnp.where(held > 0, stored.ravel()[slots], incoming[name][copies])

        records = {"row": fill("row", state.row), "experience": fill("experience", state.experience)}
        return records, jnp.full(size, held > 0, jnp.float32)

    def join(state: ExemplarState, batch: Batch, ctx: Any) -> Batch:
        arriving = ctx.incoming["weights"]
        records, weights = draw(state, ctx.rng, arriving.shape[0], ctx.incoming)
        weights = weights * arriving.mean() * state.held.sum() / ctx.experience.size
        return append_rows(batch, ctx.fetch(records) | {"weights": weights})

    def each(state: ExemplarState, ctx: Any, fn: Callable[[Batch], Any]) -> Any:
        def one(own):
            batch = ctx.fetch({"row": own.row, "experience": own.experience})
            return fn(batch | {"weights": own.held.astype(jnp.float32)})

        return jax.lax.map(one, state)

    return Exemplars(init, herd, sample, keep, draw, join, each)


def holds(state: ExemplarState, batch: Batch) -> jax.Array:
    """Which rows of a batch are among the exemplars of their class: bool `[B]`."""
    own = jax.tree.map(lambda x: x[batch["labels"]], state)
    same = (own.row == batch["row"][:, None]) & (own.experience == batch["experience"][:, None])
    return jnp.any(same & own.held, axis=1)


def _of_each_class(ctx: Any, num: int, pick: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """What `pick` finds for each class of the experience, int32 [C, num]; -1 for the other classes, at no cost."""

    def one(c):
        return jax.lax.cond(ctx.experience.classes[c], pick, lambda c: jnp.full(num, -1, jnp.int32), c)

    return jax.lax.map(one, jnp.arange(ctx.spec.num_classes))
