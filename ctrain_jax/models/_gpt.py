"""A small language model.

Radford et al. (2019), "Language models are unsupervised multitask learners" (GPT-2): a pre-LayerNorm transformer
decoder whose embedding of the tokens is its head as well. No dropout. Written from the description; no code was opened.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from ctrain_jax.core._base import Outputs
from ctrain_jax.models._transformer import Block, check_transformer
from ctrain_jax.ops import check_size


class GPT(nn.Module):
    """A transformer decoder over tokens: each position answers which token comes next, from itself and those before.

        z = embed(tokens) + position
        z = z + attention(LN(z));   z = z + mlp(LN(z))                            `depth` times, causal
        features = LN(z);   logits = features @ embed^T

    `core.next_token()` is the problem that goes with it. GPT-2 of 124 million parameters is `GPT(50257, width=768,
    depth=12, heads=12, context=1024)`.

    Args:
        num_classes: size of the vocabulary.
        width: of a token; a multiple of `heads`.
        depth: number of blocks.
        heads: of attention.
        mlp_ratio: the hidden layer of the mlp has `mlp_ratio * width` units.
        context: most tokens of an input.
        dtype: of the computation; parameters, features and logits are float32.

    Raises:
        ValueError: a field, or an input, that it does not accept.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = GPT(num_classes=256, width=16, depth=2, context=8)
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 8), int))
        >>> outputs = model.apply(variables, jnp.ones((5, 6), int))
        >>> outputs.logits.shape, outputs.features.shape
        ((5, 6, 256), (5, 6, 16))
    """

    num_classes: int
    width: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: int = 4
    context: int = 128
    dtype: Dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_transformer(self)
        check_size("context", self.context)

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> Outputs:
        """Answers `inputs` `[B, T]`, integers; below 0 they are padding. `train` changes nothing here."""
        if inputs.ndim != 2 or not jnp.issubdtype(inputs.dtype, jnp.integer):
            raise ValueError(
                f"inputs must be tokens [B, T] of an integer dtype, got {inputs.dtype} of shape {inputs.shape}: "
                "encode the text first."
            )
        if inputs.shape[1] > self.context:
            raise ValueError(
                f"inputs must have at most context={self.context} tokens, got {inputs.shape[1]}: cut them, or raise "
                "context."
            )
        small = nn.initializers.normal(0.02)
        embed = nn.Embed(self.num_classes, self.width, dtype=self.dtype, embedding_init=small, name="embed")
        position = self.param("position", small, (self.context, self.width))
        x = embed(jnp.maximum(inputs, 0))
        x = x + position[: inputs.shape[1]].astype(x.dtype)
        mask = nn.make_causal_mask(inputs, dtype=jnp.bool_)
        for index in range(self.depth):
            x = Block(self.heads, self.mlp_ratio, self.dtype, name=f"block_{index}")(x, mask)
        features = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        kept = jnp.promote_types(features.dtype, jnp.float32)
        # Factors of the compute dtype and a sum in float32: the head is a third of all work, and losses read logits.
        table = embed.embedding.astype(features.dtype)
        logits = jnp.einsum("btd,vd->btv", features, table, preferred_element_type=kept)
        return Outputs(logits, features.astype(kept))
