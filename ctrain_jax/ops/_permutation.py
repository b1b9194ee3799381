"""A keyed permutation of `[0, size)`, evaluated at single points.

The swap-or-not shuffle of Hoang, Morris and Rogaway, "An enciphering scheme based on a card shuffle", CRYPTO 2012,
arXiv 1208.1176. Each round is an involution that pairs `x` with `K - x mod size` and swaps the two or not, so the
whole is a bijection for every size, without the padding and cycle walking of a Feistel network. Where we differ: the
round function is a mixer of 32 bits (the finalizer of MurmurHash3) and not a cipher: good for shuffling, no secret.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

_GOLDEN = 0x9E3779B9


def permute_index(key: jax.Array, index: ArrayLike, size: ArrayLike, *, rounds: int = 24) -> jax.Array:
    """The places that a random permutation of `[0, size)` gives to `index`, in time and memory of `index` alone.

        x <- x if bit_r(max(x, K_r - x mod size)) else K_r - x mod size,    r = 1 .. rounds

    A round moves a position with probability 1/2, and two positions keep their distance with probability 1/2: what is
    beyond chance, fixed points and neighbours that stay together, falls as `2**-rounds`. There are
    `1 + size * 2**-rounds` fixed points; measured for size 12,000 over 20,000 keys: 48 after 8 rounds, 4.0 after 12,
    1.2 after 16, 1.0 after 24 (1.06 are expected for a million). Chi-square tests for sizes 2 to 5 (all permutations),
    7, 12, 100 and 12,000 (where 0 and the pair (0, 1) land) fail after 4 and 8 rounds.

    Args:
        key: a key of `jax.random.key`; each key is a permutation.
        index: integers in `[0, size)`, of any shape.
        size: integer scalar from 1 to 2**31 - 1; may be traced, so that it can change inside a compiled loop.
        rounds: number of rounds.

    Returns:
        int32 array of the shape of `index`, in `[0, size)`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> order = permute_index(jax.random.key(0), jnp.arange(6), 6)
        >>> sorted(order.tolist())
        [0, 1, 2, 3, 4, 5]

    References:
        Hoang, Morris and Rogaway 2012, arXiv 1208.1176 (written from the definition; the paper was not opened).
    """
    index, size = jnp.asarray(index, jnp.int32), jnp.asarray(size, jnp.int32)
    words = _round_words(key, rounds)
    pivots = (words[:, 0] % size.astype(jnp.uint32)).astype(jnp.int32)
    for pivot, salt in zip(pivots, words[:, 1], strict=True):
        partner = pivot - index
        partner = jnp.where(partner < 0, partner + size, partner)
        larger = jnp.maximum(index, partner).astype(jnp.uint32)
        swap = _mix(larger ^ salt) >> 31 == 1
        index = jnp.where(swap, partner, index)
    return index


def _round_words(key: jax.Array, rounds: int) -> jax.Array:
    """uint32 [rounds, 2], from the 64 bits of the key."""
    data = jax.random.key_data(key)
    if data.shape != (2,):
        data = jax.random.bits(key, (2,), jnp.uint32)
    counter = jnp.arange(1, 2 * rounds + 1, dtype=jnp.uint32) * jnp.uint32(_GOLDEN)
    return _mix(_mix(counter + data[1]) ^ _mix(data[0] + jnp.uint32(_GOLDEN)) ^ counter).reshape(rounds, 2)


def _mix(bits: jax.Array) -> jax.Array:
    """A bijection of uint32 in which every input bit moves every output bit."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
