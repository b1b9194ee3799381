"""What is fetched is read as data: nothing in it leads out of its folder, fills the memory, or is run."""

import gzip
import io
import shutil
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings

from ctrain_jax import streams
from experiments import _packages, data
from tests.security.wild import EXAMPLES, changed, executed, is_sentence, touched, watched

PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(2 * 28 * 28)
LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 2, 0, 1])


def entry(name, content=b"", link=None):
    found = tarfile.TarInfo(name)
    found.size = len(content)
    if link is not None:
        found.type, found.linkname = tarfile.SYMTYPE, link
    return found, io.BytesIO(content)


def packed(entries):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for one in entries:
            tar.addfile(*one)
    return file.getvalue()


def mnist():
    return [entry(f"package/data/{part}-ubyte", IMAGES if "images" in part else LABELS) for part in PARTS]


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    """What becomes of an archive that a client brought: the sentence, None for a data set."""

    def fetched(content):
        def fetch(folder):
            (folder / "package.tgz").write_bytes(content)
            return folder / "package.tgz"

        sha256 = {"train": data.digest(np.zeros((2, 28, 28)), np.array([0, 1]))}
        dataset = data.DATASETS["mnist"]._replace(fetch=fetch, sha256=sha256 | {"test": sha256["train"]})
        monkeypatch.setitem(data.DATASETS, "mnist", dataset)
        try:
            data.fetched("mnist")
        except ValueError as error:
            assert is_sentence(error) and str(error).startswith("data: ")
            return str(error)
        return None

    return fetched


def test_entries_that_lead_elsewhere_are_not_even_unpacked(fetched, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(LABELS)
    wild = [
        entry(f"{outside}/absolute", b"x"),
        entry(f"{'../' * 20}{outside}/up", b"x"),
        entry("package", link=str(outside)),
    ]
    with watched() as seen:
        assert fetched(packed([*wild, *mnist()])) is None
        link = entry("package/data/t10k-labels-idx1-ubyte", link=str(outside / "file"))
        assert "must hold the file package/data/t10k-labels-idx1-ubyte" in fetched(packed([*mnist()[:3], link]))
    assert touched(seen, outside) == [] and [path.name for path in outside.iterdir()] == ["file"]


@given(content=changed(packed(mnist())))
@settings(EXAMPLES, max_examples=60)
def test_a_changed_archive_is_the_data_set_or_a_sentence(fetched, content):
    sentence = fetched(content)
    assert sentence is None or sentence.startswith("data: ")


def test_an_archive_of_an_endless_file_is_told(fetched, monkeypatch):
    monkeypatch.setattr(_packages, "_MOST_BYTES", 1000)
    assert "package/data/train-images-idx3-ubyte must hold at most 1,000 bytes" in fetched(packed(mnist()))


def test_a_package_of_debian_holds_its_files_itself(tmp_path, monkeypatch):
    folder = tmp_path / "unpacked/usr/share/datasets/fashion-mnist"
    folder.mkdir(parents=True)
    for part in PARTS:
        (folder / f"{part}-ubyte.gz").write_bytes(gzip.compress(IMAGES if "images" in part else LABELS))
    assert data.read_fashion_mnist(tmp_path / "unpacked")["test"][1].tolist() == [0, 1]
    file = folder / "train-images-idx3-ubyte.gz"
    with monkeypatch.context() as patch:
        patch.setattr(_packages, "_MOST_BYTES", 1000)
        with pytest.raises(ValueError, match=r"data: train-images-idx3-ubyte.gz must hold at most 1,000 bytes"):
            data.read_fashion_mnist(tmp_path / "unpacked")
    file.rename(tmp_path / "outside.gz")
    file.symlink_to(tmp_path / "outside.gz")
    with (
        watched() as seen,
        pytest.raises(ValueError, match="must hold train-images-idx3-ubyte.gz itself, got a link out"),
    ):
        data.read_fashion_mnist(tmp_path / "unpacked")
    assert str(tmp_path / "outside.gz") not in [told for _, told in seen]


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg is of Debian")
@pytest.mark.parametrize(
    "entries",
    [
        [entry("./../escaped", b"x")],
        [entry("./usr", link="../outside"), entry("./usr/escaped", b"x")],
        [entry("/escaped", b"x")],
    ],
)
def test_a_package_of_debian_is_unpacked_into_its_folder(tmp_path, entries):
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": packed([entry("./control", b"Package: x\nVersion: 1\nArchitecture: all\n")]),
        "data.tar.gz": packed(entries),
    }
    content = b"!<arch>\n"
    for name, part in parts.items():
        content += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n".encode() + part + b"\n" * (len(part) % 2)
        )
    (tmp_path / "outside").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.deb").write_bytes(content)
    try:
        _packages.run_client(["dpkg", "-x", "x.deb", "unpacked"], tmp_path / "in")
    except RuntimeError as error:
        assert "failed with code 2" in str(error)
    found = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("escaped")]
    assert found in ([], ["in/unpacked/escaped"])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set as tensorflow-datasets prepares it."""
    home = tmp_path_factory.mktemp("prepared")
    splits = {split: (np.zeros((2, 4, 4), np.uint8), np.arange(2, dtype=np.uint8)) for split in ("train", "test")}
    data.write_builder("shapes", splits, home, version="1.0.0")
    return home


IMAGE = "tensorflow_datasets.core.features.image_feature.Image"


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("features.json", IMAGE, "antigravity.Image"),
        ("features.json", f'"pythonClassName": "{IMAGE}"', '"python_class_name": "antigravity.Image"'),
        ("dataset_info.json", "{DATASET}-{SPLIT}", "../{DATASET}-{SPLIT}"),
        ("dataset_info.json", '"name": "train"', '"name": "../train"'),
        ("dataset_info.json", '"name": "shapes"', '"name": "/shapes"'),
        ("dataset_info.json", "{", "[" * 100_000),
        ("features.json", "{", "5"),
    ],
)
def test_a_prepared_data_set_names_no_code_and_no_other_folder(prepared, tmp_path, file, old, new):
    """tensorflow-datasets imports the module of a feature that it does not know."""
    shutil.copytree(prepared, tmp_path / "data")
    assert streams.tfds("shapes", tmp_path / "data").num_classes == 2
    path = tmp_path / "data" / "shapes" / "1.0.0" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with watched() as seen, pytest.raises(ValueError, match="^tfds: .*; prepare it again") as error:
        streams.tfds("shapes", tmp_path / "data")
    assert is_sentence(error.value) and executed(seen) == []
