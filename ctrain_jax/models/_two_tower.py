"""Two networks for the two views of a row, into one space."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from ctrain_jax.core._base import Outputs
from ctrain_jax.models._mlp import MLP
from ctrain_jax.ops import unit


class TwoTower(nn.Module):
    """An `MLP` for each half of an input: where the two views of a row lie in a common space.

        a, b = the halves of x;   logits = [unit(first(a)), unit(second(b))]

    The halves are those of axis 1: the upper and the lower half of an image, or two vectors one after the other. What
    is asked of it is which view belongs to which; `continual.ctp` asks that.

    Args:
        num_classes: width of the common space.
        hidden: width of each hidden layer of a tower.
        norm, activation, dropout, initializer, dtype: as in `MLP`.

    Raises:
        ValueError: a field, or an input, that it does not accept.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = TwoTower(num_classes=8, hidden=(16,))
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 28, 28)))
        >>> outputs = model.apply(variables, jnp.ones((5, 28, 28)))
        >>> outputs.logits.shape, outputs.features.shape
        ((5, 2, 8), (5, 32))
    """

    num_classes: int
    hidden: Sequence[int] = (400, 400)
    norm: str = "none"
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dropout: float = 0.0
    initializer: str = "lecun"
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> Outputs:
        """Answers `inputs` `[B, 2 N, ...]`, floats: `[B, 2, num_classes]` and the features of both towers."""
        if inputs.ndim < 2 or inputs.shape[1] % 2:
            raise ValueError(
                f"inputs must be pairs [B, 2 N, ...], one view after the other in axis 1, got shape {inputs.shape}."
            )
        fields = (self.num_classes, self.hidden, self.norm, self.activation, self.dropout, self.initializer, self.dtype)
        views = jnp.split(inputs, 2, axis=1)
        first, second = (MLP(*fields, name=name)(x, train) for name, x in zip(("first", "second"), views, strict=True))
        features = jnp.concatenate([jnp.asarray(tower.features) for tower in (first, second)], axis=-1)
        return Outputs(jnp.stack([unit(first.logits), unit(second.logits)], axis=1), features)
