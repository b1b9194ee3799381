"""The selective scan: a linear recurrence whose coefficients depend on what it reads.

Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, arXiv 2312.00752. Opened: the
reference in Python of the authors' kernel, as xiaojieli0903/Mamba-FSCIL ships it; the paper was not.
"""

import jax
import jax.numpy as jnp


def selective_scan(
    x: jax.Array, delta: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array | float = 0.0
) -> jax.Array:
    r"""A state space for each channel, discretised anew at each position.

    .. math:: h_t = e^{\Delta_t A} h_{t - 1} + \Delta_t B_t x_t, \qquad y_t = \langle C_t, h_t \rangle + D x_t

    All positions at once, in a number of steps that grows with the logarithm of theirs.

    Args:
        x: `[..., L, D]`, D channels at L positions.
        delta: `[..., L, D]`, above 0: the time that passes.
        a: `[D, N]`, below 0 where states fade.
        b: `[..., L, N]`, what of it enters the N states of a channel.
        c: `[..., L, N]`, what of these is read.
        d: `[D]`, what passes by the states.

    Returns:
        `[..., L, D]`.

    Example:
        >>> ones = jnp.ones((3, 1))
        >>> selective_scan(ones, ones, -jnp.log(2.0) * jnp.ones((1, 1)), ones, ones).ravel().tolist()
        [1.0, 1.5, 1.75]
    """
    decay = jnp.exp(delta[..., None] * a)
    entering = (delta * x)[..., None] * b[..., None, :]

    def both(first, then):
        return first[0] * then[0], then[0] * first[1] + then[1]

    _, h = jax.lax.associative_scan(both, (decay, entering), axis=-3 % decay.ndim)
    return jnp.sum(h * c[..., None, :], -1) + d * x
