"""A small convolutional network."""

from collections.abc import Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype

from ctrain_jax.core._base import Outputs
from ctrain_jax.models._conv import Conv
from ctrain_jax.models._mlp import check_floats, head, normalize
from ctrain_jax.ops import check_choice, check_size


class CNN(nn.Module):
    """Blocks of 3x3 convolution, norm, relu and 2x2 max-pooling, then a linear head.

    Pooling drops the last row or column of an image of odd size. It is a reshape and a maximum, not a
    `reduce_window`, whose gradient is slow inside a compiled loop on CPU.

    Args:
        num_classes: width of the head.
        widths: channels of each block; each block halves the image.
        norm: `"none"`, `"batch"` or `"group"`, between convolution and relu.
        pool: how the last image becomes features: `"flatten"`, or the `"mean"` over its pixels.
        dtype: of the computation; parameters, features and logits are float32.

    Raises:
        ValueError: a field, or an input, that it does not accept.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = CNN(num_classes=10)
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 28, 28)))
        >>> outputs = model.apply(variables, jnp.ones((5, 28, 28)))
        >>> outputs.logits.shape, outputs.features.shape
        ((5, 10), (5, 3136))
    """

    num_classes: int
    widths: Sequence[int] = (32, 64)
    norm: str = "none"
    pool: str = "flatten"
    dtype: Dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("num_classes", self.num_classes)
        for width in self.widths:
            check_size("Each width in widths", width)
        check_choice("norm", self.norm, ("none", "batch", "group"))
        check_choice("pool", self.pool, ("flatten", "mean"))

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> Outputs:
        """Answers `inputs` `[B, H, W, C]` or `[B, H, W]`, floats; BatchNorm's statistics move when `train` is true."""
        x = as_images(inputs)
        if min(x.shape[1:3]) < 2 ** len(self.widths):
            raise ValueError(
                f"{len(self.widths)} blocks need images of at least {2 ** len(self.widths)} pixels a side, got shape "
                f"{inputs.shape}: give fewer widths or larger images."
            )
        for index, width in enumerate(self.widths):
            x = Conv(width, (3, 3), dtype=self.dtype, name=f"conv_{index}")(x)
            x = normalize(self.norm, x, train, self.dtype, f"norm_{index}")
            x = max_pool(nn.relu(x))
        return head(self.num_classes, x.mean((1, 2)) if self.pool == "mean" else x.reshape(x.shape[0], -1))


def as_images(inputs: jax.Array) -> jax.Array:
    """`[B, H, W, C]` from `[B, H, W, C]` or `[B, H, W]`."""
    check_floats(inputs)
    if inputs.ndim not in (3, 4):
        raise ValueError(
            f"An image model expects inputs [B, H, W, C] or [B, H, W], got shape {inputs.shape}: "
            "reshape the inputs, or use MLP."
        )
    return inputs if inputs.ndim == 4 else inputs[..., None]


def max_pool(x: jax.Array) -> jax.Array:
    """The maximum over squares of 2x2: `[B, H, W, C]` to `[B, H // 2, W // 2, C]`."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))
