"""The leaves of a pytree as named arrays of the host, each with a checksum: what a checkpoint holds."""

import json
import zlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.core._base import PyTree


class DamagedCheckpoint(ValueError):
    """A checkpoint, or all of a directory, that is not what was written."""


class Kept(np.ndarray):
    """Memory that nobody else writes to. Of any other array Orbax makes a copy, into memory that is new each time."""

    def __deepcopy__(self, memo: Any) -> "Kept":
        return self


def flatten(state: PyTree, kept: dict[str, Kept]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Arrays by name as Orbax takes them, and what is to be known of each: shape, dtype, kind of key, checksum.

    A leaf that is spread over several hosts stays a jax array, of which each host writes its part; all others are
    copied into `kept`, which is overwritten where it was used before. Every process of a run calls this at the same
    moment.
    """
    leaves: dict[str, Any] = {}
    described: dict[str, dict[str, Any]] = {}
    spread: dict[str, list] = {}
    for name, leaf in named(state).items():
        key = key_name(leaf)
        array = jax.random.key_data(leaf) if key else leaf
        if isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated):
            spread[name] = [
                [_bounds(shard.index, array.shape), checksum(np.asarray(shard.data))]
                for shard in array.addressable_shards
                if shard.replica_id == 0
            ]
        else:
            array = np.asarray(array)
            if array.dtype.kind in "OSUMm":
                raise ValueError(f"A checkpoint expects numbers, got {type(leaf).__name__} at {name}: put it in extra.")
        described[name] = {"shape": list(array.shape), "dtype": array.dtype.name, "key": key}
        if name in spread:
            leaves[name] = array
            continue
        described[name]["checksum"] = checksum(array)
        if array.size:  # Orbax refuses arrays of size zero; their shape is all there is to know
            if name not in kept or kept[name].shape != array.shape or kept[name].dtype != array.dtype:
                kept[name] = np.empty(array.shape, array.dtype).view(Kept)
            np.copyto(kept[name], array)
            leaves[name] = kept[name]
    for part in _from_all_hosts(spread):
        for name, shards in part.items():
            described[name].setdefault("shards", []).extend(shards)
    # Orbax refuses an empty tree.
    return leaves or {"": np.zeros(1)}, described


def checked(described: Any) -> dict[str, dict[str, Any]]:
    """A description that was read back, as `flatten` makes them.

    Raises:
      DamagedCheckpoint: one of another form.
    """
    try:
        for what in described.values():
            bounds = [bound for index, _ in what.get("shards", ()) for pair in index for bound in pair]
            sizes = [*what["shape"], *bounds]
            whole = all(type(size) is int and 0 <= size < 2**63 for size in sizes)
            if not whole or not isinstance(what["key"], str | None) or jnp.dtype(what["dtype"]).name != what["dtype"]:
                raise ValueError(what)
    except Exception as error:  # whatever a file that was made by hand makes of its reader
        raise DamagedCheckpoint(f"its manifest describes no leaves ({type(error).__name__})") from error
    return described


def targets(described: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    """What Orbax is to read for a description: numpy arrays of these shapes and dtypes, which take no memory."""
    shapes = {name: what for name, what in described.items() if 0 not in what["shape"]}
    empty = {name: np.broadcast_to(np.zeros((), jnp.dtype(w["dtype"])), w["shape"]) for name, w in shapes.items()}
    return empty or {"": np.zeros(1)}


def verified(leaves: dict[str, Any], described: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    """The arrays that were described.

    Raises:
      DamagedCheckpoint: one that does not match its checksum, by name.
    """
    whole = {}
    for name, what in described.items():
        dtype = jnp.dtype(what["dtype"])
        array = np.asarray(leaves[name]) if name in leaves else np.zeros(what["shape"], dtype)
        if list(array.shape) != what["shape"] or array.dtype != dtype or not all(_matches(array, what)):
            raise DamagedCheckpoint(f"the leaf {name} does not match its checksum")
        whole[name] = array
    return whole


def unflatten(
    target: PyTree, leaves: dict[str, np.ndarray], described: dict[str, dict[str, Any]], partial: bool
) -> tuple[PyTree, tuple[str, ...]]:
    """The arrays in the structure, dtypes and shardings of a target, and what did not fit.

    Raises:
      ValueError: something that does not fit, unless `partial`, where such a leaf is the target's.
    """
    wanted = named(target)
    problems = {name: f"{name} is missing in the checkpoint" for name in wanted if name not in leaves}
    problems |= {name: f"{name} is in the checkpoint only" for name in leaves if name not in wanted}
    for name, leaf in wanted.items():
        if name in leaves:
            key = key_name(leaf)
            here = jax.eval_shape(jax.random.key_data, leaf) if key else leaf if _is_array(leaf) else np.asarray(leaf)
            there = leaves[name]
            if here.shape != there.shape or here.dtype != there.dtype or described[name]["key"] != key:
                problems[name] = (
                    f"{name} is {described[name]['key'] or there.dtype}{list(there.shape)} in the checkpoint and "
                    f"{key or here.dtype}{list(here.shape)} here"
                )
    told = tuple(problems.values())
    if problems and not partial:
        more = f"; and {len(told) - 20} more" if len(told) > 20 else ""
        raise ValueError(
            f"The checkpoint does not fit the learner ({'; '.join(told[:20])}{more}): use the config that it was made "
            "with, or another directory, or restore with partial=True to keep the leaves here where they do not fit."
        )
    for name in problems:
        if isinstance(wanted.get(name), jax.ShapeDtypeStruct):
            raise ValueError(f"{problems[name]}, and its target is a shape: partial=True expects arrays there.")
    made = [leaf if name in problems else _like(leaf, leaves[name]) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(target), made), told


def named(tree: PyTree) -> dict[str, Any]:
    """The leaves by their paths, `params.dense.kernel`; with brackets and quotes where keys with dots need them."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    short = [jax.tree_util.keystr(path, simple=True, separator=".") or "state" for path, _ in paths]
    names = short if len(set(short)) == len(short) else [jax.tree_util.keystr(path) for path, _ in paths]
    return {name: leaf for name, (_, leaf) in zip(names, paths, strict=True)}


def key_name(leaf: Any) -> str | None:
    """Of a typed key the name of its generator, None of anything else."""
    if not _is_array(leaf) or not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return None
    names: list[str] = []
    jax.eval_shape(lambda key: names.append(str(jax.random.key_impl(key))), leaf)  # a ShapeDtypeStruct has none itself
    return names[0]


def checksum(data: Any) -> int:
    """CRC-32 of an array's bytes, or of bytes."""
    return zlib.crc32(np.ascontiguousarray(data).view(np.uint8).data if isinstance(data, np.ndarray) else data)


def _matches(array: np.ndarray, what: dict[str, Any]) -> Iterable[bool]:
    for bounds, expected in what.get("shards", ()):
        yield checksum(array[tuple(slice(*pair) for pair in bounds)]) == expected
    if "checksum" in what:
        yield checksum(array) == what["checksum"]


def _like(leaf: Any, array: np.ndarray) -> Any:
    """An array as the kind of thing that the target holds."""
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        key = key_name(leaf)
        if leaf.sharding is None or leaf.sharding.is_fully_addressable:
            value = jax.random.wrap_key_data(jnp.asarray(array), impl=key) if key else jnp.asarray(array)
            return value if leaf.sharding is None else jax.device_put(value, leaf.sharding)
        value = on_devices(array, leaf.sharding)
        return jax.jit(jax.random.wrap_key_data, static_argnames="impl")(value, impl=key) if key else value
    return array if isinstance(leaf, np.ndarray) else array[()] if isinstance(leaf, np.generic) else array.item()


def on_devices(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """A host's array as part of a global one, of which each process puts its own shards on its devices."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> list[list[int]]:
    return [list(part.indices(size)[:2]) for part, size in zip(index, shape, strict=True)]


def _from_all_hosts(content: Any) -> list[Any]:
    """What each process gave, in every process; JSON."""
    if jax.process_count() == 1:
        return [content]
    from jax.experimental.multihost_utils import process_allgather

    text = np.frombuffer(json.dumps(content).encode(), np.uint8)
    sizes = np.ravel(process_allgather(np.int32(text.size)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: text.size] = text
    rows = np.asarray(process_allgather(padded))
    return [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic)
