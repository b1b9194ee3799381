"""A small vision transformer.

Dosovitskiy et al. (2020), "An image is worth 16x16 words: transformers for image recognition at scale", arXiv
2010.11929. No dropout; the head is one Dense.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from ctrain_jax.core._base import Outputs
from ctrain_jax.models._cnn import as_images
from ctrain_jax.models._mlp import head
from ctrain_jax.models._transformer import Block, check_transformer
from ctrain_jax.ops import check_choice, check_size


class ViT(nn.Module):
    """A pre-LayerNorm transformer encoder over square patches, with a learned embedding of the position.

        z = embed(patches) (after the class token, for `pool="cls"`) + position
        z = z + attention(LN(z));   z = z + mlp(LN(z))                            `depth` times
        features = LN(z)[:, 0] or mean(LN(z)) over the tokens;   logits = W features + b

    The activation of the mlp is GELU and LayerNorm's epsilon is 1e-6. Attention is
    `flax.linen.MultiHeadDotProductAttention`, named `block_<i>/attention`, so that its `query`, `key`, `value` and
    `out` can be reached by `flax.linen.intercept_methods`.

    Args:
        num_classes: width of the head.
        patch: side of a patch in pixels; divides both sides of the image.
        width: of a token; a multiple of `heads`.
        depth: number of blocks.
        heads: of attention.
        mlp_ratio: the hidden layer of the mlp has `mlp_ratio * width` units.
        pool: features are the `"cls"` token or the `"mean"` over the tokens (there is then no class token).
        gelu: its form, `"tanh"` or `"exact"` (by the error function, as in PyTorch).
        dtype: of the computation; parameters, features and logits are float32.

    Raises:
        ValueError: a field, or an input, that it does not accept.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = ViT(num_classes=10, width=16, depth=2)
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 28, 28)))
        >>> outputs = model.apply(variables, jnp.ones((5, 28, 28)))
        >>> outputs.logits.shape, outputs.features.shape
        ((5, 10), (5, 16))
    """

    num_classes: int
    patch: int = 7
    width: int = 64
    depth: int = 4
    heads: int = 4
    mlp_ratio: int = 4
    pool: str = "cls"
    gelu: str = "tanh"
    dtype: Dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_transformer(self)
        check_size("patch", self.patch)
        check_choice("pool", self.pool, ("cls", "mean"))
        check_choice("gelu", self.gelu, ("tanh", "exact"))

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> Outputs:
        """Answers `inputs` `[B, H, W, C]` or `[B, H, W]`, floats; `train` changes nothing here."""
        x = _patches(as_images(inputs), self.patch)
        x = nn.Dense(self.width, dtype=self.dtype, name="embed")(x)
        if self.pool == "cls":
            cls = self.param("cls", nn.initializers.zeros_init(), (1, 1, self.width))
            x = jnp.concatenate([jnp.broadcast_to(cls.astype(x.dtype), (x.shape[0], 1, self.width)), x], axis=1)
        position = self.param("position", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        x = x + position.astype(x.dtype)
        for index in range(self.depth):
            x = Block(self.heads, self.mlp_ratio, self.dtype, self.gelu, name=f"block_{index}")(x)
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        return head(self.num_classes, x[:, 0] if self.pool == "cls" else x.mean(1))


def _patches(images: jax.Array, patch: int) -> jax.Array:
    """`[B, H, W, C]` to `[B, H / patch * W / patch, patch * patch * C]`."""
    batch, height, width, channels = images.shape
    if height % patch or width % patch:
        raise ValueError(
            f"The image must be a multiple of patch={patch} on both sides, got {height} x {width}: "
            "change patch, or resize the images."
        )
    x = images.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, patch * patch * channels)
