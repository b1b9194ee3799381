"""The fifteen corruptions of CIFAR-10-C, computed on the fly: an image and a key in, an image out.

Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", 2019, arXiv
1903.12261. Opened: make_cifar_c.py of hendrycks/robustness (constants and definitions), KarpelesLab/mblur (a port of
ImageMagick's motion blur). The constants are those of images of 32 x 32; a length in pixels is multiplied by
`min(H, W) / 32`, in zoom blur, pixelate and JPEG a size or a block is relative to the image as in the original.

Where we differ:
  - Other random numbers, and no rounding to bytes between two steps or at the end (JPEG rounds, as it must).
  - `frost` lays photographs of frost over the image, which are not ours to ship: here it is a fractal of bluish ridges.
  - `glass_blur` reads all pixels at once, where the original goes from the last to the first; at 32 x 32 that is the
    same (their assignment copies a pixel, and never one that was written before), at 64 x 64 and above it is not.
  - `elastic_transform` and `zoom_blur` interpolate exactly, where OpenCV rounds a place to 1/32 of a pixel.
  - Images of one channel are corrupted as they are; the original makes them RGB.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.ops import bilinear
from ctrain_jax.streams import _filters as f

SEVERITIES = 5
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_FROST = np.array([0.75, 0.9, 1.0], np.float32)  # the colour of a ridge of ice
_ZOOMS = [np.arange(1, most, 0.01) for most in (1.06, 1.11, 1.16, 1.21, 1.26)]


class Corruption(NamedTuple):
    """A corruption: what it needs at each severity, worked out by numpy, and what it does with that."""

    constants: tuple[Any, ...]  # of the severities 1 to 5
    tables: Callable[[Any, int, int], tuple[Any, ...]]  # (constants of a severity, H, W) -> arrays
    apply: Callable[..., jax.Array]  # (image [H, W, c], key, *arrays) -> image, not yet clipped to [0, 1]


def corrupt(image: jax.Array, key: jax.Array, name: str, severity: jax.Array | int) -> jax.Array:
    """An image `[H, W]` or `[H, W, c]` in [0, 1], corrupted; the severity, 1 to 5, may be traced."""
    pixels = image if image.ndim == 3 else image[..., None]
    tables = [jnp.asarray(table)[severity - 1] for table in _tables(name, *pixels.shape[:2])]
    return jnp.clip(CORRUPTIONS[name].apply(pixels, key, *tables), 0, 1).reshape(image.shape)


@functools.lru_cache(maxsize=64)
def _tables(name: str, height: int, width: int) -> tuple[np.ndarray, ...]:
    corruption = CORRUPTIONS[name]
    return f.stacked([corruption.tables(c, height, width) for c in corruption.constants])


def _scale(height: int, width: int) -> float:
    return min(height, width) / 32


def _numbers(constants: Any, height: int, width: int) -> tuple[Any, ...]:
    return tuple(np.atleast_1d(constants).astype(np.float32))


def _both(matrix: Callable[[int], np.ndarray], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    return matrix(height), matrix(width)


# Noise


def _gaussian_noise(image, key, scale):
    return image + scale * jax.random.normal(key, image.shape)


def _shot_noise(image, key, photons):
    return jax.random.poisson(key, image * photons).astype(jnp.float32) / photons


def _impulse_noise(image, key, amount):
    drawn = jax.random.uniform(key, image.shape)
    return jnp.where(drawn < amount / 2, 0.0, jnp.where(drawn < amount, 1.0, image))


# Blur


def _defocus_tables(c, height, width):
    scale = _scale(height, width)
    return f.disk_taps(c[0] * scale, c[1] * scale, max(1, int(np.ceil(scale))))


def _defocus_blur(image, key, down, right, weight):
    return f.correlate(image, down, right, weight, f.mirror)


def _glass_tables(c, height, width):
    sigma, far = c[0] * _scale(height, width), max(1, round(c[1] * _scale(height, width)))
    blurs = _both(lambda n: f.gaussian_matrix(n, sigma, 4.0, "nearest"), height, width)
    return *blurs, np.int32(far), np.int32(c[2])


def _glass_blur(image, key, rows, columns, far, times):
    height, width = image.shape[:2]
    y, x = jnp.arange(height)[:, None], jnp.arange(width)
    inside = (y > far) & (y <= height - far) & (x > far) & (x <= width - far)
    image = f.separable(image, rows, columns)
    for time, drawn in enumerate(jax.random.split(key)):
        moves = jax.random.randint(drawn, (2, height, width), -far, far) * (inside & (time < times))
        image = image[f.nearest(y + moves[0], height), f.nearest(x + moves[1], width)]
    return f.separable(image, rows, columns)


def _motion_tables(c, height, width):
    return (f.motion_weights(c[0] * _scale(height, width), c[1] * _scale(height, width)),)


def _motion_blur(image, key, weight):
    return f.moved(image, weight, jax.random.uniform(key, minval=-45.0, maxval=45.0))


def _zoom_tables(factors, height, width):
    stacks = _both(lambda n: np.stack([f.zoom_matrix(n, z) for z in factors]), height, width)
    return *stacks, np.full(len(factors), 1 / (len(factors) + 1), np.float32)


def _zoom_blur(image, key, rows, columns, weight):
    def add(k, total):
        return total + weight[k] * f.separable(image, rows[k], columns[k])

    return jax.lax.fori_loop(0, weight.shape[0], add, weight[0] * image)  # no zoom counts twice


# Weather


def _snow_tables(c, height, width):
    scale = _scale(height, width)
    zooms = _both(lambda n: f.zoom_matrix(n, max(1.0, c[2] * scale)), height, width)
    return *zooms, f.motion_weights(c[4] * scale, c[5] * scale), np.array([c[0], c[1], c[3], c[6]], np.float32)


def _snow(image, key, rows, columns, weight, numbers):
    mean, std, least, kept = numbers
    for_flakes, for_angle = jax.random.split(key)
    flakes = mean + std * jax.random.normal(for_flakes, (*image.shape[:2], 1))
    flakes = f.separable(flakes, rows, columns)
    flakes = jnp.clip(jnp.where(flakes < least, 0.0, flakes), 0, 1)
    flakes = f.moved(flakes, weight, jax.random.uniform(for_angle, minval=-135.0, maxval=-45.0))
    grey = jnp.sum(image * _GREY, -1, keepdims=True) if image.shape[-1] == 3 else image
    return kept * image + (1 - kept) * jnp.maximum(image, 1.5 * grey + 0.5) + flakes + flakes[::-1, ::-1]


def _frost(image, key, kept, laid):
    height, width, channels = image.shape
    clouds = f.plasma(key, jnp.float32(1.5), _power_of_two(height, width))[:height, :width, None]
    ridges = 1 - jnp.abs(2 * clouds - 1)
    return kept * image + laid * ridges * (_FROST if channels == 3 else _FROST.mean())


def _fog(image, key, thickness, decay):
    height, width = image.shape[:2]
    clouds = f.plasma(key, decay, _power_of_two(height, width))[:height, :width, None]
    brightest = image.max()
    return (image + thickness * clouds) * brightest / jnp.maximum(brightest + thickness, 1e-9)


def _power_of_two(height: int, width: int) -> int:
    return 1 << (max(height, width) - 1).bit_length()


def _brightness(image, key, added):
    value = image.max(-1, keepdims=True)  # HSV with V raised: the colour keeps its direction, black becomes grey
    raised = jnp.clip(value + added, 0, 1)
    return jnp.where(value > 0, image * (raised / jnp.where(value > 0, value, 1.0)), raised)


# Digital


def _contrast(image, key, kept):
    mean = image.mean((0, 1), keepdims=True)
    return kept * (image - mean) + mean


def _elastic_tables(c, height, width):
    strength, sigma, corners = (part * min(height, width) for part in c)
    blurs = _both(lambda n: f.gaussian_matrix(n, sigma, 3.0, "reflect"), height, width)
    return *blurs, np.float32(strength), np.float32(corners)


def _elastic_transform(image, key, rows, columns, strength, corners):
    height, width = image.shape[:2]
    for_corners, for_field = jax.random.split(key)
    centre, arm = np.array([height // 2, width // 2], np.float32), min(height, width) // 3
    before = centre + arm * np.array([[1, 1], [-1, 1], [-1, -1]], np.float32)  # (y, x) of three corners of a square
    after = before + corners * jax.random.uniform(for_corners, (3, 2), minval=-1.0)
    y, x = jnp.meshgrid(jnp.arange(height) * 1.0, jnp.arange(width) * 1.0, indexing="ij")
    first, second = after[0] - after[1], after[2] - after[1]
    offset = jnp.stack([y, x], -1) - after[1]
    area = _cross(first, second)
    along, across = _cross(offset, second) / area, _cross(first, offset) / area
    place = before[1] + along[..., None] * (before[0] - before[1]) + across[..., None] * (before[2] - before[1])
    image = bilinear(image, place[..., 0], place[..., 1], "mirror")
    field = jax.random.uniform(for_field, (height, width, 2), minval=-1.0)
    field = strength * f.separable(field, rows, columns)
    return bilinear(image, y + field[..., 0], x + field[..., 1], "reflect")


def _cross(a, b):
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _pixelate_tables(kept, height, width):
    return _both(lambda n: f.box_matrix(n, max(1, int(n * kept))), height, width)


def _pixelate(image, key, rows, columns):
    return f.separable(image, rows, columns)


# ITU-T T.81, tables K.1 and K.2; ITU-T T.871 (JFIF) for the colours.
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
_FROM_YCC = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]], np.float32)
_WAVES = np.cos(np.pi / 8 * np.arange(8)[:, None] * (np.arange(8) + 0.5)) / 2
_WAVES[0] /= np.sqrt(2)
_WAVES = _WAVES.astype(np.float32)


def _jpeg_tables(quality, height, width):
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return tuple(np.clip((base * percent + 50) // 100, 1, 255).astype(np.float32) for base in (_LUMA, _CHROMA))


def _jpeg_compression(image, key, luma, chroma):
    height, width, channels = image.shape
    levels = jnp.round(255 * image)
    if channels != 3:
        planes = [_coded(levels[..., c], luma) for c in range(channels)]
        return jnp.stack(planes, -1)[:height, :width] / 255
    levels = jnp.pad(levels, [(0, -height % 16), (0, -width % 16), (0, 0)], mode="edge")
    levels = jnp.round(jnp.einsum("hwc,dc->hwd", levels, _TO_YCC, precision="highest"))
    planes = [_coded(levels[..., 0], luma)[:height, :width]]
    half = [(size + 1) // 2 for size in (height, width)]
    wider = [
        _doubling(size)[: 2 * size - size_odd] for size, size_odd in zip(half, (height % 2, width % 2), strict=True)
    ]
    for c in (1, 2):
        fewer = levels[..., c].reshape(levels.shape[0] // 2, 2, -1, 2).sum((1, 3))
        fewer = jnp.floor((fewer + 1 + np.arange(fewer.shape[1]) % 2) / 4)  # halves go down and up in turn
        fewer = _coded(fewer + 128, chroma)[: half[0], : half[1]] - 128
        planes.append(jnp.round(f.separable(fewer[..., None], *wider)[..., 0]))
    return jnp.einsum("hwc,dc->hwd", jnp.stack(planes, -1), _FROM_YCC, precision="highest") / 255


def _coded(plane: jax.Array, table: jax.Array) -> jax.Array:
    """Levels 0 to 255 `[H, W]`, filled up to whole blocks, after their cosine coefficients were rounded."""
    plane = jnp.pad(plane, [(0, -size % 8) for size in plane.shape], mode="edge") - 128
    blocks = plane.reshape(plane.shape[0] // 8, 8, -1, 8)
    waves = jnp.einsum("ui,aibj,vj->aubv", _WAVES, blocks, _WAVES, precision="highest")
    waves = waves / table[:, None]
    waves = jnp.trunc(waves + jnp.copysign(0.5, waves)) * table[:, None]  # halves are common in flat blocks
    blocks = jnp.einsum("ui,aubv,vj->aibj", _WAVES, waves, _WAVES, precision="highest")
    return jnp.clip(jnp.round(blocks.reshape(plane.shape) + 128), 0, 255)


def _doubling(size: int) -> np.ndarray:
    """`[2 size, size]`, each new sample three quarters of its own and a quarter of its neighbour's old one."""
    matrix, place = np.zeros((2 * size, size), np.float32), np.arange(2 * size)
    np.add.at(matrix, (place, place // 2), 0.75)
    np.add.at(matrix, (place, (place // 2 + place % 2 * 2 - 1).clip(0, size - 1)), 0.25)
    return matrix


CORRUPTIONS = {
    "gaussian_noise": Corruption((0.04, 0.06, 0.08, 0.09, 0.10), _numbers, _gaussian_noise),
    "shot_noise": Corruption((500, 250, 100, 75, 50), _numbers, _shot_noise),
    "impulse_noise": Corruption((0.01, 0.02, 0.03, 0.05, 0.07), _numbers, _impulse_noise),
    "defocus_blur": Corruption(  # radius, sigma of its smoothing
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)), _defocus_tables, _defocus_blur
    ),
    "glass_blur": Corruption(  # sigma, farthest move, moves
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)), _glass_tables, _glass_blur
    ),
    "motion_blur": Corruption(((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)), _motion_tables, _motion_blur),
    "zoom_blur": Corruption(tuple(_ZOOMS), _zoom_tables, _zoom_blur),
    "snow": Corruption(  # mean, std, zoom, threshold of the flakes; radius, sigma of their fall; share of the image
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        _snow_tables,
        _snow,
    ),
    "frost": Corruption(((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)), _numbers, _frost),
    "fog": Corruption(((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)), _numbers, _fog),
    "brightness": Corruption((0.05, 0.1, 0.15, 0.2, 0.3), _numbers, _brightness),
    "contrast": Corruption((0.75, 0.5, 0.4, 0.3, 0.15), _numbers, _contrast),
    "elastic_transform": Corruption(  # strength and sigma of the field, move of the corners: shares of the side
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        _elastic_tables,
        _elastic_transform,
    ),
    "pixelate": Corruption((0.95, 0.9, 0.85, 0.75, 0.65), _pixelate_tables, _pixelate),
    "jpeg_compression": Corruption((80, 65, 58, 50, 40), _jpeg_tables, _jpeg_compression),
}
