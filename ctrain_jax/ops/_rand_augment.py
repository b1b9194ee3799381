"""RandAugment: some operations drawn at random for each image, all of one magnitude.

Cubuk, Zoph, Shlens and Le, "RandAugment: Practical automated data augmentation with a reduced search space", 2019,
arXiv 1909.13719; the ranges of the operations are those of AutoAugment, 2018, arXiv 1805.09501. Opened:
tensorflow/tpu autoaugment.py (the authors' code) and torchvision's autoaugment.py; not the paper, whose fourteen
operations are taken as torchvision lists them. The operations are Pillow's, against which they are tested.

Where we differ from the authors' code:
  - 0 changes nothing and 10 changes most, as in torchvision: there colours were left alone at magnitude 5, and
    posterize and solarize grew weaker.
  - Colours go either way with probability 1/2, as the geometric operations do.
  - Places between pixels are read linearly, and what comes from outside of the image is black: there the next pixel,
    and grey.
  - A translation goes as far as AutoAugment's 150 of 331 pixels: there 100 pixels of any image.
  - No invert, cutout and "solarize add", which the code has and the list of the paper has not.
"""

import jax
import jax.numpy as jnp

from ctrain_jax.ops._augment import blend, check_images, grey
from ctrain_jax.ops._bilinear import bilinear
from ctrain_jax.ops._checks import check_fraction, check_size


def rand_augment(
    rng: jax.Array, images: jax.Array, num_ops: int = 2, magnitude: jax.typing.ArrayLike = 9.0
) -> jax.Array:
    """Images after `num_ops` operations, drawn for each image anew, with repetition.

    With `m = magnitude / 10`, and a sign drawn for each image and operation:

    - `identity`: nothing
    - `autocontrast`, `equalize`: each channel stretched to [0, 1]; its histogram made flat
    - `rotate`, `shear_x`, `shear_y`: about the centre by `± 30 m` degrees; about a corner by `± 0.3 m`
    - `translate_x`, `translate_y`: by `± 150 / 331 m` of the side
    - `color`, `contrast`, `brightness`, `sharpness`: factor `1 ± 0.9 m` of what differs from grey, mean, black, blur
    - `posterize`, `solarize`: all but the `8 - 4 m` highest bits cut; pixels from `256 (1 - m)` of 255 on inverted

    `color` is for images of three channels; of others the remaining thirteen are drawn.

    The choice differs from row to row, so every row pays for every operation and keeps one: in each of the `num_ops`
    rounds a bilinear reading (the five that move an image share it), a histogram, and seven maps of its pixels.

    Args:
      rng: a key.
      images: `[B, H, W, C]` in [0, 1].
      num_ops: operations one after the other, N of the paper: 1 to 3.
      magnitude: M of the paper, 0 to 10; may be traced.

    Returns:
      `[B, H, W, C]` in [0, 1].

    Raises:
      ValueError: inputs that are no images, `num_ops` below 1, a magnitude out of [0, 10].

    Example:
      >>> images = jnp.linspace(0.0, 1.0, 2 * 8 * 8 * 3).reshape(2, 8, 8, 3)
      >>> rand_augment(jax.random.key(0), images, 2, 9.0).shape
      (2, 8, 8, 3)

    References:
      arXiv 1909.13719, 2019; arXiv 1805.09501, 2018, table 6.
    """
    check_images("rand_augment", images)
    check_size("num_ops", num_ops)
    check_fraction("magnitude / 10", magnitude / 10)
    names = [name for name in OPERATIONS if name != "color" or images.shape[-1] == 3]

    def one(images, key):
        for_op, for_sign = jax.random.split(key)
        op = jax.random.randint(for_op, images.shape[:1], 0, len(names))
        sign = jax.random.rademacher(for_sign, images.shape[:1], images.dtype)
        return apply(images, op, sign * jnp.asarray(magnitude, images.dtype) / 10, names), None

    return jax.lax.scan(one, images, jax.random.split(rng, num_ops))[0]


def apply(images: jax.Array, op: jax.Array, strength: jax.Array, names: list[str]) -> jax.Array:
    """To each row its operation `names[op]` at a strength in [-1, 1]; `op` and `strength` are `[B]`."""
    chosen = {name: op == i for i, name in enumerate(names)}
    moves = {name: jnp.where(chosen[name], strength, 0.0) for name in MOVES}
    is_moved = jnp.any(jnp.stack([chosen[name] for name in MOVES]), axis=0)
    result = jnp.where(is_moved[:, None, None, None], moved(images, moves), images)
    for name in [name for name in names if name in PIXELS]:
        result = jnp.where(chosen[name][:, None, None, None], PIXELS[name](images, strength), result)
    return result


def moved(images: jax.Array, moves: dict[str, jax.Array]) -> jax.Array:
    """Images rotated, sheared or moved: each by at most one, the others are 0."""
    height, width = images.shape[1:3]
    # Places in pixels from the corner of the image, as Pillow counts: the first pixel's centre is at 1/2.
    y, x = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")

    def one(image, rotate, shear_x, shear_y, translate_x, translate_y):
        angle = jnp.radians(30 * rotate)
        down, right = y - height / 2, x - width / 2
        turned = jnp.cos(angle) * down + jnp.sin(angle) * right, jnp.cos(angle) * right - jnp.sin(angle) * down
        from_y = turned[0] + height / 2 + 0.3 * shear_y * x + 150 / 331 * height * translate_y
        from_x = turned[1] + width / 2 + 0.3 * shear_x * y + 150 / 331 * width * translate_x
        return bilinear(image, from_y - 0.5, from_x - 0.5).astype(image.dtype)

    return jax.vmap(one)(images, *(moves[name] for name in MOVES))


def autocontrast(images: jax.Array, strength: jax.Array) -> jax.Array:
    """Each channel of an image stretched to all of [0, 1]; flat ones stay."""
    low, high = images.min((1, 2), keepdims=True), images.max((1, 2), keepdims=True)
    return jnp.where(high > low, (images - low) / jnp.where(high > low, high - low, 1.0), images)


def equalize(images: jax.Array, strength: jax.Array) -> jax.Array:
    """Each channel of an image with as many pixels of each level as can be; of fewer than 256 pixels it stays."""
    rows, height, width, channels = images.shape
    levels = jnp.moveaxis(to_levels(images), -1, 1).astype(jnp.int32).reshape(rows * channels, height * width)

    def one(levels):
        histogram = jnp.bincount(levels, length=256)
        step = (levels.size - histogram[levels.max()]) // 255
        table = (jnp.cumsum(histogram) - histogram + step // 2) // jnp.maximum(step, 1)
        return jnp.where(step > 0, jnp.minimum(table, 255)[levels], levels)

    flat = jax.vmap(one)(levels).reshape(rows, channels, height, width)
    return jnp.moveaxis(flat, 1, -1).astype(images.dtype) / 255


def posterize(images: jax.Array, strength: jax.Array) -> jax.Array:
    """The highest bits of each pixel, 8 at strength 0 and 4 at strength 1."""
    cut = jnp.exp2(jnp.round(4 * jnp.abs(strength)))[:, None, None, None]
    return jnp.floor(to_levels(images) / cut) * cut / 255


def solarize(images: jax.Array, strength: jax.Array) -> jax.Array:
    """Pixels above a threshold inverted, none at strength 0 and all at strength 1."""
    threshold = 256 * (1 - jnp.abs(strength))[:, None, None, None]
    return jnp.where(to_levels(images) < threshold, images, 1 - images)


def color(images: jax.Array, strength: jax.Array) -> jax.Array:
    """More or less saturation."""
    return blend(grey(images), images, 1 + 0.9 * strength)


def contrast(images: jax.Array, strength: jax.Array) -> jax.Array:
    """More or less difference from the mean grey."""
    return blend(grey(images).mean((1, 2), keepdims=True), images, 1 + 0.9 * strength)


def brightness(images: jax.Array, strength: jax.Array) -> jax.Array:
    """More or less light."""
    return blend(jnp.zeros_like(images), images, 1 + 0.9 * strength)


def sharpness(images: jax.Array, strength: jax.Array) -> jax.Array:
    """More or less difference from a blur (3 x 3, the centre five times); pixels at the border stay."""
    inner = images[:, 1:-1, 1:-1]
    lines = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    blur = (lines[:, :, :-2] + lines[:, :, 1:-1] + lines[:, :, 2:] + 4 * inner) / 13
    return blend(images.at[:, 1:-1, 1:-1].set(blur), images, 1 + 0.9 * strength)


def to_levels(images: jax.Array) -> jax.Array:
    """Whole numbers from 0 to 255, as floats."""
    return jnp.round(255 * images)


PIXELS = {
    "autocontrast": autocontrast,
    "equalize": equalize,
    "solarize": solarize,
    "color": color,
    "posterize": posterize,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
}
MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
OPERATIONS = ("identity", *PIXELS, *MOVES)
