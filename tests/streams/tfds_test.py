"""Reading prepared data sets, on builders that are written here."""

import socket

import numpy as np
import pytest
import tensorflow_datasets

from ctrain_jax import streams
from experiments import data

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (13, 28, 28), np.uint8)
COLOUR = RNG.integers(0, 256, (13, 8, 6, 3), np.uint8)
LABELS = (np.arange(13) % 4).astype(np.uint8)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(tensorflow_datasets.core.download.DownloadManager, "download", refuse)


def _splits(images):
    return {"train": (images[:9], LABELS[:9]), "test": (images[9:], LABELS[9:])}


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_a_builder_is_read_back_equal(tmp_path, images):
    final = data.write_builder("shapes", _splits(images), tmp_path, version="1.0.0")
    assert final == tmp_path / "shapes" / "1.0.0"
    source = streams.tfds("shapes", tmp_path, mean=0.5, std=0.25)
    assert source.name == "shapes"
    assert source.num_classes == 4
    assert source.mean == 0.5 and source.std == 0.25
    np.testing.assert_array_equal(source.train["inputs"], images[:9], strict=True)
    np.testing.assert_array_equal(source.test["inputs"], images[9:], strict=True)
    np.testing.assert_array_equal(source.train["labels"], LABELS[:9].astype(np.int32), strict=True)
    np.testing.assert_array_equal(source.test["labels"], LABELS[9:].astype(np.int32), strict=True)


def test_splits_are_in_the_language_of_tfds(tmp_path):
    data.write_builder("shapes", _splits(GREY), tmp_path, version="1.0.0")
    source = streams.tfds("shapes", tmp_path, train_split="train[:5]", test_split="train[5:]")
    np.testing.assert_array_equal(source.train["inputs"], GREY[:5])
    np.testing.assert_array_equal(source.test["inputs"], GREY[5:9])


def test_more_than_one_block_of_records_keeps_its_order(tmp_path, monkeypatch):
    monkeypatch.setattr("ctrain_jax.streams._tfds._BLOCK", 4)
    data.write_builder("shapes", _splits(GREY), tmp_path, version="1.0.0")
    np.testing.assert_array_equal(streams.tfds("shapes", tmp_path).train["inputs"], GREY[:9])


def test_the_newest_version_is_read_unless_one_is_named(tmp_path):
    for version, images in (("9.0.0", GREY), ("10.0.0", 255 - GREY)):
        data.write_builder("shapes", _splits(images), tmp_path, version=version)
    np.testing.assert_array_equal(streams.tfds("shapes", tmp_path).train["inputs"], 255 - GREY[:9])
    np.testing.assert_array_equal(streams.tfds("shapes:9.0.0", tmp_path).train["inputs"], GREY[:9])


def test_the_same_builder_is_found_by_tensorflow_datasets_itself(tmp_path):
    dataset = data.DATASETS["cifar10"]
    images = RNG.integers(0, 256, (13, *dataset.shape), np.uint8)
    data.write_builder("cifar10", _splits(images), tmp_path, version=dataset.version, ids=dataset.ids)
    rows = tensorflow_datasets.data_source("cifar10", data_dir=tmp_path, split="test", download=False)
    np.testing.assert_array_equal([row["image"] for row in rows], images[9:])
    assert rows[1]["id"] == b"test_00001"
    np.testing.assert_array_equal(streams.tfds("cifar10", tmp_path).test["inputs"], images[9:])


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_a_missing_data_set_names_the_command_at_once(tmp_path, name, monkeypatch):
    says = f"`python -m experiments.data --name={name} --data_dir={tmp_path}`"
    with pytest.raises(FileNotFoundError) as caught:
        streams.tfds(name, tmp_path)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        streams.tfds(name)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["cifar100", "mnist:1.0.0", "imagenet_v2/matched-frequency"])
def test_a_missing_data_set_that_we_do_not_fetch_names_the_command_of_tfds(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="download_and_prepare") as caught:
        streams.tfds(name, tmp_path)
    assert f"t.builder('{name}', data_dir='{tmp_path}'" in str(caught.value)


def test_a_data_set_half_written_counts_as_missing(tmp_path):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="not prepared"):
        streams.tfds("mnist", tmp_path)


def _write(tmp_path, features, rows):
    class Odd(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tensorflow_datasets.core.Version("1.0.0")

        def _info(self):
            spec = tensorflow_datasets.features.FeaturesDict(features)
            return tensorflow_datasets.core.DatasetInfo(builder=self, features=spec)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(), "test": self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate(rows)

    Odd(data_dir=tmp_path, file_format="array_record").download_and_prepare()


def test_refuses_what_is_no_image_classification(tmp_path):
    _write(tmp_path, {"x": tensorflow_datasets.features.Scalar(np.int32)}, [{"x": 1}])
    with pytest.raises(ValueError, match=r"must have the features image and label .* got \['x'\]"):
        streams.tfds("odd", tmp_path)


def test_refuses_images_of_several_sizes(tmp_path):
    features = {
        "image": tensorflow_datasets.features.Image(shape=(None, None, 1)),
        "label": tensorflow_datasets.features.ClassLabel(num_classes=2),
    }
    _write(tmp_path, features, [{"image": data._png(GREY[0, :n, :n]), "label": 0} for n in (5, 6)])
    with pytest.raises(ValueError, match="must be of one size, got 2 sizes"):
        streams.tfds("odd", tmp_path)


def test_refuses_tfrecord(tmp_path):
    final = data.write_builder("shapes", _splits(GREY), tmp_path, version="1.0.0")
    info = final / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="must be stored as array_record .* got tfrecord"):
        streams.tfds("shapes", tmp_path)
