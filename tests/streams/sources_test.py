"""Sources: what is refused, and what the embedded data are."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from ctrain_jax import streams

X, Y = np.zeros((4, 3), np.float32), np.array([0, 1, 2, 1])


def _digest(part):
    sha = hashlib.sha256(part["inputs"].tobytes())
    sha.update(part["labels"].astype(np.uint8).tobytes())
    return sha.hexdigest()


@pytest.mark.parametrize(
    ("given", "kept"),
    [("uint8", "uint8"), ("int8", "int32"), ("int64", "int32"), ("float16", "float32"), ("float64", "float32")],
)
def test_arrays_brings_inputs_to_the_dtypes_of_the_library(given, kept):
    inputs = np.arange(12).reshape(4, 3).astype(given)
    source = streams.arrays(inputs, Y, inputs[:2], Y[:2])
    assert source.train["inputs"].dtype == kept
    np.testing.assert_array_equal(source.train["inputs"], np.arange(12).reshape(4, 3))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "uint16"])
def test_arrays_counts_classes_over_both_splits(dtype):
    source = streams.arrays(X, Y.astype(dtype), X[:2], np.array([0, 5], dtype))
    assert source.train["labels"].dtype == np.int32
    assert source.num_classes == 6
    assert streams.arrays(X, Y, X, Y, num_classes=9).num_classes == 9


def test_arrays_takes_float_labels_as_a_regression():
    for labels, width in ((Y.astype(np.float64), 1), (np.ones((4, 7)), 7)):
        source = streams.arrays(X, labels, X, labels)
        assert source.num_classes == width
        assert source.train["labels"].dtype == np.float32
        assert source.train["labels"].shape == labels.shape


def test_arrays_keeps_mean_and_std_of_each_channel():
    images = np.zeros((4, 2, 2, 3), np.uint8)
    source = streams.arrays(images, Y, images, Y, mean=[0.1, 0.2, 0.3], std=0.5)
    assert source.mean.dtype == source.std.dtype == np.float32
    np.testing.assert_allclose(source.mean, [0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "says"),
    [
        ((X, Y[:3], X, Y), {}, ValueError, "4 and 3 rows"),
        ((X, Y, X, Y[:3]), {}, ValueError, "test_inputs and test_labels"),
        ((X[:0], Y[:0], X, Y), {}, ValueError, "train_inputs must hold at least one row"),
        ((X, Y, X, Y[:0]), {}, ValueError, "test_labels must hold at least one row"),
        ((X, Y, X[:, :2], Y), {}, ValueError, "train_inputs and test_inputs must agree"),
        ((X, Y, X.astype(np.uint8), Y), {}, ValueError, "float32 .* and uint8"),
        ((X, Y, X, Y.astype(float)), {}, ValueError, "train_labels and test_labels must agree"),
        ((X * np.nan, Y, X, Y), {}, ValueError, "train_inputs must be finite.* 4 of 4 rows"),
        ((X, Y, X + np.inf, Y), {}, ValueError, "test_inputs must be finite"),
        ((X, np.array([0, 1, np.nan, 1]), X, Y / 1.0), {}, ValueError, "train_labels must be finite.* 1 of 4"),
        ((X + np.float64(1e300), Y, X, Y), {}, ValueError, "finite in float32"),
        ((X, Y - 1, X, Y), {}, ValueError, "got values from -1 to 2"),
        ((X, Y, X, Y), {"num_classes": 2}, ValueError, r"\[0, 2\), got values from 0 to 2"),
        ((X, Y + 2**40, X, Y), {}, ValueError, "must fit into int32"),
        ((X, Y[:, None], X, Y[:, None]), {}, ValueError, "integer labels must have shape"),
        ((X, np.ones((4, 2, 2)), X, np.ones((4, 2, 2))), {}, ValueError, "float labels must have shape"),
        ((X, Y / 1.0, X, Y / 1.0), {"num_classes": 3}, ValueError, "width of the target, 1, got 3"),
        ((X.astype(str), Y, X, Y), {}, TypeError, "train_inputs must be uint8 or int32 or float32"),
        ((X, Y > 1, X, Y), {}, TypeError, "train_labels must be int32 or float32, got dtype bool"),
        ((X, Y, X, Y), {"mean": [0.0, 1.0]}, ValueError, "mean must be finite and broadcast"),
        ((X, Y, X, Y), {"mean": np.zeros((4, 3))}, ValueError, "mean must be finite and broadcast"),
        ((X, Y, X, Y), {"std": 0.0}, ValueError, "std must be finite and positive"),
    ],
)
def test_arrays_refuses_in_one_sentence(arguments, options, error, says):
    with pytest.raises(error, match=says) as caught:
        streams.arrays(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("arrays: ")


def test_fashion_mnist_is_the_subset_that_was_embedded():
    source = streams.fashion_mnist()
    assert _digest(source.train) == "3e577431b5e67123ed79849799cb42ac18d3df918e67f4d0de2c00176fc494c1"
    assert _digest(source.test) == "313b6f76daf53f1d0046e8faaaaa727c430d840b4e5323e002dd934e965e461d"


def test_fashion_mnist_is_balanced_in_every_prefix():
    source = streams.fashion_mnist()
    for part, count in ((source.train, 1000), (source.test, 200)):
        assert part["inputs"].shape == (10 * count, 28, 28)
        assert part["inputs"].dtype == np.uint8
        assert part["labels"].dtype == np.int32
        for n in (1, 7, count):
            assert np.bincount(part["labels"][: 10 * n]).tolist() == [n] * 10


def test_fashion_mnist_has_the_images_beside_their_labels():
    # A nearest class mean reaches 0.67 here and 0.68 on all 70,000; with wrong labels it would be 0.1.
    source = streams.fashion_mnist()
    x, y = source.train["inputs"].reshape(10000, -1).astype(np.float32), source.train["labels"]
    means = np.stack([x[y == c].mean(axis=0) for c in range(10)])
    test = source.test["inputs"].reshape(2000, -1).astype(np.float32)
    nearest = np.argmin((means**2).sum(axis=1) - 2 * test @ means.T, axis=1)
    assert (nearest == source.test["labels"]).mean() > 0.6


def test_digits_splits_the_scaled_images_of_scikit_learn():
    from sklearn.datasets import load_digits

    raw = load_digits()
    source = streams.digits()
    assert np.bincount(source.test["labels"]).tolist() == [36] * 10
    assert len(source.train["labels"]) + 360 == len(raw.target) == 1797
    x = np.concatenate([source.train["inputs"], source.test["inputs"]])
    y = np.concatenate([source.train["labels"], source.test["labels"]])
    for label in range(10):  # both keep the file order within a class, and the test rows are its last
        np.testing.assert_allclose(x[y == label] / 255, raw.images[raw.target == label] / 16, atol=0.5 / 255 + 1e-9)


def test_import_loads_no_data_library():
    code = (
        "import sys, ctrain_jax.streams; "
        "print([m for m in ('PIL', 'sklearn', 'tensorflow_datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
