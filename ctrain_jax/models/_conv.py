"""A convolution that stays fast inside a compiled loop on CPU.

Inside `lax.scan`, `lax.fori_loop` or `lax.while_loop` XLA's CPU backend falls back to a convolution many times slower
than the one it uses outside. There the layer gathers the patches of the image by `kh * kw` shifted strided slices and
does one matrix product (Chellapilla, Puri and Simard 2006, "High performance convolutional neural networks for
document processing"); on accelerators it is `jax.lax.conv_general_dilated`.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype, Initializer


class Conv(nn.Module):
    """A 2-D convolution over `[B, H, W, C]`, with the parameters and the values of `flax.linen.Conv`.

        y[b, h, w, o] = bias[o] + sum_{i, j, c} kernel[i, j, c, o] x[b, h sh + i dh - top, w sw + j dw - left, c]

    `kernel` is `[kh, kw, C / groups, features]` and `bias` is `[features]`: trees of `flax.linen.Conv` load as they
    are. Which program is built is decided when it is traced, by `jax.default_backend()`. The patches and
    `jax.lax.conv_general_dilated` differ by the order of their sums alone; relative to the largest entry, the output
    and both gradients by at most 5e-6 in float32, and in bfloat16 by 2^-8, one unit in the last place, except that the
    gradient of the inputs, a sum of `kh kw` rounded terms, may differ by 2^-7 sqrt(kh kw).

    Args:
        features: number of output channels.
        kernel_size: `(kh, kw)`.
        strides: `s` or `(sh, sw)`.
        padding: `"SAME"`, `"VALID"`, `p`, or for each of the two axes `p` or `(low, high)`; zeros are padded.
        kernel_dilation: `d` or `(dh, dw)`, the step between two taps of the kernel.
        feature_group_count: number of groups; divides both the input channels and `features`.
        use_bias: whether a bias is added.
        dtype: of the computation; None infers it from inputs and parameters.
        param_dtype: of the parameters.
        kernel_init: initializer of the kernel.
        bias_init: initializer of the bias.

    Raises:
        ValueError: a field, or an input, that it does not accept.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> layer = Conv(features=8, kernel_size=(3, 3), strides=2)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 9, 9, 3)))
        >>> jax.tree.map(jnp.shape, variables["params"])
        {'bias': (8,), 'kernel': (3, 3, 3, 8)}
        >>> layer.apply(variables, jnp.ones((4, 9, 9, 3))).shape
        (4, 5, 5, 8)
    """

    features: int
    kernel_size: Sequence[int]
    strides: int | Sequence[int] = 1
    padding: str | int | Sequence[int | tuple[int, int]] = "SAME"
    kernel_dilation: int | Sequence[int] = 1
    feature_group_count: int = 1
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.kernel_size, Integral):
            raise ValueError(
                f"kernel_size must be a pair (kh, kw), got {self.kernel_size}: write "
                f"({self.kernel_size}, {self.kernel_size})."
            )
        for name in ("kernel_size", "strides", "kernel_dilation"):
            _pair(name, getattr(self, name))
        _padding(self.padding)
        groups = self.feature_group_count
        if self.features < 1 or groups < 1 or self.features % groups:
            raise ValueError(
                f"features must be a positive multiple of feature_group_count, got features={self.features} and "
                f"feature_group_count={groups}: change one of them."
            )

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Convolves `inputs` `[B, H, W, C]` to `[B, H', W', features]`."""
        pads = self._pads(inputs)
        groups, channels = self.feature_group_count, inputs.shape[-1]
        if channels % groups:
            raise ValueError(
                f"The channels of the inputs must be a multiple of feature_group_count={groups}, got {channels}: "
                "change the number of groups."
            )
        kernel_shape = (*self.kernel_size, channels // groups, self.features)
        kernel = self.param("kernel", self.kernel_init, kernel_shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        inputs, kernel, bias = promote_dtype(inputs, kernel, bias, dtype=self.dtype)

        # `jax.lax.platform_dependent` would trace both programs, for a third more tracing time and the same step.
        if jax.default_backend() != "cpu":
            outputs = jax.lax.conv_general_dilated(
                inputs,
                kernel,
                window_strides=_pair("strides", self.strides),
                padding=pads,
                rhs_dilation=_pair("kernel_dilation", self.kernel_dilation),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=groups,
            )
        else:
            patches = self._patches(inputs, pads)
            if groups == 1:
                outputs = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, self.features)
            else:
                taps = kernel.shape[0] * kernel.shape[1]
                grouped = patches.reshape(-1, taps, groups, channels // groups)
                kernel = kernel.reshape(taps, channels // groups, groups, self.features // groups)
                outputs = jnp.einsum("nkgc,kcgo->ngo", grouped, kernel)
            outputs = outputs.reshape(*patches.shape[:3], self.features)
        return outputs if bias is None else outputs + bias

    @nn.nowrap
    def unfold(self, inputs: jax.Array) -> jax.Array:
        """The patches that the kernel sees: `unfold(x) @ kernel.reshape(-1, features)` is the convolution of `x`.

        It reads no parameters, so it works on a bound and on an unbound layer, inside an interceptor too.

        Args:
            inputs: `[B, H, W, C]`.

        Returns:
            `[B, H' * W', kh * kw * C]`, in the dtype of `inputs`.

        Raises:
            ValueError: the layer is grouped, or an input that it does not accept.

        Example:
            >>> import jax.numpy as jnp
            >>> Conv(features=1, kernel_size=(2, 2), padding="VALID").unfold(jnp.arange(6.0).reshape(1, 2, 3, 1))
            Array([[[0., 1., 3., 4.],
                    [1., 2., 4., 5.]]], dtype=float32)
        """
        if self.feature_group_count != 1:
            raise ValueError(
                f"unfold needs feature_group_count=1, got {self.feature_group_count}: "
                "a grouped kernel is not one matrix, so unfold each group by itself."
            )
        patches = self._patches(inputs, self._pads(inputs))
        return patches.reshape(patches.shape[0], -1, patches.shape[-1])

    @nn.nowrap
    def _pads(self, inputs: jax.Array) -> list[tuple[int, int]]:
        if inputs.ndim != 4:
            raise ValueError(
                f"Conv expects inputs [B, H, W, C], got shape {inputs.shape}: add the axes that are missing."
            )
        strides, dilation = _pair("strides", self.strides), _pair("kernel_dilation", self.kernel_dilation)
        window = [(k - 1) * d + 1 for k, d in zip(self.kernel_size, dilation, strict=True)]
        size, padding = inputs.shape[1:3], _padding(self.padding)
        pads = jax.lax.padtype_to_pads(size, window, strides, padding) if isinstance(padding, str) else padding
        if any(n + low + high < k for n, (low, high), k in zip(size, pads, window, strict=True)):
            raise ValueError(
                f"An image of {size[0]} x {size[1]} with padding {self.padding!r} is smaller than the kernel, "
                f"{window[0]} x {window[1]} with its dilation: pad more or use a smaller kernel."
            )
        return [(int(low), int(high)) for low, high in pads]

    @nn.nowrap
    def _patches(self, inputs: jax.Array, pads: list[tuple[int, int]]) -> jax.Array:
        """`[B, H', W', kh * kw * C]`, the channel fastest, then the column, then the row of the kernel."""
        (kh, kw), (sh, sw) = self.kernel_size, _pair("strides", self.strides)
        dh, dw = _pair("kernel_dilation", self.kernel_dilation)
        zero = jnp.zeros((), inputs.dtype)
        padded = jax.lax.pad(inputs, zero, [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)])
        _, height, width, _ = padded.shape
        rows, columns = height - (kh - 1) * dh, width - (kw - 1) * dw
        shifted = [
            padded[:, i * dh : i * dh + rows : sh, j * dw : j * dw + columns : sw] for i in range(kh) for j in range(kw)
        ]
        return jnp.concatenate(shifted, axis=-1)


def _ints(value: Any) -> tuple[int, ...]:
    """An int twice, a sequence of ints as it is, and anything else as the empty tuple."""
    if isinstance(value, Integral):
        return int(value), int(value)
    if isinstance(value, Sequence) and all(isinstance(v, Integral) for v in value):
        return tuple(int(v) for v in value)
    return ()


def _pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    pair = _ints(value)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name} must be a positive int or a pair of them, got {value!r}: Conv is two-dimensional.")
    return pair[0], pair[1]


def _padding(padding: Any) -> str | list[tuple[int, int]]:
    if padding in ("SAME", "VALID"):
        return padding
    sides = (padding, padding) if isinstance(padding, Integral) else padding
    pairs = [_ints(side) for side in sides] if isinstance(sides, Sequence) else []
    if len(pairs) != 2 or any(len(pair) != 2 for pair in pairs):
        raise ValueError(
            'padding must be "SAME", "VALID", an int, or for each of the two axes an int or a pair (low, high), got '
            f'{padding!r}: for anything else pad the inputs with jnp.pad and use "VALID".'
        )
    return [(low, high) for low, high in pairs]
