"""Cross-entropy over the classes that are there, so that the others are left alone.

The mask "group" of Lesort et al., "Challenging Common Assumptions about Catastrophic Forgetting and Knowledge
Accumulation", 2023, arXiv 2207.04543: their code (TLESORT/SCoLe-SCaling-Continual-Learning, utils_training.py) was
opened; it sets the other logits to -1e9, where these leave the sum. The first half of the asymmetric cross-entropy of
Caccia et al., 2022, arXiv 2104.05025, is the same.
"""

import jax
import optax


def present_class_ce(logits: jax.Array, labels: jax.Array, present: jax.Array | None = None) -> jax.Array:
    r"""Cross-entropy whose softmax is over some classes; the other logits have no gradient.

    .. math:: - z_y + \log \sum_{c \in P} \exp z_c

    Without `present`, :math:`P` are the classes of the labels given: those of the batch.

    Args:
      logits: `[B, C]`.
      labels: int `[B]`.
      present: bool, `[C]` or `[B, C]`: the classes of the softmax, with that of the label always among them.

    Returns:
      `[B]`.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.zeros((2, 10))
      >>> losses = present_class_ce(logits, jnp.array([3, 7]))  # log 2, and log 10 over all
      >>> print(losses.round(4), present_class_ce(logits, jnp.array([3, 7]), jnp.ones(10, bool)).round(4))
      [0.6931 0.6931] [2.3026 2.3026]
    """
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    where = own | (own.any(0) if present is None else present)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels, where=where)
