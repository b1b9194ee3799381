"""Whether a data set on this machine is what it should be: read by our own reader, and held against known checksums."""

import hashlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ctrain_jax import core, streams

LEAST_BYTES = 100_000  # of the book in one language: the shortest has several times as many


class Check(NamedTuple):
    """One line: what was found, what it should be, and whether it is."""

    name: str
    value: str
    bound: str
    holds: bool
    text: str

    def line(self) -> str:
        """`name value bound PASS|FAIL`, and what was looked at."""
        return f"{self.name} {self.value} {self.bound} {'PASS' if self.holds else 'FAIL'}  {self.text}"


class Carried(NamedTuple):
    """A data set that comes with the library or with a package that it needs; nothing is fetched."""

    source: Callable[[], core.Source]
    shape: tuple[int, ...]
    sha256: Mapping[str, str]  # of `digest`
    where: str


CARRIED = {
    "fashion_mnist_embedded": Carried(
        source=streams.fashion_mnist,
        shape=(28, 28),
        sha256={
            "train": "3e577431b5e67123ed79849799cb42ac18d3df918e67f4d0de2c00176fc494c1",
            "test": "313b6f76daf53f1d0046e8faaaaa727c430d840b4e5323e002dd934e965e461d",
        },
        where="streams.fashion_mnist() reads it from the library",
    ),
    "digits": Carried(
        source=streams.digits,
        shape=(8, 8),
        sha256={
            "train": "2db06d5eafde706434a1b9e9120130237332d65791e814ba41bfabe8c090c590",
            "test": "eaf4f18d4954ed06dd6eef9f57ed9ab61cf0cba3d9e57ed7ae128bdbadd49953",
        },
        where="streams.digits() reads it from scikit-learn",
    ),
}


def digest(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of the bytes of the images and then of the labels, both uint8 in row order."""
    sha = hashlib.sha256(np.ascontiguousarray(images, np.uint8).tobytes())
    sha.update(np.ascontiguousarray(labels, np.uint8).tobytes())
    return sha.hexdigest()


def prepared(
    name: str,
    version: str,
    shape: Sequence[int],
    num_classes: int,
    sha256: Mapping[str, str],
    data_dir: pathlib.Path,
) -> Iterator[Check]:
    """A check for each split of a data set that was prepared for tensorflow-datasets, read through `streams.tfds`.

    Raises:
        FileNotFoundError: it is not there.
    """
    _check_there(name, data_dir, data_dir / name / version / "dataset_info.json")
    wanted = tuple(n for n in shape if n != 1)
    for split, expected in sha256.items():

        def read(split: str = split) -> core.Source:
            # Of the other split one row is read as well: a damaged one is a line of its own.
            return streams.tfds(f"{name}:{version}", data_dir, train_split=split, test_split=f"{split}[:1]")

        yield _of_split(f"{name}/{split}", read, "train", wanted, num_classes, expected)


def carried(name: str) -> Iterator[Check]:
    """A check for each split of one of `CARRIED`."""
    known = CARRIED[name]
    for split, expected in known.sha256.items():
        yield _of_split(f"{name}/{split}", known.source, split, known.shape, 10, expected)


def book(data_dir: pathlib.Path, languages: Sequence[str]) -> Iterator[Check]:
    """A check for each language of the Debian Reference: whether it is text of the length of a book.

    Its text is another one in each release of Debian, whose client checks the signature when it fetches, so no checksum
    is known here; the one that is told is for comparing two machines.

    Raises:
        FileNotFoundError: the book is not there.
    """
    folder = data_dir / "debian_reference"
    _check_there("debian_reference", data_dir, folder)
    for language in languages:
        name, bound = f"debian_reference/{language}", f">={LEAST_BYTES}"
        try:
            content = (folder / f"{language}.txt").read_bytes()
            content.decode()
        except (OSError, UnicodeDecodeError) as error:
            yield Check(name, "unreadable", bound, False, f"could not be read as text ({_short(error)})")
            continue
        sha = hashlib.sha256(content).hexdigest()
        said = f"bytes of UTF-8; no checksum is known of a release's text, this one has SHA-256 {sha[:16]}"
        yield Check(name, str(len(content)), bound, len(content) >= LEAST_BYTES, said)


def _check_there(name: str, data_dir: pathlib.Path, path: pathlib.Path) -> None:
    if not path.exists():
        raise FileNotFoundError(
            f"data: {name} is not prepared under {data_dir}; run `python -m experiments.data --name={name} "
            f"--data_dir={data_dir}` in a checkout."
        )


def _of_split(
    name: str,
    read: Callable[[], core.Source],
    split: str,
    shape: Sequence[int],
    num_classes: int,
    expected: str,
) -> Check:
    bound = expected[:16]
    try:
        source = read()
    except Exception as error:  # whatever a damaged file makes of its reader
        return Check(name, "unreadable", bound, False, f"could not be read ({_short(error)})")
    part = getattr(source, split)
    images, labels = part["inputs"], part["labels"]
    sha, kind = digest(images, labels), (images.shape[1:], images.dtype.name, source.num_classes)
    holds = (sha, kind) == (expected, (tuple(shape), "uint8", num_classes))
    said = f"{len(labels):,} images {_sides(images.shape[1:])}, {source.num_classes} classes, {_balance(labels)}"
    if kind != (tuple(shape), "uint8", num_classes):
        said += f", of {kind[1]}; expected {_sides(shape)}, {num_classes} classes, of uint8"
    return Check(name, sha[:16], bound, holds, f"{said}; SHA-256 of pixels and labels")


def _balance(labels: np.ndarray) -> str:
    counts = np.bincount(labels)
    low, high = counts.min(), counts.max()
    return f"{low:,} rows each" if low == high else f"{low:,} to {high:,} rows each"


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _short(error: BaseException) -> str:
    line = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return line if len(line) <= 200 else f"{line[:200]} ..."
