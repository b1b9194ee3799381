"""The block that the transformers share.

Vaswani et al. (2017), "Attention is all you need", arXiv 1706.03762, with the LayerNorms in front of the layers.
"""

from typing import Any

import jax
from flax import linen as nn
from flax.typing import Dtype

from ctrain_jax.ops import check_size


class Block(nn.Module):
    """`z = x + attention(LN(x))`, then `z + mlp(LN(z))`.

    Args:
        heads: of attention.
        mlp_ratio: the hidden layer of the mlp has `mlp_ratio * width` units.
        dtype: of the computation.
        gelu: its form, "tanh" or "exact".
    """

    heads: int
    mlp_ratio: int
    dtype: Dtype | None
    gelu: str = "tanh"

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Takes `x` `[B, T, D]`; where `mask` `[B or 1, 1, T, T]` is false, a token does not see another."""
        width = x.shape[-1]
        y = nn.LayerNorm(dtype=self.dtype, name="norm_0")(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype, name="attention")(y, mask=mask)
        y = nn.LayerNorm(dtype=self.dtype, name="norm_1")(x)
        y = nn.Dense(self.mlp_ratio * width, dtype=self.dtype, name="mlp_0")(y)
        y = nn.gelu(y, approximate=self.gelu == "tanh")
        return x + nn.Dense(width, dtype=self.dtype, name="mlp_1")(y)


def check_transformer(model: Any) -> None:
    """Raises ValueError unless the fields that all transformers have fit each other."""
    for name in ("num_classes", "width", "depth", "heads", "mlp_ratio"):
        check_size(name, getattr(model, name))
    if model.depth > 1000:
        raise ValueError(f"depth expects at most 1000 blocks, each of which is traced, got {model.depth}.")
    if model.width % model.heads:
        raise ValueError(f"width must be a multiple of heads={model.heads}, got {model.width}: change one of them.")
