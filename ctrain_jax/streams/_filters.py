"""What the corruptions are made of: matrices and taps that numpy prepares, and what applies them under a trace.

A blur, a zoom or a change of resolution is linear in the image, so numpy writes its matrix (or the list of its taps)
once for each severity, and the traced part is a product. Borders: what scipy calls "nearest", "reflect" and "mirror"
is "replicate", "reflect" and "reflect_101" of OpenCV. The motion blur is that of ImageMagick as KarpelesLab/mblur ports
it, the fractal the diamond-square algorithm of Fournier, Fussell and Carpenter (1982, doi 10.1145/358523.358553) with
the constants of make_cifar_c.py, see `_corruptions`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Fold = Callable[[Any, int], Any]
Taps = tuple[np.ndarray, np.ndarray, np.ndarray]  # int32 [n], int32 [n], float32 [n]: down, right, weight


def nearest(index: Any, size: int) -> Any:
    """a a a | a b c d | d d d."""
    return index.clip(0, size - 1)


def mirror(index: Any, size: int) -> Any:
    """d c b | a b c d | c b a."""
    period = max(2 * size - 2, 1)
    index = index % period
    return index + (index >= size) * (period - 2 * index)


def stacked(tables: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """The tables of several severities as one, shorter ones filled up with zeros at their ends."""
    columns = []
    for leaves in zip(*tables, strict=True):
        column = np.zeros((len(leaves), *map(max, zip(*(leaf.shape for leaf in leaves), strict=True))), leaves[0].dtype)
        for i, leaf in enumerate(leaves):
            column[i, *map(slice, leaf.shape)] = leaf
        columns.append(column)
    return tuple(columns)


def gaussian_matrix(size: int, sigma: float, truncate: float, mode: str) -> np.ndarray:
    """`[size, size]`, the blur by a Gaussian that is cut at `truncate` standard deviations; `mode` as in scipy."""
    from scipy.ndimage import gaussian_filter1d  # half a second that `import ctrain_jax` should not pay

    blur = gaussian_filter1d(np.eye(size), max(sigma, 1e-9), axis=0, truncate=truncate, mode=mode)
    return np.asarray(blur, np.float32)


def zoom_matrix(size: int, factor: float) -> np.ndarray:
    """`[size, size]`, the middle of an axis, `1 / factor` of it, drawn out to its length by linear interpolation."""
    cropped = int(np.ceil(size / factor))
    top, length = (size - cropped) // 2, round(cropped * factor)
    place = np.arange(size) + (length - size) // 2
    place = top + place * ((cropped - 1) / max(length - 1, 1))
    below = np.minimum(np.floor(place).astype(int), size - 1)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size), below), 1 - (place - below))
    np.add.at(matrix, (np.arange(size), np.minimum(below + 1, size - 1)), place - below)
    return matrix.astype(np.float32)


def box_matrix(size: int, fewer: int) -> np.ndarray:
    """`[size, size]`, `fewer` pixels that are means of the pixels whose centres they hold, each drawn as a box."""
    width = size / fewer
    centre = (np.arange(fewer) + 0.5) * width
    first, last = (centre - width / 2 + 0.5).astype(int), (centre + width / 2 + 0.5).astype(int)
    place = np.arange(size)
    inside = (place >= first[:, None]) & (place < last[:, None])
    means = inside / inside.sum(axis=1, keepdims=True)
    return means[((place + 0.5) / width).astype(int)].astype(np.float32)


def disk_taps(radius: float, blur: float, reach: int) -> Taps:
    """A disk, smoothed by a Gaussian of `2 * reach + 1` pixels."""
    wide = int(radius) + reach
    offset = np.arange(-wide, wide + 1)
    disk = (np.square(offset)[:, None] + np.square(offset) <= radius**2) / 1.0
    apart = offset[:, None] - offset
    smooth = np.exp(-0.5 * np.square(apart / max(blur, 1e-9))) * (np.abs(apart) <= reach)
    kernel = smooth @ disk @ smooth.T
    down, right = np.nonzero(kernel > 1e-9 * kernel.max())
    weight = kernel[down, right]
    return (down - wide).astype(np.int32), (right - wide).astype(np.int32), (weight / weight.sum()).astype(np.float32)


def motion_weights(radius: float, sigma: float) -> np.ndarray:
    """`[2 ceil(radius) + 1]`, half of a Gaussian: how much of an exposure falls to each pixel of the way."""
    weight = np.exp(-0.5 * np.square(np.arange(2 * int(np.ceil(radius)) + 1) / max(sigma, 1e-9)))
    return (weight / weight.sum()).astype(np.float32)


def separable(image: jax.Array, rows: ArrayLike, columns: ArrayLike) -> jax.Array:
    """`rows @ image @ columns^T` of an image `[H, W, c]`, channel by channel."""
    return jnp.einsum("ij,jkc,lk->ilc", rows, image, columns, precision="highest")


def correlate(image: jax.Array, down: jax.Array, right: jax.Array, weight: jax.Array, fold: Fold) -> jax.Array:
    """`sum_n weight_n image[. + down_n, . + right_n]` of an image `[H, W, c]`."""
    height, width = image.shape[:2]
    y, x = jnp.arange(height), jnp.arange(width)

    def add(n, total):
        return total + weight[n] * image[fold(y + down[n], height)][:, fold(x + right[n], width)]

    return jax.lax.fori_loop(0, weight.shape[0], add, jnp.zeros_like(image))


def moved(image: jax.Array, weight: jax.Array, degrees: jax.Array) -> jax.Array:
    """An image `[H, W, c]` blurred along a direction, to one side of each pixel."""
    way, angle = jnp.arange(weight.shape[0]), jnp.radians(degrees)
    down, right = (jnp.ceil(way * f(angle) - 0.5).astype(jnp.int32) for f in (jnp.sin, jnp.cos))
    return correlate(image, down, right, weight, nearest)


def plasma(key: jax.Array, decay: jax.Array, size: int) -> jax.Array:
    """Clouds in [0, 1] `[size, size]`, `size` a power of two: diamond-square on a torus.

    A new point is the mean of its four neighbours and noise of amplitude `100^2 / decay^(2 n)` in the n-th round.
    """
    noise = jax.random.uniform(key, (size, size), minval=-1.0)  # of each point, at its place
    heights, level = jnp.zeros((1, 1)), jnp.float32(100.0)
    while (number := heights.shape[0]) < size:
        step = size // number
        half, amplitude = step // 2, jnp.square(level)
        pairs = heights + jnp.roll(heights, -1, 0)
        middles = (pairs + jnp.roll(pairs, -1, 1)) / 4 + amplitude * noise[half::step, half::step]
        rows = (middles + jnp.roll(middles, 1, 0) + heights + jnp.roll(heights, -1, 1)) / 4
        columns = (middles + jnp.roll(middles, 1, 1) + heights + jnp.roll(heights, -1, 0)) / 4
        rows += amplitude * noise[::step, half::step]
        columns += amplitude * noise[half::step, ::step]
        even, odd = jnp.stack([heights, rows], -1), jnp.stack([columns, middles], -1)
        heights, level = jnp.stack([even, odd], 1).reshape(2 * number, 2 * number), level / decay
    heights -= heights.min()
    return heights / jnp.maximum(heights.max(), 1e-9)
