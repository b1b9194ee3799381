"""ResNet-18 for small images, slim or full.

He, Zhang, Ren and Sun (2015), "Deep residual learning for image recognition", arXiv 1512.03385; the slim form for
continual learning, 20 channels in the first stage, is that of Lopez-Paz and Ranzato (2017), "Gradient episodic memory
for continual learning", arXiv 1706.08840.
"""

import jax
from flax import linen as nn
from flax.typing import Dtype

from ctrain_jax.core._base import Outputs
from ctrain_jax.models._cnn import as_images
from ctrain_jax.models._conv import Conv
from ctrain_jax.models._mlp import head, normalize
from ctrain_jax.ops import check_choice, check_size


class ResNet18(nn.Module):
    """ResNet-18 with a 3x3 stem and no max-pooling, for images of 28 to 64 pixels.

    Four stages of two blocks with `width, 2 width, 4 width, 8 width` channels; the last three stages halve the image.

        block(x) = relu(norm(conv3x3(relu(norm(conv3x3(x))))) + shortcut(x))

    The shortcut is the identity where the shape stays, otherwise a 1x1 convolution and a norm (option B of the paper).
    Features are the mean over the pixels of the last stage, `[B, 8 width]`. Convolutions have no bias.

    Args:
        num_classes: width of the head.
        width: channels of the first stage; 20 is the slim ResNet-18 of continual learning, 64 the full one.
        norm: `"batch"` (momentum 0.9, epsilon 1e-5), or `"group"` with `gcd(channels, 32)` groups: 4, 8, 16 and 32 for
            `width` 20, always 32 for `width` 64. Rows that pad a batch are real rows, so BatchNorm needs no mask.
        dtype: of the computation; parameters, features and logits are float32.

    Raises:
        ValueError: a field, or an input, that it does not accept.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = ResNet18(num_classes=10, width=2)
        >>> images = jnp.ones((5, 12, 12, 3))
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)  # shapes alone: nothing is computed
        >>> outputs = jax.eval_shape(model.apply, variables, images)
        >>> outputs.logits.shape, outputs.features.shape
        ((5, 10), (5, 16))
    """

    num_classes: int
    width: int = 20
    norm: str = "batch"
    dtype: Dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("num_classes", self.num_classes)
        check_size("width", self.width)
        check_choice("norm", self.norm, ("batch", "group"))

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> Outputs:
        """Answers `inputs` `[B, H, W, C]` or `[B, H, W]`, floats; BatchNorm's statistics move when `train` is true."""
        x = _conv(self.width, 3, 1, self.dtype, "stem")(as_images(inputs))
        x = nn.relu(normalize(self.norm, x, train, self.dtype, "stem_norm"))
        for stage in range(4):
            for block in range(2):
                strides = 2 if stage > 0 and block == 0 else 1
                name = f"stage_{stage}_block_{block}"
                x = _Block(self.width * 2**stage, strides, self.norm, self.dtype, name=name)(x, train)
        return head(self.num_classes, x.mean((1, 2)))


class _Block(nn.Module):
    features: int
    strides: int
    norm: str
    dtype: Dtype | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shortcut = x
        if self.strides != 1 or x.shape[-1] != self.features:
            shortcut = _conv(self.features, 1, self.strides, self.dtype, "shortcut")(x)
            shortcut = normalize(self.norm, shortcut, train, self.dtype, "shortcut_norm")
        x = _conv(self.features, 3, self.strides, self.dtype, "conv_0")(x)
        x = nn.relu(normalize(self.norm, x, train, self.dtype, "norm_0"))
        x = _conv(self.features, 3, 1, self.dtype, "conv_1")(x)
        return nn.relu(normalize(self.norm, x, train, self.dtype, "norm_1") + shortcut)


def _conv(features: int, size: int, strides: int, dtype: Dtype | None, name: str) -> Conv:
    # The explicit padding is that of the reference networks: "SAME" would sample other pixels at stride 2.
    padding, init = size // 2, nn.initializers.he_normal()
    return Conv(features, (size, size), strides, padding, use_bias=False, dtype=dtype, kernel_init=init, name=name)
