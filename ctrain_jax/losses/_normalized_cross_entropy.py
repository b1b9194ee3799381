"""Cross-entropy of logits of one length: a row can be told apart better, but not by larger numbers.

Wei et al., "Mitigating Neural Network Overconfidence with Logit Normalization", ICML 2022, arXiv 2205.09310. Written
from the equations; no code was opened.
"""

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.ops import unit


def normalized_cross_entropy(
    logits: jax.Array, labels: jax.Array, temperature: jax.typing.ArrayLike = 0.1, where: jax.Array | None = None
) -> jax.Array:
    r"""Cross-entropy of logits divided by their length and a temperature.

    .. math:: -\log \mathrm{softmax}\left(\frac{z}{\tau \|z\|_2}\right)_y

    over the classes of `where`, length included. All logits of a row times a positive number give the same loss.

    Args:
      logits: `[B, C]`.
      labels: int `[B]`.
      temperature: :math:`\tau`, above 0.
      where: bool, `[C]` or `[B, C]`: the classes of length and softmax, with that of the label among them; all by
        default.

    Returns:
      `[B]`.

    Example:
      >>> print(normalized_cross_entropy(jnp.array([[3.0, 4.0]]), jnp.array([1]), 1.0).round(4))  # of 0.6 and 0.8
      [0.5981]
    """
    kept = True if where is None else where
    lengthless = unit(jnp.where(kept, logits, 0.0)) / temperature
    return optax.softmax_cross_entropy_with_integer_labels(lengthless, labels, where=where)
