"""Image classification data sets of `tensorflow-datasets`, read from disk without TensorFlow and without the network.

Only prepared data sets are read. `tfds.data_source` itself answers a missing one with minutes of attempts to reach the
internet; here the folder is looked at first. Preparing is `python -m experiments.data`, or tfds itself.
"""

import io
import json
import os
import pathlib
import re
from typing import Any

import numpy as np

from ctrain_jax.core._base import Source
from ctrain_jax.ops import check_non_negative, check_positive
from ctrain_jax.streams._sources import arrays

_FETCHED = ("mnist", "fashion_mnist", "cifar10")  # what experiments.data can prepare
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels: pillow's mode
_BLOCK = 1000  # records read at once
_NAME = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)?(:[\w.*]+)?")
_FEATURES = re.compile(r"tensorflow_datasets\.core\.features\.\w+\.\w+")


def tfds(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    train_split: str = "train",
    test_split: str = "test",
    size: int | None = None,
    pad: int = 0,
    resident: bool = True,
    mean: Any = None,
    std: Any = None,
) -> Source:
    """A prepared `image`/`label` data set of tensorflow-datasets, in memory or read from the disk batch by batch.

    Args:
        name: `"mnist"`, or `"name/config"`, or `"name:version"`; the newest prepared version by default.
        data_dir: where data sets are prepared; the environment variable `TFDS_DATA_DIR`, else
            `~/tensorflow_datasets`, by default.
        train_split: what to train on, in the language of tfds (`"train[:80%]"`).
        test_split: what to test on.
        size: images are brought to this height and width: the shorter side by bilinear interpolation, and then the
            middle; None takes images that are of one size.
        pad: pixels of zeros that are added on each side of an image (2 makes the 28 x 28 of MNIST 32 x 32).
        resident: False leaves images on the disk: a step reads and decodes the rows of its batch (see `on_host`).
        mean: see `arrays`.
        std: see `arrays`.

    Returns:
        A `Source` with uint8 inputs `[N, H, W]` (grey) or `[N, H, W, c]` and int32 labels.

    Raises:
        FileNotFoundError: the data set is not prepared under `data_dir`.
        ValueError: a `size` or `pad` that is none; a `name` of another form, which could lead out of `data_dir`; not an
            image classification data set, images of several sizes without a `size`, or stored as TFRecord; features
            that are no part of tensorflow-datasets.

    Example:
        >>> tfds("mnist", "nowhere")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        FileNotFoundError: tfds: 'mnist' is not prepared under nowhere; run `python -m experiments.data ...
    """
    check_non_negative("pad", pad)
    if size is not None:
        check_positive("size", size)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"tfds: name must be 'name', 'name/config' or 'name:version', got {name!r}; leave paths out.")
    directory = _prepared(name, default_data_dir() if data_dir is None else pathlib.Path(data_dir).expanduser())
    _check_prepared(name, directory)
    import tensorflow_datasets

    builder: Any = tensorflow_datasets.builder_from_directory(str(directory))
    features = builder.info.features
    classes = getattr(features["label"], "num_classes", None) if "label" in features else None
    if "image" not in features or classes is None:
        raise ValueError(
            f"tfds: '{name}' must have the features image and label (a ClassLabel), got {sorted(features)}; read it "
            "yourself and pass the arrays to `streams.arrays`."
        )
    if builder.info.file_format.value != "array_record":
        raise ValueError(
            f"tfds: '{name}' must be stored as array_record to be read without TensorFlow, got "
            f"{builder.info.file_format.value} in {directory}; prepare it again with file_format='array_record'."
        )
    decode: Any = tensorflow_datasets.decode
    images, inputs, labels = [], [], []
    for split in (train_split, test_split):
        rows = builder.as_data_source(split=split, decoders={"image": decode.SkipDecoding()})
        images.append(_Images(name, rows, features["image"].shape[-1], size, pad))
        labels.append(_labels(rows))
        inputs.append(images[-1][:] if resident else np.broadcast_to(images[-1][:1], images[-1].shape))
    label = name.replace("/", "_").replace(":", "_")
    source = arrays(inputs[0], labels[0], inputs[1], labels[1], name=label, num_classes=classes, mean=mean, std=std)
    if resident:
        return source
    train, test = ({**part, "inputs": found} for part, found in zip((source.train, source.test), images, strict=True))
    return source._replace(train=train, test=test)


def default_data_dir() -> pathlib.Path:
    """Where tensorflow-datasets keeps its data: `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _prepared(name: str, data_dir: pathlib.Path) -> pathlib.Path:
    """The folder of the newest (or the named) version, or the one sentence that says how to get it."""
    folder, _, version = name.partition(":")
    candidates = [
        path.parent
        for path in (data_dir / folder).glob(f"{version or '*'}/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    ]
    if candidates:
        return max(candidates, key=lambda path: tuple(map(int, path.name.split("."))))
    if folder in _FETCHED and not version:
        advice = f"run `python -m experiments.data --name={folder} --data_dir={data_dir}` in a checkout."
    else:
        advice = (
            f"run `python -c \"import tensorflow_datasets as t; t.builder('{name}', data_dir='{data_dir}', "
            "file_format='array_record').download_and_prepare()\"` where TensorFlow and the internet are."
        )
    raise FileNotFoundError(f"tfds: '{name}' is not prepared under {data_dir}; {advice}")


def _check_prepared(name: str, directory: pathlib.Path) -> None:
    """tensorflow-datasets imports the module of any class that `features.json` names, and reads where a split says."""
    try:
        features, info = (json.loads((directory / f"{kind}.json").read_text()) for kind in ("features", "dataset_info"))
        classes = _named(features, ("pythonClassName", "python_class_name"))
        files = [info["name"], *_named(info["splits"], ("name", "filepathTemplate", "filepath_template"))]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"tfds: the features.json and the dataset_info.json of '{name}' in {directory} cannot be read "
            f"({type(error).__name__}); prepare it again."
        ) from error
    wrong = [found for found in classes if not _FEATURES.fullmatch(str(found))]
    wrong += [found for found in files if pathlib.PurePath(str(found)).name != found]
    if wrong:
        raise ValueError(
            f"tfds: '{name}' must be made of the features of tensorflow-datasets and of files of its own folder, got "
            f"{str(wrong[0])[:100]!r} in {directory}; prepare it again."
        )


def _named(tree: Any, keys: tuple[str, ...]) -> list[Any]:
    """What stands under some keys, however deep."""
    if isinstance(tree, dict):
        return [tree[key] for key in keys if key in tree] + [x for value in tree.values() for x in _named(value, keys)]
    return [x for value in tree for x in _named(value, keys)] if isinstance(tree, list) else []


class _Images:
    """The images of a split, uint8 `[N, H, W]` or `[N, H, W, c]`, decoded when they are asked for."""

    dtype = np.dtype(np.uint8)

    def __init__(self, name: str, rows: Any, channels: int, size: int | None, pad: int):
        self._name, self._rows, self._channels, self._size, self._pad = name, rows, channels, size, pad
        self.shape = (len(rows), *self._image(rows[0]["image"]).shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        wanted = np.arange(self.shape[0])[index]
        blocks = [self._block(wanted[at : at + _BLOCK]) for at in range(0, len(wanted), _BLOCK)]
        return np.concatenate(blocks) if blocks else np.zeros((0, *self.shape[1:]), self.dtype)

    def _block(self, wanted: np.ndarray) -> np.ndarray:
        images = [self._image(row["image"]) for row in self._rows.__getitems__(wanted.tolist())]
        shapes = {image.shape for image in images} | {self.shape[1:]}
        if len(shapes) > 1:
            raise ValueError(
                f"tfds: the images of '{self._name}' must be of one size, got {len(shapes)} sizes, such as "
                f"{sorted(shapes)[:2]}; give a size to which they are brought."
            )
        return np.stack(images)

    def _image(self, stored: Any) -> np.ndarray:
        image = _sized(_decoded(stored, self._channels), self._size)
        if self._pad:  # padding by nothing is a copy
            image = np.pad(image, ((self._pad, self._pad), (self._pad, self._pad), (0, 0))[: image.ndim])
        return image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image


def _labels(rows: Any) -> np.ndarray:
    starts = range(0, len(rows), _BLOCK)
    blocks = [rows.__getitems__(range(at, min(at + _BLOCK, len(rows)))) for at in starts]
    return np.asarray([row["label"] for block in blocks for row in block], np.int32)


def _decoded(image: Any, channels: int) -> np.ndarray:
    """One image: what an Image feature stored (PNG or JPEG bytes), or the array of a Tensor feature."""
    if not isinstance(image, bytes):
        return np.asarray(image)
    from PIL import Image

    with Image.open(io.BytesIO(image)) as file:
        return np.asarray(file.convert(_MODES[channels]))


def _sized(image: np.ndarray, size: int | None) -> np.ndarray:
    """The middle of an image whose shorter side is brought to `size`."""
    if size is None or image.shape[:2] == (size, size):
        return image
    from PIL import Image

    grey = image.ndim == 3 and image.shape[-1] == 1
    file = Image.fromarray(image[..., 0] if grey else image)
    scale = size / min(file.size)
    wide, high = (max(size, round(side * scale)) for side in file.size)
    left, top = (wide - size) // 2, (high - size) // 2
    resized = np.asarray(file.resize((wide, high), Image.Resampling.BILINEAR))
    return resized[top : top + size, left : left + size]
