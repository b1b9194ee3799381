"""A multilayer perceptron, and the checks and the normalisation that all the models here share."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from ctrain_jax.core._base import Outputs
from ctrain_jax.ops import check_choice, check_fraction, check_size


class MLP(nn.Module):
    """Dense layers with an activation between them, and a linear head.

        h_0 = flatten(x);   h_l = activation(norm(W_l h_{l-1} + b_l));   features = h_L;   logits = W features + b

    Two hidden layers of 400 are the usual network of permuted and rotated MNIST (Hsu et al. 2018, arXiv 1810.12488).

    Args:
        num_classes: width of the head.
        hidden: width of each hidden layer; `()` is a linear model.
        norm: `"none"`, or `"batch"` for BatchNorm (momentum 0.9, epsilon 1e-5) before each activation.
        activation: a function of one array.
        dropout: the share of the units of each hidden layer that are left out in a training step.
        initializer: `"lecun"` draws kernels of variance 1 / fan_in and leaves biases 0, as flax does; `"torch"` draws
            both uniformly within 1 / sqrt(fan_in), as PyTorch does: a third of that variance, which published tables
            depend on.
        dtype: of the computation; parameters, features and logits are float32.

    Raises:
        ValueError: a field, or an input, that it does not accept.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = MLP(num_classes=10, hidden=(32, 16))
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 28, 28)))
        >>> outputs = model.apply(variables, jnp.ones((5, 28, 28)))
        >>> outputs.logits.shape, outputs.features.shape
        ((5, 10), (5, 16))
    """

    num_classes: int
    hidden: Sequence[int] = (400, 400)
    norm: str = "none"
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dropout: float = 0.0
    initializer: str = "lecun"
    dtype: Dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("num_classes", self.num_classes)
        for width in self.hidden:
            check_size("Each width in hidden", width)
        check_choice("norm", self.norm, ("none", "batch"))
        check_choice("initializer", self.initializer, ("lecun", "torch"))
        check_fraction("dropout", self.dropout)

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> Outputs:
        """Answers `inputs` `[B, ...]`, floats; BatchNorm's statistics move when `train` is true."""
        check_floats(inputs)
        x = inputs.reshape(inputs.shape[0], math.prod(inputs.shape[1:]))
        for index, width in enumerate(self.hidden):
            x = nn.Dense(width, dtype=self.dtype, name=f"dense_{index}", **self._drawn(x))(x)
            x = normalize(self.norm, x, train, self.dtype, f"norm_{index}")
            x = nn.Dropout(self.dropout, deterministic=not train)(self.activation(x))
        return head(self.num_classes, x, **self._drawn(x))

    def _drawn(self, x: jax.Array) -> dict[str, Any]:
        """How a layer on top of `x` draws its parameters."""
        if self.initializer == "lecun":
            return {}
        bound = 1 / math.sqrt(x.shape[-1])

        def uniform(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        return {"kernel_init": uniform, "bias_init": uniform}


def head(num_classes: int, x: jax.Array, **drawn: Any) -> Outputs:
    """The last Dense, named `head`, in float32 whatever the compute dtype: losses and buffers read logits."""
    features = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return Outputs(nn.Dense(num_classes, name="head", **drawn)(features), features)


def normalize(norm: str, x: jax.Array, train: bool, dtype: Dtype | None, name: str) -> jax.Array:
    """`x` `[..., C]` normalised by a layer called `name`: `"none"`, `"batch"` or `"group"`.

    The number of groups is `gcd(C, 32)`, the 32 of Wu and He (2018, arXiv 1803.08494) where it divides `C`.
    """
    if norm == "batch":
        return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)(x)
    if norm == "group":
        return nn.GroupNorm(num_groups=math.gcd(x.shape[-1], 32), epsilon=1e-5, dtype=dtype, name=name)(x)
    return x


def check_floats(inputs: jax.Array) -> None:
    """Raises ValueError unless `inputs` are floats `[B, ...]`."""
    if inputs.ndim < 2 or not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            f"inputs must be floats [B, ...], got {inputs.dtype} of shape {inputs.shape}: "
            "cast them (uint8 images: divide by 255) and keep the batch axis."
        )
