"""Augmentation: off it is plain training, its geometry is numpy's; what it does to small CNNs on 1,000 images.

The papers train deep networks on 50,000 images for 200 epochs and more. Here it is what a few minutes of a processor
allow: two blocks of convolution, on CIFAR-10 wide enough to learn 1,000 images by heart within the epochs given when
nothing is augmented. What was promised was promised of such photographs; on clothes, which are centred and face one
way, crop and flip do harm, and neither mixtures nor RandAugment were a gain when they were measured there.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, metrics, models, ops, streams
from ctrain_jax.ops._rand_augment import MOVES, OPERATIONS, apply
from experiments._evidence._common import Check, Claim, distance, estimate, final, gate, means, runs

ROWS, OFF = 1_000, {"crop": 0, "flip": False}
SMALL, LARGE = (core.from_linen(models.CNN(10, widths=widths)) for widths in ((8, 16), (16, 32)))


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.augmentation`."""
    cifar = streams.tfds("cifar10", data_dir, train_split=f"train[:{ROWS}]", test_split="test[:2000]")
    fashion = streams.fashion_mnist()
    on_fashion = _learned(
        fashion,
        {"none": core.identity(), "moved": continual.augmentation(crop=2)},
        seeds,
        SMALL,
        batch_size=50,
        learning_rate=1e-3,
        epochs=40,
    )
    on_cifar = _learned(
        cifar,
        {
            "none": core.identity(),
            "moved": continual.augmentation(crop=4),
            "mixup": continual.augmentation(**OFF, mixup=1.0),
            "cutmix": continual.augmentation(**OFF, cutmix=1.0),
        },
        seeds,
        LARGE,
        batch_size=25,
        learning_rate=3e-3,
        epochs=20,
    )
    errors = {name: _calibration_error(on_cifar[name], cifar) for name in ("none", "mixup")}
    elsewhere = {name: _right_elsewhere(result, fashion) for name, result in on_fashion.items()}
    right_1, right_2 = ({name: final(r) for name, r in results.items()} for results in (on_cifar, on_fashion))
    sums, entered = _mixture()

    def above(text: str, found: dict[str, np.ndarray], name: str) -> Claim:
        none, own = found["none"], found[name]
        return estimate(f"{text} ({means(**{'none': none, name: own})})", own - none, least=0)

    on_1 = f"CIFAR-10 ({ROWS:,} rows), CNN, 20 epochs"
    on_2 = f"Fashion-MNIST ({ROWS:,} rows), CNN, 40 epochs"
    accuracy = "points of final accuracy above none"
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
        above(f"{on_1}, crop 4 and flip: {accuracy}", right_1, "moved"),
        estimate(
            f"{on_1}, mixup of alpha 1: points of expected calibration error below none ({means(**errors)})",
            errors["none"] - errors["mixup"],
            least=0,
        ),
        above(f"{on_1}, CutMix of alpha 1: {accuracy}", right_1, "cutmix"),
        above(f"{on_2}, crop 2 and flip: {accuracy}", right_2, "moved"),
        above(
            f"{on_2}, crop 2 and flip: {accuracy} on test images that are moved and flipped alike", elsewhere, "moved"
        ),
    ]


def _learned(
    source: core.Source,
    methods: dict[str, core.Method],
    seeds: Sequence[int],
    model: core.Model,
    *,
    batch_size: int,
    learning_rate: float,
    epochs: int,
) -> dict[str, core.Result]:
    """A network on the first rows of a source, with each method."""
    small = source._replace(train={name: x[:ROWS] for name, x in source.train.items()})
    stream, tx = streams.class_incremental(small, 1), optax.adam(learning_rate)
    return {
        name: runs(core.make_learner(model, method, tx, stream, batch_size=batch_size, epochs=epochs), seeds)
        for name, method in methods.items()
    }


def _logits(model: core.Model, result: core.Result, images: jax.Array) -> jax.Array:
    """`[S, N, C]`, a thousand images at a time."""

    def one(params, model_state, images):
        variables = core.Variables(params, model_state)
        return jax.lax.map(lambda x: model.apply(variables, x)[0].logits, images)

    parts = images.reshape(-1, 1_000, *images.shape[1:])
    logits = jax.jit(core.mapped(one, (0, 0, None)))(result.state.params, result.state.model_state, parts)
    return logits.reshape(logits.shape[0], len(images), -1)


def _calibration_error(result: core.Result, source: core.Source) -> np.ndarray:
    """Expected calibration error on the test images, in percent `[S]`."""
    logits = _logits(LARGE, result, jnp.asarray(source.test["inputs"], jnp.float32) / 255)
    labels = source.test["labels"]
    return 100 * np.stack([metrics.expected_calibration_error(jax.nn.softmax(x), labels) for x in logits])


def _right_elsewhere(result: core.Result, source: core.Source) -> np.ndarray:
    """Accuracy on test images that are moved and flipped, in percent `[S]`."""
    images, keys = jnp.asarray(source.test["inputs"], jnp.float32)[..., None] / 255, jax.random.split(jax.random.key(0))
    moved = ops.random_flip(keys[0], ops.random_crop(keys[1], images, 2))[..., 0]
    return 100 * np.asarray((_logits(SMALL, result, moved).argmax(-1) == source.test["labels"]).mean(-1))


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
