"""Sources: data sets at rest, as plain arrays that were checked once.

`arrays` takes what a user has; `fashion_mnist` and `digits` need no step after the install. Fashion-MNIST: Xiao, Rasul
and Vollgraf, 2017, arXiv:1708.07747 (MIT licence, the notice lies beside the file). Digits: the test part of the UCI
"Optical Recognition of Handwritten Digits" data (Alpaydin and Kaynak, 1998), as scikit-learn ships it.
"""

import importlib.resources
from typing import Any

import numpy as np

from ctrain_jax.core._base import Source

_FASHION_CLASSES, _FASHION_TRAIN, _FASHION_TEST = 10, 1000, 200  # images a class in each split
_GRID_COLUMNS = 100  # 28 x 28 images side by side in the embedded file
_DIGITS_TEST = 36  # images a class: 360 of 1,797


def arrays(
    train_inputs: Any,
    train_labels: Any,
    test_inputs: Any,
    test_labels: Any,
    *,
    name: str = "arrays",
    num_classes: int | None = None,
    mean: Any = None,
    std: Any = None,
) -> Source:
    """A source of arrays in memory, checked and brought to the dtypes of the library.

    Integer labels make a classification problem, float labels a regression. uint8 inputs stay (they are divided by 255
    when a batch is fetched, so give tokens as int32); other integers become int32, floats float32.

    Args:
        train_inputs: `[N, ...]`, uint8 images, integers or floats.
        train_labels: integers `[N]` in `[0, num_classes)`, or float targets `[N]` or `[N, k]`.
        test_inputs: `[M, ...]`, of the shape and dtype of the training inputs.
        test_labels: `[M]` or `[M, k]`, of the kind of the training labels.
        name: the name of the source, used in the names of streams.
        num_classes: the number of classes, the largest label plus one by default; for a regression the number of
            targets `k` (1 for labels `[N]`), and there is nothing to choose.
        mean: subtracted from an input after its scaling to `[0, 1]`; broadcasts against one input.
        std: divides after that; positive; broadcasts against one input.

    Returns:
        A `Source` of numpy arrays.

    Raises:
        ValueError: empty arrays, lengths or shapes that do not agree, NaN or infinite values, labels out of range.
        TypeError: a dtype that is neither integer nor float.

    Example:
        >>> source = arrays([[0.0], [1.0]], [0, 1], [[0.5]], [1])
        >>> source.train["inputs"].dtype.name, source.train["labels"].dtype.name, source.num_classes
        ('float32', 'int32', 2)
    """
    train = {
        "inputs": _numbers("train_inputs", train_inputs),
        "labels": _numbers("train_labels", train_labels, "int32"),
    }
    test = {"inputs": _numbers("test_inputs", test_inputs), "labels": _numbers("test_labels", test_labels, "int32")}
    for field in ("inputs", "labels"):
        ours, theirs = train[field], test[field]
        if ours.dtype != theirs.dtype or ours.shape[1:] != theirs.shape[1:]:
            raise ValueError(
                f"arrays: train_{field} and test_{field} must agree in dtype and in shape after the first axis, got "
                f"{ours.dtype} {ours.shape} and {theirs.dtype} {theirs.shape}; convert one of them."
            )
    for split, part in (("train", train), ("test", test)):
        if len(part["inputs"]) != len(part["labels"]):
            raise ValueError(
                f"arrays: {split}_inputs and {split}_labels must have one row for each other, got "
                f"{len(part['inputs'])} and {len(part['labels'])} rows; drop the rows that have no partner."
            )
    return Source(
        name=name,
        train=train,
        test=test,
        num_classes=_num_classes(train["labels"], test["labels"], num_classes),
        mean=None if mean is None else _moment("mean", mean, train["inputs"].shape[1:]),
        std=None if std is None else _moment("std", std, train["inputs"].shape[1:]),
    )


def fashion_mnist() -> Source:
    """A tenth of Fashion-MNIST, embedded: 10,000 training and 2,000 test images, 28 x 28 grey, ten balanced classes.

    The first 1,000 (200) images of each class, in the order of the original files; classes alternate, so that every
    prefix of a multiple of ten rows is balanced. For all 70,000 images see `tfds`.

    Returns:
        A `Source` with uint8 inputs `[N, 28, 28]` and int32 labels: 0 t-shirt, 1 trouser, 2 pullover, 3 dress, 4 coat,
        5 sandal, 6 shirt, 7 sneaker, 8 bag, 9 ankle boot.

    Example:
        >>> source = fashion_mnist()
        >>> source.train["inputs"].shape, source.test["inputs"].shape, source.train["labels"][:12].tolist()
        ((10000, 28, 28), (2000, 28, 28), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1])

    References:
        Xiao, Rasul and Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms,
        2017, arXiv:1708.07747.
    """
    from PIL import Image

    file = importlib.resources.files("ctrain_jax.streams").joinpath("data", "fashion_mnist.png")
    with file.open("rb") as stream, Image.open(stream) as image:
        grid = np.asarray(image)
    images = grid.reshape(-1, 28, _GRID_COLUMNS, 28).swapaxes(1, 2).reshape(-1, 28, 28)
    splits = np.split(images, [_FASHION_CLASSES * _FASHION_TRAIN])
    parts = []
    for split, count in zip(splits, (_FASHION_TRAIN, _FASHION_TEST), strict=True):
        inputs = split.reshape(_FASHION_CLASSES, count, 28, 28).swapaxes(0, 1).reshape(-1, 28, 28)
        labels = np.tile(np.arange(_FASHION_CLASSES, dtype=np.int32), count)
        parts += [inputs, labels]
    return arrays(*parts, name="fashion_mnist", num_classes=_FASHION_CLASSES)


def digits() -> Source:
    """Scikit-learn's digits, embedded in its wheel: 1,437 training and 360 test images, 8 x 8 grey, ten classes.

    The last 36 images of each class are the test split: the writers of the end of the file. Grey levels 0..16 become
    `round(255 x / 16)`, so that dividing by 255 gives `x / 16` to within 0.002.

    Returns:
        A `Source` with uint8 inputs `[N, 8, 8]` and int32 labels.

    Raises:
        ImportError: scikit-learn is not installed.

    Example:
        >>> source = digits()
        >>> source.train["inputs"].shape, source.test["inputs"].shape, int(source.train["inputs"].max())
        ((1437, 8, 8), (360, 8, 8), 255)

    References:
        Alpaydin and Kaynak, Optical recognition of handwritten digits, UCI machine learning repository, 1998.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "digits: the images come with scikit-learn, which is not installed; `pip install scikit-learn`."
        ) from error
    raw: Any = load_digits()
    images = np.round(raw.images * (255 / 16)).astype(np.uint8)
    is_test = np.zeros(len(images), bool)
    for label in range(10):
        is_test[np.flatnonzero(raw.target == label)[-_DIGITS_TEST:]] = True
    return arrays(
        images[~is_test], raw.target[~is_test], images[is_test], raw.target[is_test], name="digits", num_classes=10
    )


def _numbers(field: str, values: Any, integer: str = "uint8 or int32") -> np.ndarray:
    """The values as uint8 (inputs only), int32 or float32, finite and at least one row of them."""
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"arrays: {field} must be {integer} or float32, got dtype {array.dtype}; convert it first.")
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"arrays: {field} must hold at least one row, got shape {array.shape}; pass [N, ...].")
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise ValueError(
                f"arrays: {field} must be finite in float32, got NaN or infinite values in "
                f"{(~np.isfinite(array)).reshape(len(array), -1).any(axis=1).sum()} of {len(array)} rows; clean them."
            )
        return array
    if array.dtype == np.uint8 and integer != "int32":
        return array
    limits = np.iinfo(np.int32)
    if array.min() < limits.min or array.max() > limits.max:
        raise ValueError(
            f"arrays: {field} must fit into int32, got values from {array.min()} to {array.max()}; map them to smaller "
            "numbers."
        )
    return array.astype(np.int32, copy=False)


def _num_classes(train: np.ndarray, test: np.ndarray, num_classes: int | None) -> int:
    """The width of the head that these labels need, or the one that was asked for if they fit."""
    if train.dtype.kind == "f":
        if train.ndim > 2:
            raise ValueError(f"arrays: float labels must have shape [N] or [N, k], got {train.shape}; flatten them.")
        width = 1 if train.ndim == 1 else train.shape[1]
        if num_classes not in (None, width):
            raise ValueError(
                f"arrays: num_classes of float labels is the width of the target, {width}, got {num_classes}; leave it "
                "out, or give integer labels."
            )
        return width
    if train.ndim != 1:
        raise ValueError(f"arrays: integer labels must have shape [N], got {train.shape}; pass class numbers.")
    lowest, highest = int(min(train.min(), test.min())), int(max(train.max(), test.max()))
    num_classes = highest + 1 if num_classes is None else num_classes
    if lowest < 0 or highest >= num_classes:
        raise ValueError(
            f"arrays: labels must lie in [0, num_classes) = [0, {num_classes}), got values from {lowest} to {highest}; "
            "renumber the classes from 0 or raise num_classes."
        )
    return num_classes


def _moment(field: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """`mean` or `std` as float32 that broadcasts against one input."""
    array = np.asarray(values, np.float32)
    try:
        fits = np.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits or not np.isfinite(array).all() or (field == "std" and not (array > 0).all()):
        raise ValueError(
            f"arrays: {field} must be finite{' and positive' if field == 'std' else ''} and broadcast against an input "
            f"of shape {shape}, got {array.tolist()}; pass one number, or one for each channel."
        )
    return array
