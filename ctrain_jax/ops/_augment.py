"""Crops, flips and colours: a batch of images in, another of the same shape out, an independent draw for each row.

Padded crops and flips are those of He et al., "Deep Residual Learning", 2015, arXiv 1512.03385 (section 4.2); the
colours those of SimCLR, Chen et al., 2020, arXiv 2002.05709 (appendix A). Opened: neither; the definitions of a colour
are Pillow's (ImageEnhance), against which they are tested.

Where we differ: numbers stay floats, where Pillow rounds to bytes after each operation; the order of the colours is
fixed (brightness, contrast, saturation, hue), where torchvision draws one.
"""

import jax
import jax.core
import jax.numpy as jnp

from ctrain_jax.ops._checks import check_non_negative, check_size


def random_crop(rng: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Images moved by up to `padding` pixels either way along each axis, with zeros where they came from.

    The same as a crop of the old size, at a random place, from the image with a border of `padding` zeros.

    Args:
      rng: a key.
      images: `[B, H, W, C]`.
      padding: pixels; 4 for images of 32 x 32 is usual.

    Returns:
      `[B, H, W, C]`.

    Raises:
      ValueError: inputs that are no images, a `padding` below 1.

    Example:
      >>> images = jnp.arange(4.0).reshape(1, 2, 2, 1)
      >>> random_crop(jax.random.key(0), images, 1).shape
      (1, 2, 2, 1)

    References:
      arXiv 1512.03385, 2015, section 4.2.
    """
    check_images("random_crop", images)
    check_size("padding", padding)
    border = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    corners = jax.random.randint(rng, (images.shape[0], 2), 0, 2 * padding + 1)

    def cut(image, corner):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(cut)(jnp.pad(images, border), corners)


def random_flip(rng: jax.Array, images: jax.Array) -> jax.Array:
    """Images of which each is mirrored left to right with probability 1/2.

    Args:
      rng: a key.
      images: `[B, H, W, C]`.

    Returns:
      `[B, H, W, C]`.

    Raises:
      ValueError: inputs that are no images.

    Example:
      >>> images = jnp.asarray([[[[1.0], [2.0]]]] * 3)
      >>> random_flip(jax.random.key(0), images)[:, 0, 0, 0].tolist()
      [1.0, 1.0, 2.0]

    References:
      arXiv 1512.03385, 2015, section 4.2.
    """
    check_images("random_flip", images)
    flipped = jax.random.bernoulli(rng, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def color_jitter(
    rng: jax.Array,
    images: jax.Array,
    *,
    brightness: jax.typing.ArrayLike = 0.0,
    contrast: jax.typing.ArrayLike = 0.0,
    saturation: jax.typing.ArrayLike = 0.0,
    hue: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    r"""Images of other brightness, contrast, saturation and hue, in this order.

    The first three move an image away from, or towards, a dull one :math:`d` (black; its mean grey; itself in grey),

    .. math:: x' = \mathrm{clip}(d + f (x - d), 0, 1), \qquad f \sim U[\max(0, 1 - s), 1 + s]

    for a strength :math:`s`; the last turns the circle of hues by :math:`U[-s, s]` of its length. A strength of 0 draws
    nothing and changes nothing.

    Args:
      rng: a key.
      images: `[B, H, W, C]` in [0, 1].
      brightness: strength; SimCLR has 0.8.
      contrast: strength; 0.8.
      saturation: strength; 0.8. Images of three channels alone have it.
      hue: strength, a share of the circle; 0.2. Images of three channels alone have it.

    Returns:
      `[B, H, W, C]` in [0, 1].

    Raises:
      ValueError: inputs that are no images, a negative strength, saturation or hue of images that have no three
        channels.

    Example:
      >>> images = jnp.full((2, 1, 1, 1), 0.5)
      >>> bright, dark = color_jitter(jax.random.key(0), images, brightness=0.5).ravel()
      >>> print(f"{bright:.2f} {dark:.2f}")
      0.67 0.34

    References:
      arXiv 2002.05709, 2020, appendix A.
    """
    check_images("color_jitter", images)
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    for name, strength in strengths.items():
        check_non_negative(name, strength)
    keys = dict(zip(strengths, jax.random.split(rng, 4), strict=True))
    strengths = {name: s for name, s in strengths.items() if isinstance(s, jax.core.Tracer) or s != 0}
    colours = sorted({"saturation", "hue"} & set(strengths))
    if colours and images.shape[-1] != 3:
        raise ValueError(
            f"color_jitter: {' and '.join(colours)} need images of 3 channels (RGB), got {images.shape[-1]}: leave "
            f"{'it' if len(colours) == 1 else 'both'} at 0."
        )
    dull = {
        "brightness": jnp.zeros_like,
        "contrast": lambda x: grey(x).mean((1, 2), keepdims=True),
        "saturation": grey,
    }
    for name, strength in strengths.items():
        drawn = jax.random.uniform(keys[name], images.shape[:1], images.dtype)
        if name == "hue":
            images = turn_hue(images, (2 * drawn - 1) * strength)
        else:
            low = jnp.maximum(1.0 - strength, 0.0)
            images = blend(dull[name](images), images, low + drawn * (1.0 + strength - low))
    return images


def check_images(name: str, images: jax.Array) -> None:
    """Raises unless `images` are floats of four axes."""
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"{name} expects images [B, H, W, C] of floats in [0, 1], got {images.dtype} {images.shape}: reshape them, "
            "or divide bytes by 255."
        )


def blend(dull: jax.Array, images: jax.Array, factor: jax.Array) -> jax.Array:
    """`dull` at factor 0, `images` at 1, what lies on their line otherwise, clipped to [0, 1]; `factor` is `[B]`."""
    return jnp.clip(dull + factor[:, None, None, None] * (images - dull), 0.0, 1.0)


def grey(images: jax.Array) -> jax.Array:
    """`[B, H, W, 1]`: the luma of RGB (ITU-R 601), the mean over any other number of channels."""
    if images.shape[-1] == 3:
        images = images * jnp.asarray([0.299, 0.587, 0.114], images.dtype)
        return images.sum(-1, keepdims=True)
    return images.mean(-1, keepdims=True)


def turn_hue(images: jax.Array, turn: jax.Array) -> jax.Array:
    """RGB images whose hues are turned by a share `[B]` of the circle; value and saturation (HSV) stay."""
    red, green, blue = jnp.moveaxis(images, -1, 0)
    value = images.max(-1)
    chroma = value - images.min(-1)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    # No equality with the maximum: fused, the two may be computed apart, and differ in the last digit.
    sector = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / safe,
        jnp.where(green >= blue, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    place = sector + 6 * turn[:, None, None]

    def channel(offset):
        k = (offset + place) % 6
        return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)], -1)
