"""The folder of a run: whose it is, what it holds, and one sentence for a disk that refuses."""

import contextlib
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

from experiments import _build, _cli, _progress, _results


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Hold a folder alone; the system gives it back when the process ends, however it ends.

    Raises:
      ConfigError: another process holds it.
    """
    with (workdir / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise _build.ConfigError(
                f"{workdir} is in use by {holder}: wait for it, or use another --workdir."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


@contextlib.contextmanager
def on_disk(workdir: Path) -> Iterator[None]:
    """What the disk refuses meanwhile ends the run with a sentence.

    Raises:
      Fault: of the code `DISK`.
    """
    try:
        yield
    except OSError as error:
        raise _cli.Fault(
            _cli.DISK,
            f"{workdir}: {' '.join(str(error).split())}; every checkpoint before is whole: see to the disk, then the "
            "same command goes on from the newest one.",
        ) from error


def is_claimed(workdir: Path, claim: dict[str, Any]) -> bool:
    """Whether a run of this config began in the folder.

    Raises:
      ConfigError: one of another config did.
    """
    path = workdir / "config.json"
    if not path.exists():
        return False
    try:
        before = json.loads(path.read_text())
        there, here = (_flat({key: run[key] for key in ("config", "seeds")}) for run in (before, claim))
        old, new = dict(before.get("versions", {})), claim["versions"]
    except (ValueError, TypeError, KeyError, OSError, RecursionError) as error:
        raise _build.ConfigError(f"{path} cannot be read ({error}): use another --workdir.") from error
    differ = [
        f"{key} {there.get(key)!r} -> {here.get(key)!r}"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
    ]
    if differ:
        raise _build.ConfigError(
            f"{workdir} holds a run of another config ({', '.join(differ)}): use another --workdir, or the same config."
        )
    changed = [f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]]
    if changed and not finished(workdir):
        logging.warning(
            "%s began with other versions (%s): its bits may differ from here on", workdir, ", ".join(changed)
        )
    return True


def claim_hash(claim: dict[str, Any]) -> str:
    """Of the config and the seeds of a run; each of its checkpoints carries it."""
    canonical = json.dumps([claim["config"], claim["seeds"]], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def finished(workdir: Path) -> dict[str, Any] | None:
    """The result of a run that came to its end."""
    try:
        result = json.loads((workdir / "result.json").read_text())
        whole = result["finished"] and not _results.unlike_a_result(result) and {"name", "steps", "metric"} <= {*result}
        return result if whole else None
    except (ValueError, TypeError, KeyError, OSError, RecursionError):
        return None  # it is made again from the checkpoint


def write(path: Path, content: Any) -> None:
    """JSON, in one piece."""
    _progress.write_whole(path, json.dumps(content, indent=1))


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {k: v for key, sub in tree.items() for k, v in _flat(sub, f"{path}.{key}" if path else key).items()}
