"""The loss of a student that is to answer as its teacher does, through a temperature.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531. Written from the
equations; no code was opened.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def softened_cross_entropy(
    logits: jax.Array, teacher: jax.Array, temperature: ArrayLike = 2.0, where: jax.Array | None = None
) -> jax.Array:
    r"""Cross-entropy between teacher and student, both divided by a temperature.

    .. math:: - \sum_c \mathrm{softmax}(v / \tau)_c \log \mathrm{softmax}(z / \tau)_c

    over the classes of `where`. Its gradient with respect to :math:`z` is
    :math:`(\mathrm{softmax}(z / \tau) - \mathrm{softmax}(v / \tau)) / \tau`; multiply by :math:`\tau^2` to keep it of
    the size of a gradient at temperature 1. Minus the teacher's entropy it is the Kullback-Leibler divergence.

    Args:
      logits: of the student, `[..., C]`; these three are broadcast against each other.
      teacher: logits of the teacher, `[..., C]`; give `jax.lax.stop_gradient` of them where they depend on what is
        trained.
      temperature: above 0; 2 is common.
      where: bool, `[..., C]`: the classes that both softmaxes are over; all by default. A row without a class gives 0.

    Returns:
      `[...]`.

    Example:
      >>> print(softened_cross_entropy(jnp.zeros((1, 4)), jnp.zeros((1, 4))).round(4))  # log 4
      [1.3863]
    """
    logits, teacher, kept = jnp.broadcast_arrays(logits, teacher, True if where is None else where)
    wanted = jax.nn.softmax(teacher / temperature, where=kept)
    # Of a row without a class log_softmax is nan or inf, and so would be its gradient.
    safe = kept | ~kept.any(-1, keepdims=True)
    answered = jax.nn.log_softmax(logits / temperature, where=safe)
    return -jnp.sum(jnp.where(kept, wanted * jnp.where(kept, answered, 0.0), 0.0), -1)
