"""Checkpoints by Orbax, with a checksum for every leaf and for every file.

Orbax writes atomically but restores damaged arrays without a word. So each checkpoint carries a manifest with a
checksum of every leaf, and a seal with a checksum of every file. Both are verified on restore; a step that does not
match is named, and the newest good one is used.
"""

import json
import logging
import math
import os
import shutil
import stat
import types
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ctrain_jax.core import _leaves
from ctrain_jax.core._base import PyTree
from ctrain_jax.core._leaves import DamagedCheckpoint

_log = logging.getLogger("ctrain_jax")
_SEAL = "seal.json"
_TRASH = "deleted"


class Checkpoints(NamedTuple):
    """A directory of checkpoints, as functions."""

    save: Callable[..., None]  # (step, state, extra=None, score=None): in the background; `extra` is any JSON
    restore: Callable[..., "Restored | None"]  # (target, partial=False): the newest good step, None when there is none
    restore_best: Callable[..., "Restored | None"]  # the same of the highest score, the newest where none has one
    steps: Callable[[], list[int]]  # on disk, oldest first
    close: Callable[[], None]  # waits for saves under way


class Restored(NamedTuple):
    """A verified checkpoint."""

    step: int
    state: PyTree  # with the structure, dtypes and shardings of the target
    extra: Any  # the JSON that was saved with it
    damaged: dict[int, str]  # steps that came first and were passed over, and why
    unfit: tuple[str, ...] = ()  # with `partial`: what differs between the checkpoint and the target


def open_checkpoints(directory: str | Path, *, keep: int = 3) -> Checkpoints:
    """Open a directory of checkpoints, made where it is missing. One run at a time may save, while others read.

    Any pytree of numbers can be saved: jax and numpy arrays, typed keys, arrays of size zero, numpy and Python scalars.
    What was given to `save` may be donated or overwritten as soon as it returns: from the first save on, the host keeps
    memory for one copy of the state. Saving the newest step again replaces it; a step that `restore` passed over as
    damaged is deleted by the next save.

    In a run of several processes each of them calls the same functions at the same moment; the directory is one that
    all of them see. Each writes its own shards, and a checkpoint can be restored by any number of processes.

    Args:
      directory: absolute or relative path.
      keep: how many checkpoints stay on disk, the newest ones; the one of the highest score stays as well.

    Returns:
      The functions of the directory; see `Checkpoints`. A target of `restore` holds arrays, or
      `jax.ShapeDtypeStruct` in their place; jax arrays come back on the target's devices, numpy arrays and Python
      numbers as such. With `partial=True` a leaf of the target that the checkpoint does not have, or has in another
      shape, dtype or kind of key, stays as it is; `Restored.unfit` names it. `save` raises `ValueError` for a leaf that
      is no number, a score that is not finite, and for a step older than the newest one; when the disk refuses, it or
      whatever is called next raises `OSError`. `restore` raises `DamagedCheckpoint` when checkpoints exist and none is
      whole, and `ValueError` when one is whole but does not fit the target (changed code or config).

    Raises:
      ValueError: `keep` below 1.
      DamagedCheckpoint: a checkpoint holds a link, a pipe or a device, which would lead out of it or be read for ever.
    """
    if keep < 1:
        raise ValueError(f"keep expects at least 1 checkpoint, got {keep}.")
    import orbax.checkpoint as ocp

    directory = Path(directory).absolute()
    for folder in directory.glob("*"):
        if folder.name.isdigit() and folder.is_dir():  # Orbax reads notes of each of them at once
            _check_kinds(folder)
    damaged: dict[int, str] = {}
    saving: list[int] = []
    scores: dict[int, float] = {}
    kept: dict[str, _leaves.Kept] = {}

    def preserved(checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        steps = [info.step for info in checkpoints]
        return [step in {*steps[-keep:], _best(scores, steps)} for step in steps]

    # Orbax's own choice between new and good ones may delete the newest.
    policy: Any = types.SimpleNamespace(should_preserve=preserved)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        create=True,
        # A folder that is deleted file by file would look like a damaged checkpoint to whoever comes after a kill.
        todelete_subdir=_TRASH,
        async_options=ocp.AsyncOptions(post_finalization_callback=lambda: _seal(directory, saving[-1])),
    )
    try:
        manager = ocp.CheckpointManager(directory, options=options)
    except RecursionError as error:
        raise DamagedCheckpoint(
            f"The notes of a checkpoint in {directory} are nested without end: use another directory."
        ) from error
    scores |= {step: score for step in manager.all_steps() if (score := _score(directory / str(step))) is not None}

    def settle() -> None:
        try:
            manager.wait_until_finished()
        except Exception as error:
            raise _unwritten(saving[-1], error) from error
        # Who only reads deletes nothing: another process may be writing here.
        if saving and jax.process_index() == 0:
            shutil.rmtree(directory / _TRASH, ignore_errors=True)

    def save(step: int, state: PyTree, extra: Any = None, score: float | None = None) -> None:
        settle()
        newer = [other for other in manager.all_steps() if other > step and other not in damaged]
        if newer:
            raise ValueError(
                f"The checkpoints in {directory} go up to step {max(newer)}, got step {step} to save: restore first, "
                "or use another directory."
            )
        if score is not None and not math.isfinite(score):
            raise ValueError(f"score expects a finite number, got {score}: leave it out.")
        leaves, described = _leaves.flatten(state, kept)
        # What is read back is what was summed: JSON turns keys of dicts into strings and tuples into lists.
        body = {"step": step, "leaves": described, "extra": extra, "score": score, "versions": _versions()}
        body = json.loads(json.dumps(body))
        manifest = {"body": body, "checksum": _leaves.checksum(_canonical(body))}
        for other in manager.all_steps():
            if other == step or other in damaged:
                manager.delete(other)
                damaged.pop(other, None)
                scores.pop(other, None)
        if not saving and jax.process_index() == 0:
            for left in directory.glob("*.orbax-checkpoint-tmp*"):  # by a save that was killed
                shutil.rmtree(left, ignore_errors=True)
        saving[:] = [step]
        scores.update({} if score is None else {step: score})
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(leaves), manifest=ocp.args.JsonSave(manifest))
        try:
            manager.save(step, args=arguments, force=True)
        except Exception as error:
            raise _unwritten(step, error) from error

    def load(step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        def read(**items: Any) -> Any:
            return manager.restore(step, args=ocp.args.Composite(**items))

        _check_files(directory / str(step))
        manifest = read(manifest=ocp.args.JsonRestore())["manifest"]
        body = manifest["body"]
        if _leaves.checksum(_canonical(body)) != manifest["checksum"]:
            raise DamagedCheckpoint("its manifest does not match its checksum")
        if body["step"] != step:
            raise DamagedCheckpoint(f"it was saved as step {body['step']}")
        described = _leaves.checked(body["leaves"])
        state = read(state=ocp.args.StandardRestore(_leaves.targets(described)))["state"]
        return body["extra"], described, _leaves.verified(state, described)

    def first_whole(steps: list[int], target: PyTree, partial: bool) -> Restored | None:
        damaged.clear()
        for step in steps:
            try:
                extra, described, leaves = load(step)
            except Exception as error:  # whatever a damaged file makes of the reader
                damaged[step] = _line(error)
                continue
            for other, why in damaged.items():
                _log.warning("checkpoint %d in %s is damaged and is passed over: %s", other, directory, why)
            state, unfit = _leaves.unflatten(target, leaves, described, partial)
            return Restored(step, state, extra, dict(damaged), unfit)
        if damaged:
            told = "; ".join(f"step {step}: {why}" for step, why in damaged.items())
            raise DamagedCheckpoint(f"No checkpoint in {directory} is whole ({told}): start in another directory.")
        return None

    def restore(target: PyTree, partial: bool = False) -> Restored | None:
        settle()
        return first_whole(sorted(manager.all_steps(), reverse=True), target, partial)

    def restore_best(target: PyTree, partial: bool = False) -> Restored | None:
        settle()
        by_score = sorted(manager.all_steps(), key=lambda step: (scores.get(step, -math.inf), step), reverse=True)
        return first_whole(by_score, target, partial)

    def close() -> None:
        try:
            settle()
        finally:
            manager.close()

    return Checkpoints(save, restore, restore_best, lambda: sorted(manager.all_steps()), close)


def _best(scores: dict[int, float], steps: list[int]) -> int | None:
    """The step of the highest score, the newest of equals."""
    return max((step for step in steps if step in scores), key=lambda step: (scores[step], step), default=None)


def _score(folder: Path) -> float | None:
    """What a checkpoint says of its score; whether it is whole is seen when it is restored."""
    try:
        score = json.loads((folder / "manifest" / "metadata").read_text())["body"]["score"]
        return score if isinstance(score, float | int) and abs(score) < math.inf else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _seal(directory: Path, step: int) -> None:
    """Write the checksums of the files of a checkpoint, in the moment before Orbax renames its folder for good."""
    if jax.process_index() != 0:
        return
    for folder in directory.glob(f"{step}.orbax-checkpoint-tmp*"):
        # Those beside the folders of the items are Orbax's own notes and change once more.
        files = [file for file in folder.glob("*/**/*") if file.is_file()]
        sums = {file.relative_to(folder).as_posix(): _file_crc(file) for file in files}
        (folder / _SEAL).write_text(json.dumps(sums))


def _check_kinds(folder: Path) -> None:
    """Before anything in it is opened."""
    for path in _found(folder):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:  # the run that writes here has deleted it
            continue
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise DamagedCheckpoint(f"{path} is a link, a pipe or a device: delete it.")


def _found(folder: Path) -> Iterator[Path]:
    yield folder
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files))


def _check_files(folder: Path) -> None:
    """Look at every file before Orbax does, whose readers leave threads and tracebacks behind where one is damaged."""
    _check_kinds(folder)
    if not (folder / _SEAL).is_file():
        return  # the checksums of the leaves remain
    # No name of the seal is opened that is not found here.
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    for name, checksum in json.loads((folder / _SEAL).read_text()).items():
        if name not in files:
            raise DamagedCheckpoint(f"{name if name.isprintable() else ascii(name)} is missing")
        if _file_crc(files[name]) != checksum:
            raise DamagedCheckpoint(f"{name} does not match its checksum")


def _file_crc(file: Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _unwritten(step: int, error: Exception) -> OSError:
    return OSError(f"the checkpoint of step {step} could not be written ({_line(error)})")


def _canonical(body: Any) -> bytes:
    return json.dumps(body, sort_keys=True).encode()


def _line(error: Exception) -> str:
    text = str(error) if isinstance(error, DamagedCheckpoint) else f"{type(error).__name__} {error}"
    return text.splitlines()[0].strip()[:200]


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")}
