"""An image tower and a text tower that answer with the names of classes, as CLIP does.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv 2103.00020.
Where we differ: small; the scale is a number and not trained. Written from the description; no code was opened.
"""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ctrain_jax.core._base import Outputs
from ctrain_jax.models._gpt import GPT
from ctrain_jax.models._transformer import check_transformer
from ctrain_jax.models._vit import ViT
from ctrain_jax.ops import check_positive, check_size, unit


class Clip(nn.Module):
    """A `ViT` and a causal transformer over the tokens of each class's name, into one space.

        logits_c = scale * unit(image(x)) . unit(text(name_c));   features = unit(image(x))

    A class is known by its name alone: a new one adds no parameter. The text tower answers at the last token.

    Args:
        num_classes: number of names.
        names: `[num_classes, T]`, the tokens of each name, from 0; of one length.
        dim: of the common space.
        patch: of the image tower.
        width, depth, heads, mlp_ratio: of both towers.
        scale: of the cosines; 100 is where CLIP's ends.
        vocabulary: number of tokens; by default as many as the names need.

    Raises:
        ValueError: a field, or an input, that it does not accept.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = Clip(3, names=((0, 1), (0, 2), (3, 1)), dim=8, width=16, depth=1)
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 28, 28)))
        >>> outputs = model.apply(variables, jnp.ones((5, 28, 28)))
        >>> outputs.logits.shape, outputs.features.shape
        ((5, 3), (5, 8))
    """

    num_classes: int
    names: Sequence[Sequence[int]]
    dim: int = 32
    patch: int = 7
    width: int = 32
    depth: int = 2
    heads: int = 4
    mlp_ratio: int = 4
    scale: float = 20.0
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_transformer(self)
        check_size("dim", self.dim)
        check_positive("scale", self.scale)
        names = [list(name) if isinstance(name, Iterable) else [] for name in self.names]
        lengths = {len(name) for name in names}
        if len(self.names) != self.num_classes or len(lengths) != 1 or min(lengths) < 1:
            raise ValueError(
                f"names must be {self.num_classes} lists of tokens of one length, got {len(self.names)} of lengths "
                f"{sorted(lengths)}."
            )
        tokens = np.asarray(names)
        if not np.issubdtype(tokens.dtype, np.integer):
            raise ValueError(f"names must be of tokens, whole numbers from 0, got {names[0]}: encode the text first.")
        if tokens.min() < 0 or tokens.max() >= self._vocabulary():
            raise ValueError(
                f"names must be of tokens from 0 to below vocabulary={self._vocabulary()}, got {tokens.min()} to "
                f"{tokens.max()}."
            )

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> Outputs:
        """Answers `inputs` `[B, H, W, C]` or `[B, H, W]`, floats; `train` changes nothing here."""
        names, shape = jnp.asarray(self.names), (self.width, self.depth, self.heads, self.mlp_ratio)
        image = ViT(self.dim, self.patch, *shape, name="image")(inputs).logits
        text = GPT(self._vocabulary(), *shape, context=names.shape[1], name="text")(names).features
        text = nn.Dense(self.dim, use_bias=False, name="text_projection")(jnp.asarray(text)[:, -1])
        places = unit(image)
        return Outputs(self.scale * places @ unit(text).T, places)

    def _vocabulary(self) -> int:
        needed = 1 + max(token for name in self.names for token in name)
        return needed if self.vocabulary is None else self.vocabulary
