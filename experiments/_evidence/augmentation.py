"""Augmentation: off it is plain training, its geometry is numpy's; what it does to small CNNs on 1,000 images.

The papers train deep networks on 50,000 images for 200 epochs and more. Here it is what a few minutes of a processor
allow: two blocks of convolution, wide enough to learn 1,000 images by heart within the epochs given when nothing is
augmented.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, metrics, models, ops, streams
from ctrain_jax.ops._rand_augment import MOVES, OPERATIONS, apply
from experiments._evidence._common import Check, Claim, distance, estimate, final, gate, means, runs

ROWS, OFF = 1_000, {"crop": 0, "flip": False}


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.augmentation`."""
    fashion = _measured(
        streams.fashion_mnist(),
        {"none": core.identity(), "moved": continual.augmentation(crop=2)},
        seeds,
        widths=(8, 16),
        batch_size=50,
        learning_rate=1e-3,
        epochs=40,
        padding=2,
    )
    cifar = _measured(
        streams.tfds("cifar10", data_dir, train_split=f"train[:{ROWS}]"),
        {
            "none": core.identity(),
            "moved": continual.augmentation(crop=4),
            "mixup": continual.augmentation(**OFF, mixup=1.0),
            "cutmix": continual.augmentation(**OFF, cutmix=1.0),
        },
        seeds,
        widths=(16, 32),
        batch_size=25,
        learning_rate=3e-3,
        epochs=20,
        padding=4,
    )
    sums, entered = _mixture()

    def better(where: str, text: str, measured: dict[str, Measured], name: str, field: str) -> Claim:
        none, own = (getattr(measured[k], field) for k in ("none", name))
        gain = none - own if field == "error" else own - none
        return estimate(f"{where}, {text} ({means(**{'none': none, name: own})})", gain, least=0)

    on_fashion, on_cifar = (f"{data} ({ROWS:,} rows), CNN" for data in ("Fashion-MNIST", "CIFAR-10"))
    accuracy, error = "points of final accuracy above none", "points of expected calibration error below none"
    return [
        gate("with all off it is plain training (largest difference of a parameter)", _off(), most=0),
        gate(
            "crop and flip give a mirrored window of the padded image in numpy (largest difference)", _moved(), most=0
        ),
        gate(
            "rotations, shears and translations of RandAugment are numpy's, pixel by pixel (largest difference)",
            _affine(),
            most=1e-5,
        ),
        gate("targets of mixup and CutMix sum to 1 (largest difference)", sums, most=1e-6),
        gate("rows of weight 0 enter rows of weight 1, or change (largest share)", entered, most=0),
        better(f"{on_cifar}, 20 epochs", f"crop 4 and flip: {accuracy}", cifar, "moved", "accuracy"),
        better(f"{on_cifar}, 20 epochs", f"mixup of alpha 1: {error}", cifar, "mixup", "error"),
        better(f"{on_cifar}, 20 epochs", f"CutMix of alpha 1: {accuracy}", cifar, "cutmix", "accuracy"),
        better(f"{on_fashion}, 40 epochs", f"crop 2 and flip: {accuracy}", fashion, "moved", "accuracy"),
        better(
            f"{on_fashion}, 40 epochs",
            f"crop 2 and flip: {accuracy} on test images that are moved and flipped alike",
            fashion,
            "moved",
            "elsewhere",
        ),
    ]


class Measured(NamedTuple):
    """What a network does on the test images, in percent `[S]`."""

    accuracy: np.ndarray
    error: np.ndarray  # expected calibration error
    elsewhere: np.ndarray  # accuracy where the images are moved and flipped


def _measured(
    source: core.Source,
    methods: dict[str, core.Method],
    seeds: Sequence[int],
    *,
    widths: tuple[int, ...],
    batch_size: int,
    learning_rate: float,
    epochs: int,
    padding: int,
) -> dict[str, Measured]:
    """A CNN on the first rows of a source, with each method."""
    small = source._replace(train={name: x[:ROWS] for name, x in source.train.items()})
    stream, model = streams.class_incremental(small, 1), core.from_linen(models.CNN(10, widths=widths))
    told = {}
    for name, method in methods.items():
        learner = core.make_learner(
            model, method, optax.adam(learning_rate), stream, batch_size=batch_size, epochs=epochs
        )
        result = runs(learner, seeds)
        told[name] = Measured(final(result), *_on_the_test_images(model, result, source, padding))
    return told


def _on_the_test_images(
    model: core.Model, result: core.Result, source: core.Source, padding: int
) -> tuple[np.ndarray, np.ndarray]:
    """Expected calibration error, and accuracy where the images are moved and flipped, in percent `[S]`."""
    images, labels = jnp.asarray(source.test["inputs"], jnp.float32) / 255, source.test["labels"]
    keys = jax.random.split(jax.random.key(0))
    four = images if images.ndim == 4 else images[..., None]
    moved = ops.random_flip(keys[0], ops.random_crop(keys[1], four, padding)).reshape(images.shape)

    def one(params, model_state, images, moved):
        first, second = (model.apply(core.Variables(params, model_state), x)[0].logits for x in (images, moved))
        return metrics.expected_calibration_error(jax.nn.softmax(first), labels), (second.argmax(-1) == labels).mean()

    told = jax.jit(core.mapped(one, (0, 0, None, None)))(result.state.params, result.state.model_state, images, moved)
    return 100 * np.asarray(told[0]), 100 * np.asarray(told[1])


def _off() -> float:
    stream = streams.class_incremental(streams.digits(), 3)
    after = []
    for method in (core.identity(), continual.augmentation(**OFF)):
        model = core.from_linen(models.MLP(10, hidden=(32,)))
        after.append(core.run_stream(core.make_learner(model, method, optax.sgd(0.1), stream)).state.params)
    return distance(*after)


def _images() -> np.ndarray:
    return np.random.default_rng(0).uniform(size=(200, 6, 7, 2)).astype(np.float32)


def _moved() -> float:
    images, keys = _images(), jax.random.split(jax.random.key(0))
    rows = np.asarray(ops.random_flip(keys[0], ops.random_crop(keys[1], jnp.asarray(images), 2)))
    padded = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)])
    windows = np.stack([padded[:, y : y + 6, x : x + 7] for y in range(5) for x in range(5)])
    windows = np.concatenate([windows, windows[:, :, :, ::-1]])
    return np.abs(rows - windows).max((2, 3, 4)).min(0).max()


def _affine() -> float:
    images, strength = _images(), np.linspace(-1, 1, 200).astype(np.float32)
    names, worst = list(OPERATIONS), 0.0
    for name in MOVES:
        op = jnp.full(200, names.index(name))
        rows = np.asarray(apply(jnp.asarray(images), op, jnp.asarray(strength), names))
        for image, row, m in zip(images[::20], rows[::20], strength[::20], strict=True):
            worst = max(worst, np.abs(row - _read(image, name, float(m))).max())
    return worst


def _read(image: np.ndarray, name: str, m: float) -> np.ndarray:
    """Each pixel of a moved image, from the four around the place that it comes from."""
    height, width, channels = image.shape
    result = np.zeros(image.shape)
    turn = np.exp(1j * np.radians(30 * m))
    for row in range(height):
        for column in range(width):
            y, x = row + 0.5, column + 0.5
            if name == "rotate":
                place = complex(x - width / 2, y - height / 2) * turn
                place += complex(width / 2, height / 2)
                x, y = place.real, place.imag
            shift = {"shear_x": 0.3 * m * y, "translate_x": 150 / 331 * width * m}
            down = {"shear_y": 0.3 * m * x, "translate_y": 150 / 331 * height * m}
            x, y = x + shift.get(name, 0.0) - 0.5, y + down.get(name, 0.0) - 0.5
            for i in (int(np.floor(y)), int(np.floor(y)) + 1):
                for j in (int(np.floor(x)), int(np.floor(x)) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        result[row, column] += (1 - abs(y - i)) * (1 - abs(x - j)) * image[i, j]
    return result


def _mixture() -> tuple[float, float]:
    """How far sums of targets are from 1, and the largest share of padding in a real row or of another in padding."""
    weights = np.arange(16) % 3 != 0
    sums, entered = 0.0, 0.0
    for function in (ops.mixup, ops.cutmix):
        for key in jax.random.split(jax.random.key(0), 20):
            # One-hot by row: a target says whose shares a row is made of.
            _, shares = function(key, jnp.ones((16, 8, 8, 1)), jnp.eye(16), 1.0, weights=jnp.asarray(weights))
            shares = np.asarray(shares)
            sums = max(sums, np.abs(shares.sum(1) - 1).max())
            wrong = (weights[:, None] != weights) | (~weights[:, None] & ~np.eye(16, dtype=bool))
            entered = max(entered, shares[wrong].max())
    return sums, entered


CHECK = Check(
    "ctrain_jax.continual.augmentation",
    "Zhang et al., mixup, 2017, arXiv 1710.09412; Yun et al., CutMix, 2019, arXiv 1905.04899; Cubuk et al., "
    "RandAugment, 2019, arXiv 1909.13719",
    claims,
    data=True,
)
