"""Augmentation: off it is plain training, its geometry is numpy's; a small CNN on 1,000 images gets better by it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, metrics, models, ops, streams
from ctrain_jax.ops._rand_augment import MOVES, OPERATIONS, apply
from experiments._evidence._common import Check, Claim, distance, estimate, final, gate, means, runs

ROWS, OFF = 1_000, {"crop": 0, "flip": False}
METHODS = {
    "none": core.identity,
    "moved": lambda: continual.augmentation(crop=2, flip=True),
    "rand_augment": lambda: continual.augmentation(crop=2, flip=True, rand_augment=1, magnitude=5.0),
    "mixup": lambda: continual.augmentation(**OFF, mixup=1.0),
    "cutmix": lambda: continual.augmentation(**OFF, cutmix=1.0),
}


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.augmentation`."""
    source = streams.fashion_mnist()
    small = source._replace(train={name: x[:ROWS] for name, x in source.train.items()})
    stream = streams.class_incremental(small, 1)
    model = core.from_linen(models.CNN(10, widths=(8, 16)))
    accuracy, error, elsewhere = {}, {}, {}
    for name, method in METHODS.items():
        learner = core.make_learner(model, method(), optax.adam(1e-3), stream, batch_size=50, epochs=40)
        result = runs(learner, seeds)
        accuracy[name] = final(result)
        error[name], elsewhere[name] = _on_the_test_images(model, result, source)
    where = f"Fashion-MNIST ({ROWS:,} rows), CNN, 40 epochs"
    sums, entered = _mixture()
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
        *(
            estimate(
                f"{where}, {text}: points of final accuracy above none "
                f"({means(**{'none': accuracy['none'], name: accuracy[name]})})",
                accuracy[name] - accuracy["none"],
                least=0,
            )
            for name, text in (
                ("moved", "crop 2 and flip"),
                ("rand_augment", "the same and 1 operation of magnitude 5"),
                ("mixup", "mixup of alpha 1"),
                ("cutmix", "CutMix of alpha 1"),
            )
        ),
        *(
            estimate(
                f"{where}, {text}: points of expected calibration error below none "
                f"({means(**{'none': error['none'], name: error[name]})})",
                error["none"] - error[name],
                least=0,
            )
            for name, text in (("mixup", "mixup of alpha 1"), ("cutmix", "CutMix of alpha 1"))
        ),
        estimate(
            f"{where}, crop 2 and flip: points of final accuracy above none on test images that are moved and flipped "
            f"alike ({means(none=elsewhere['none'], moved=elsewhere['moved'])})",
            elsewhere["moved"] - elsewhere["none"],
            least=0,
        ),
    ]


def _on_the_test_images(model: core.Model, result: core.Result, source: core.Source) -> tuple[np.ndarray, np.ndarray]:
    """Expected calibration error, and accuracy where the images are moved and flipped, in percent `[S]`."""
    images, labels = jnp.asarray(source.test["inputs"], jnp.float32) / 255, source.test["labels"]
    keys = jax.random.split(jax.random.key(0))
    moved = ops.random_flip(keys[0], ops.random_crop(keys[1], images[..., None], 2))[..., 0]

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
)
