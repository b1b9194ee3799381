"""Rows become batches: in which order, through which view, and with what hidden."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.core._base import Batch, Data, Experience, PyTree, Source, Spec, Stream
from ctrain_jax.core._mesh import replicate, spread_rows
from ctrain_jax.core._method import strong
from ctrain_jax.ops import permute_index


def to_device(stream: Stream, mesh: jax.sharding.Mesh | None = None, *, spread: bool = False) -> Data:
    """The arrays of a stream on the device: raw (uint8 stays uint8), to be handed to every compiled function.

    Inputs that are no numpy array, as those of `streams.on_host`, stay where they are: the host reads the rows of a
    batch when a step asks for them. The run is the same to the bit, as rows are asked for by number.

    Args:
      stream: from `streams`.
      mesh: devices, each of which gets a copy; the default device otherwise.
      spread: give each device of the mesh its part of the rows in place of a copy. A host then reads its own rows alone
        (of arrays that read what is asked of them, as `numpy.load(..., mmap_mode="r")`); batches are the same.

    Returns:
      The arrays.

    Raises:
      ValueError: `spread` without a mesh.
    """
    parts = {"train": stream.source.train, "test": stream.source.test}
    source: dict[str, dict[str, Any]] = {
        split: {k: x for k, x in part.items() if isinstance(x, np.ndarray)} for split, part in parts.items()
    }
    data = Data(source, stream.experiences, stream.origins)
    if mesh is None:
        if spread:
            raise ValueError("to_device spreads rows over the devices of a mesh, got spread=True without one.")
        return jax.tree.map(jnp.asarray, data)
    if not spread:
        return replicate(data, mesh)
    return replicate(data._replace(source={}), mesh)._replace(
        source=jax.tree.map(lambda x: spread_rows(x, mesh), source)
    )


def at(stacked: Experience, t: jax.Array) -> Experience:
    """The `t`-th of the stacked experiences."""
    return jax.tree.map(lambda x: x[t], stacked)


def batch_positions(key: jax.Array, i: jax.Array, size: jax.Array, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """Which rows of an experience the `i`-th batch holds: a function of (seed, experience, epoch) and `i` alone.

    Each epoch is a keyed permutation of `[0, size)`, evaluated at the `batch_size` positions that are wanted. The last
    batch of an epoch is filled from the epoch's beginning, with weight 0.

    Args:
      key: of the seed and the experience.
      i: int32 [], the step within the experience.
      size: int32 [], rows of the experience.
      batch_size: rows of a batch.

    Returns:
      Positions int32 `[batch_size]` in `[0, size)`, and weights float32 `[batch_size]`.
    """
    per_epoch = -(-size // batch_size)
    at = (i % per_epoch) * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    positions = permute_index(jax.random.fold_in(key, i // per_epoch), at % size, size)
    return positions, (at < size).astype(jnp.float32)


def fetch_rows(
    stream: Stream,
    data: Data,
    experience: Experience,
    record: PyTree,
    split: str,
    mesh: jax.sharding.Mesh | None = None,
) -> Batch:
    """The batch of some rows: gathered, made float, seen through the view of the experience that they came from."""
    row, origin = record["row"], record["experience"]
    arrays = data.source["test" if split == "test" else "train"]
    stayed = stream.source.test if split == "test" else stream.source.train
    inputs = as_floats(arrays["inputs"][row] if "inputs" in arrays else _read(stayed["inputs"], row, mesh))
    if stream.view_fn is not None:
        views = jax.tree.map(lambda x: x[origin], data.origins.view)
        inputs = jax.vmap(stream.view_fn)(inputs, views)
    batch = {
        "inputs": normalised(inputs, stream.source),
        "labels": arrays["labels"][row],
        "weights": jnp.ones(row.shape, jnp.float32),
        "task": data.origins.task[origin],
        "row": row,
        "experience": origin,
    }
    if stream.heads == "task":
        batch["classes"] = data.origins.classes[origin]
    elif stream.heads == "seen":
        batch["classes"] = jnp.broadcast_to(experience.seen, (*row.shape, experience.seen.shape[-1]))
    return batch


def _read(inputs: Any, row: jax.Array, mesh: jax.sharding.Mesh | None) -> jax.Array:
    """Rows of inputs that stayed on the host; of several devices each asks its own host for its part of the rows."""

    def ask(row: jax.Array) -> jax.Array:
        answer = jax.ShapeDtypeStruct((*row.shape, *inputs.shape[1:]), inputs.dtype)
        return jax.pure_callback(look_up, answer, row, vmap_method="broadcast_all")

    def look_up(row: Any) -> np.ndarray:
        row = np.asarray(row)
        return np.asarray(inputs[row.reshape(-1)]).reshape(*row.shape, *inputs.shape[1:])

    if mesh is None:
        return ask(row)
    count, part = row.shape[0], jax.sharding.PartitionSpec("data")
    filled = row[jnp.arange(count + -count % mesh.shape["data"]) % count]
    return jax.shard_map(ask, mesh=mesh, in_specs=part, out_specs=part)(filled)[:count]


def as_floats(raw: jax.Array) -> jax.Array:
    """Images of uint8 as floats in [0, 1]; anything else as it is."""
    return raw.astype(jnp.float32) / 255.0 if raw.dtype == jnp.uint8 else raw


def normalised(inputs: jax.Array, source: Source) -> jax.Array:
    """Inputs by the mean and std of their source."""
    if source.mean is not None:
        inputs = inputs - jnp.asarray(source.mean, inputs.dtype)
    if source.std is not None:
        inputs = inputs / jnp.asarray(source.std, inputs.dtype)
    return inputs


def hide(batch: Batch, stream: Stream) -> Batch:
    """The batch as the protocol shows it to the learner."""
    return batch if stream.labels else {k: v for k, v in batch.items() if k != "labels"}


def question(batch: Batch, spec: Spec) -> Batch:
    """The batch as it is asked: no labels, and the task only where the protocol gives it."""
    hidden = {"labels"} if spec.task_known else {"labels", "task", "experience"}
    return {k: v for k, v in batch.items() if k not in hidden}


def make_scan(experience: Experience, fetch: Callable[..., Batch], spec: Spec) -> Callable[..., Any]:
    """`scan(fn, carry)` over the rows of an experience, in batches that say their `position` in it."""

    def scan(fn: Callable[[Any, Batch, jax.Array], Any], carry: Any, size: int = spec.batch_size) -> Any:
        def body(b, carry):
            at = b * size + jnp.arange(size, dtype=jnp.int32)
            real = at < experience.size
            at = at % experience.size
            batch = fetch({"row": experience.rows[at], "experience": experience.origin[at]})
            return fn(carry, batch | {"weights": real.astype(jnp.float32), "position": at}, b)

        return jax.lax.fori_loop(0, -(-experience.size // size), body, strong(carry))

    return scan
