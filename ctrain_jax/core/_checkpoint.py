"""Checkpoints by Orbax, with a checksum for every leaf.

Orbax writes atomically but restores damaged arrays without a word, so each checkpoint carries a manifest of checksums
that is verified on restore; a step that does not match is named, and the newest good one is used.
"""

import json
import logging
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.core._base import PyTree

_log = logging.getLogger("ctrain_jax")


class Checkpoints(NamedTuple):
    """A directory of checkpoints, as functions."""

    save: Callable[..., None]  # (step, state, extra): in the background; `extra` is any JSON
    restore: Callable[..., "Restored | None"]  # (target): the newest good step, None when there is none
    steps: Callable[[], list[int]]  # on disk, oldest first
    close: Callable[[], None]  # waits for saves under way


class Restored(NamedTuple):
    """A verified checkpoint."""

    step: int
    state: PyTree  # with the structure, dtypes and shardings of the target
    extra: Any  # the JSON that was saved with it
    damaged: dict[int, str]  # newer steps that were passed over, and why


class DamagedCheckpoint(ValueError):
    """No checkpoint of a directory can be trusted."""


def open_checkpoints(directory: str | Path, *, keep: int = 3) -> Checkpoints:
    """Open a directory of checkpoints, made where it is missing.

    Any pytree of arrays can be saved: typed keys, arrays of size zero and numpy or Python scalars too.

    Args:
      directory: absolute or relative path.
      keep: how many checkpoints stay on disk, the newest ones.

    Returns:
      The functions of the directory; see `Checkpoints`. `restore` raises `DamagedCheckpoint` when checkpoints exist and
      none is whole, and `ValueError` when one is whole but does not fit the target (changed code or config).

    Raises:
      ValueError: `keep` below 1.
    """
    if keep < 1:
        raise ValueError(f"keep expects at least 1 checkpoint, got {keep}.")
    import orbax.checkpoint as ocp

    directory = Path(directory).absolute()
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    manager = ocp.CheckpointManager(directory, options=options)

    def save(step: int, state: PyTree, extra: Any = None) -> None:
        leaves, described = _flatten(state)
        body = {"leaves": described, "extra": extra, "versions": _versions()}
        manifest = {"body": body, "checksum": _crc(json.dumps(body, sort_keys=True).encode())}
        if step in manager.all_steps():
            # A run that passed over a damaged step reaches it again.
            manager.delete(step)
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(leaves), manifest=ocp.args.JsonSave(manifest))
        manager.save(step, args=arguments)

    def load(step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(), manifest=ocp.args.JsonRestore())
        read: Any = manager.restore(step, args=arguments)
        return {name: np.asarray(x) for name, x in read["state"].items()}, read["manifest"]

    def restore(target: PyTree) -> Restored | None:
        manager.wait_until_finished()
        damaged: dict[int, str] = {}
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                body, leaves = _verified(*load(step))
            except Exception as error:  # whatever a damaged file makes of the reader
                damaged[step] = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
                _log.warning("checkpoint %d in %s is damaged and is passed over: %s", step, directory, damaged[step])
                continue
            return Restored(step, _unflatten(target, leaves, body["leaves"]), body["extra"], damaged)
        if damaged:
            named = "; ".join(f"step {step}: {why}" for step, why in damaged.items())
            raise DamagedCheckpoint(f"No checkpoint in {directory} is whole ({named}): start in another directory.")
        return None

    def close() -> None:
        manager.wait_until_finished()
        manager.close()

    return Checkpoints(save, restore, lambda: sorted(manager.all_steps()), close)


def _flatten(state: PyTree) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    leaves: dict[str, np.ndarray] = {}
    described: dict[str, dict[str, Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = _name(path)
        key = _key_name(leaf)
        array = np.asarray(jax.random.key_data(leaf) if key else leaf)
        described[name] = {"shape": list(array.shape), "dtype": array.dtype.name, "key": key, "checksum": _crc(array)}
        if array.size:  # Orbax refuses arrays of size zero; their shape is all there is to know
            leaves[name] = array
    # Orbax refuses an empty tree.
    return leaves or {"": np.zeros(1)}, described


def _verified(leaves: dict[str, np.ndarray], manifest: dict[str, Any]) -> tuple[dict, dict[str, np.ndarray]]:
    body = manifest["body"]
    if _crc(json.dumps(body, sort_keys=True).encode()) != manifest["checksum"]:
        raise DamagedCheckpoint("its manifest does not match its checksum")
    whole = {}
    for name, what in body["leaves"].items():
        dtype = jnp.dtype(what["dtype"])
        array = leaves[name] if name in leaves else np.zeros(what["shape"], dtype)
        if list(array.shape) != what["shape"] or array.dtype != dtype or _crc(array) != what["checksum"]:
            raise DamagedCheckpoint(f"the leaf {name} does not match its checksum")
        whole[name] = array
    return body, whole


def _unflatten(target: PyTree, leaves: dict[str, np.ndarray], described: dict[str, Any]) -> PyTree:
    paths, tree = jax.tree_util.tree_flatten_with_path(target)
    wanted = {_name(path): leaf for path, leaf in paths}
    problems = [f"{name} is missing in the checkpoint" for name in wanted if name not in leaves]
    problems += [f"{name} is in the checkpoint only" for name in leaves if name not in wanted]
    for name, leaf in wanted.items():
        if name in leaves:
            key = _key_name(leaf)
            expected = jax.eval_shape(jax.random.key_data, leaf) if key else jnp.asarray(leaf)
            got = leaves[name]
            if expected.shape != got.shape or expected.dtype != got.dtype or described[name]["key"] != key:
                problems.append(
                    f"{name} is {described[name]['key'] or got.dtype}{list(got.shape)} in the checkpoint and "
                    f"{key or expected.dtype}{list(expected.shape)} here"
                )
    if problems:
        raise ValueError(
            f"The checkpoint does not fit the learner ({'; '.join(problems[:20])}): "
            "use the config that it was made with, or another directory."
        )

    def place(name: str, leaf: Any) -> Any:
        array = leaves[name]
        value = jnp.asarray(array)
        if _key_name(leaf):
            value = jax.random.wrap_key_data(value, impl=_key_name(leaf))
        return jax.device_put(value, leaf.sharding) if isinstance(leaf, jax.Array) else value

    return jax.tree.unflatten(tree, [place(name, leaf) for name, leaf in wanted.items()])


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".") or "state"


def _key_name(leaf: Any) -> str | None:
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return None
    return str(jax.random.key_impl(leaf))


def _crc(data: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(data).view(np.uint8).data if isinstance(data, np.ndarray) else data)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")}
