"""What is done to the folder of a run between two lives, and what is left there that a run can go on from."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from experiments._soak import _life


def flip(folder: Path, rng: random.Random) -> str:
    """One bit of a file."""
    file = _some_file(folder, rng)
    content = bytearray(file.read_bytes())
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    content[place] ^= 1 << bit
    file.write_bytes(content)
    return f"bit {bit} of byte {place} of {file.relative_to(folder)}"


def truncate(folder: Path, rng: random.Random) -> str:
    """A file loses its end."""
    file = _some_file(folder, rng)
    size = rng.randrange(file.stat().st_size)
    os.truncate(file, size)
    return f"{file.relative_to(folder)} after {size} bytes"


def delete(folder: Path, rng: random.Random) -> str:
    """A file is gone."""
    file = _some_file(folder, rng)
    file.unlink()
    return f"{file.relative_to(folder)}"


def half(folder: Path, rng: random.Random) -> str:
    """Some files of a checkpoint in a folder like that of the next one, while it is being written."""
    other = folder.with_name(f"{int(folder.name) + 1}{_life.TMP}")
    if not other.exists():
        shutil.copytree(folder, other)
        for file in _files(other):
            if rng.random() < 0.5:
                file.unlink()
    return other.name


KINDS: dict[str, Callable[[Path, random.Random], str]] = {
    "flip": flip,
    "truncate": truncate,
    "delete": delete,
    "tmp": half,
}


def checkpoints(run: Path) -> dict[int, int]:
    """{step: what tells its folder from a later one of the same step}, of finalised checkpoints, oldest first."""
    folder = run / "checkpoints"
    paths = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return {int(path.name): path.stat().st_mtime_ns for path in sorted(paths, key=lambda path: int(path.name))}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _some_file(folder: Path, rng: random.Random) -> Path:
    return rng.choice([file for file in _files(folder) if file.stat().st_size])
