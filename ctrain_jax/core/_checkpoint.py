"""Checkpoints by Orbax, with a checksum for every leaf and for every file.

Orbax writes atomically but restores damaged arrays without a word. So each checkpoint carries a manifest with a
checksum of every leaf, and a seal with a checksum of every file. Both are verified on restore; a step that does not
match is named, and the newest good one is used.
"""

import json
import logging
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.core._base import PyTree

_log = logging.getLogger("ctrain_jax")
_SEAL = "seal.json"
_TRASH = "deleted"


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
    """Open a directory of checkpoints, made where it is missing. One process at a time may have it open.

    Any pytree of numbers can be saved: jax and numpy arrays, typed keys, arrays of size zero, numpy and Python scalars.
    What was given to `save` may be donated or overwritten as soon as it returns. Saving the newest step again replaces
    it; a step that `restore` passed over as damaged is deleted by the next save.

    Args:
      directory: absolute or relative path.
      keep: how many checkpoints stay on disk, the newest ones.

    Returns:
      The functions of the directory; see `Checkpoints`. A target of `restore` holds arrays, or
      `jax.ShapeDtypeStruct` in their place; jax arrays come back on the target's devices, numpy arrays and Python
      numbers as such. `save` raises `ValueError` for a leaf that is no number, and for a step older than the newest
      one. `restore` raises `DamagedCheckpoint` when checkpoints exist and none is whole, and `ValueError` when one is
      whole but does not fit the target (changed code or config).

    Raises:
      ValueError: `keep` below 1.
    """
    if keep < 1:
        raise ValueError(f"keep expects at least 1 checkpoint, got {keep}.")
    import orbax.checkpoint as ocp

    directory = Path(directory).absolute()
    damaged: dict[int, str] = {}
    saving = [0]
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=True,
        cleanup_tmp_directories=True,
        # A folder that is deleted file by file would look like a damaged checkpoint to whoever comes after a kill.
        todelete_subdir=_TRASH,
        async_options=ocp.AsyncOptions(post_finalization_callback=lambda: _seal(directory, saving[0])),
    )
    manager = ocp.CheckpointManager(directory, options=options)

    def settle() -> None:
        manager.wait_until_finished()
        shutil.rmtree(directory / _TRASH, ignore_errors=True)

    def save(step: int, state: PyTree, extra: Any = None) -> None:
        settle()
        newer = [other for other in manager.all_steps() if other > step and other not in damaged]
        if newer:
            raise ValueError(
                f"The checkpoints in {directory} go up to step {max(newer)}, got step {step} to save: restore first, "
                "or use another directory."
            )
        leaves, described = _flatten(state)
        # What is read back is what was summed: JSON turns keys of dicts into strings and tuples into lists.
        body = json.loads(json.dumps({"leaves": described, "extra": extra, "versions": _versions()}))
        manifest = {"body": body, "checksum": _crc(_canonical(body))}
        for other in manager.all_steps():
            if other == step or other in damaged:
                manager.delete(other)
                damaged.pop(other, None)
        saving[0] = step
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(leaves), manifest=ocp.args.JsonSave(manifest))
        manager.save(step, args=arguments, force=True)

    def load(step: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        _check_files(directory / str(step))
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(), manifest=ocp.args.JsonRestore())
        read: Any = manager.restore(step, args=arguments)
        return _verified({name: np.asarray(x) for name, x in read["state"].items()}, read["manifest"])

    def restore(target: PyTree) -> Restored | None:
        settle()
        damaged.clear()
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                body, leaves = load(step)
            except Exception as error:  # whatever a damaged file makes of the reader
                damaged[step] = _line(error)
                continue
            for newer, why in damaged.items():
                _log.warning("checkpoint %d in %s is damaged and is passed over: %s", newer, directory, why)
            return Restored(step, _unflatten(target, leaves, body["leaves"]), body["extra"], dict(damaged))
        if damaged:
            named = "; ".join(f"step {step}: {why}" for step, why in damaged.items())
            raise DamagedCheckpoint(f"No checkpoint in {directory} is whole ({named}): start in another directory.")
        return None

    def close() -> None:
        try:
            settle()
        finally:
            manager.close()

    return Checkpoints(save, restore, lambda: sorted(manager.all_steps()), close)


def _seal(directory: Path, step: int) -> None:
    """Write the checksums of the files of a checkpoint, in the moment before Orbax renames its folder for good."""
    for folder in directory.glob(f"{step}.orbax-checkpoint-tmp*"):
        # Those beside the folders of the items are Orbax's own notes and change once more.
        files = [file for file in folder.glob("*/**/*") if file.is_file()]
        sums = {file.relative_to(folder).as_posix(): _file_crc(file) for file in files}
        (folder / _SEAL).write_text(json.dumps(sums))


def _check_files(folder: Path) -> None:
    """Look at every file before Orbax does, whose readers leave threads and tracebacks behind where one is damaged."""
    if not (folder / _SEAL).is_file():
        return  # the checksums of the leaves remain
    for name, checksum in json.loads((folder / _SEAL).read_text()).items():
        if not (folder / name).is_file():
            raise DamagedCheckpoint(f"{name} is missing")
        if _file_crc(folder / name) != checksum:
            raise DamagedCheckpoint(f"{name} does not match its checksum")


def _flatten(state: PyTree) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    leaves: dict[str, np.ndarray] = {}
    described: dict[str, dict[str, Any]] = {}
    for name, leaf in _named(state).items():
        key = _key_name(leaf)
        array = np.asarray(jax.random.key_data(leaf) if key else leaf)
        if array.dtype.kind in "OSUMm":
            raise ValueError(f"A checkpoint expects numbers, got {type(leaf).__name__} at {name}: put it in extra.")
        described[name] = {"shape": list(array.shape), "dtype": array.dtype.name, "key": key, "checksum": _crc(array)}
        if array.size:  # Orbax refuses arrays of size zero; their shape is all there is to know
            leaves[name] = array
    # Orbax refuses an empty tree.
    return leaves or {"": np.zeros(1)}, described


def _verified(leaves: dict[str, np.ndarray], manifest: dict[str, Any]) -> tuple[dict, dict[str, np.ndarray]]:
    body = manifest["body"]
    if _crc(_canonical(body)) != manifest["checksum"]:
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
    wanted = _named(target)
    problems = [f"{name} is missing in the checkpoint" for name in wanted if name not in leaves]
    problems += [f"{name} is in the checkpoint only" for name in leaves if name not in wanted]
    for name, leaf in wanted.items():
        if name in leaves:
            key = _key_name(leaf)
            here = jax.eval_shape(jax.random.key_data, leaf) if key else leaf if _is_array(leaf) else np.asarray(leaf)
            there = leaves[name]
            if here.shape != there.shape or here.dtype != there.dtype or described[name]["key"] != key:
                problems.append(
                    f"{name} is {described[name]['key'] or there.dtype}{list(there.shape)} in the checkpoint and "
                    f"{key or here.dtype}{list(here.shape)} here"
                )
    if problems:
        more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(
            f"The checkpoint does not fit the learner ({'; '.join(problems[:20])}{more}): "
            "use the config that it was made with, or another directory."
        )
    return jax.tree.unflatten(jax.tree.structure(target), [_like(leaf, leaves[name]) for name, leaf in wanted.items()])


def _like(leaf: Any, array: np.ndarray) -> Any:
    """An array as the kind of thing that the target holds."""
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        key = _key_name(leaf)
        value = jax.random.wrap_key_data(jnp.asarray(array), impl=key) if key else jnp.asarray(array)
        return value if leaf.sharding is None else jax.device_put(value, leaf.sharding)
    return array if isinstance(leaf, np.ndarray) else array[()] if isinstance(leaf, np.generic) else array.item()


def _named(tree: PyTree) -> dict[str, Any]:
    """The leaves by their paths, `params.dense.kernel`; with brackets and quotes where keys with dots need them."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    short = [jax.tree_util.keystr(path, simple=True, separator=".") or "state" for path, _ in paths]
    names = short if len(set(short)) == len(short) else [jax.tree_util.keystr(path) for path, _ in paths]
    return {name: leaf for name, (_, leaf) in zip(names, paths, strict=True)}


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic)


def _key_name(leaf: Any) -> str | None:
    if not _is_array(leaf) or not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return None
    names: list[str] = []
    jax.eval_shape(lambda key: names.append(str(jax.random.key_impl(key))), leaf)  # a ShapeDtypeStruct has none itself
    return names[0]


def _crc(data: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(data).view(np.uint8).data if isinstance(data, np.ndarray) else data)


def _file_crc(file: Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _canonical(body: Any) -> bytes:
    return json.dumps(body, sort_keys=True).encode()


def _line(error: Exception) -> str:
    text = str(error) if isinstance(error, DamagedCheckpoint) else f"{type(error).__name__} {error}"
    return text.splitlines()[0].strip()[:200]


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")}
