"""Images read between their pixels."""

import jax


def bilinear(image: jax.Array, y: jax.Array, x: jax.Array, mode: str = "constant") -> jax.Array:
    """An image read at places between its pixels, linearly, channel by channel.

    Args:
      image: `[H, W, C]`.
      y: `[...]`, rows, 0 at the centre of the first pixel.
      x: `[...]`, columns.
      mode: what lies outside of the image, as in scipy: "constant" (zeros), "nearest", "reflect", "mirror", "wrap".

    Returns:
      `[..., C]`.

    Example:
      >>> import jax.numpy as jnp
      >>> image = jnp.asarray([[0.0, 1.0], [2.0, 3.0]])[..., None]
      >>> bilinear(image, jnp.asarray([0.5, 0.0]), jnp.asarray([0.5, 0.25]))[:, 0].tolist()
      [1.5, 0.25]
    """
    from jax.scipy.ndimage import map_coordinates

    return jax.vmap(lambda channel: map_coordinates(channel, [y, x], order=1, mode=mode), -1, -1)(image)
