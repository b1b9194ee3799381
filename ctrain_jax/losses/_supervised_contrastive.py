"""The supervised contrastive loss: rows of one class attract each other, all others repel.

Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv 2004.11362, equation 2 (the sum over positives
outside of the logarithm). Written from the equation; the authors' code, kept in RaptorMai/online-continual-learning,
was opened. Where we differ: a row without another of its class gives 0, where theirs divides by 0. `ntxent` of optax is
another loss: its denominator leaves the other positives out, and it takes no mask.
"""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike


def supervised_contrastive(
    features: jax.Array, labels: jax.Array, temperature: ArrayLike = 0.1, where: jax.Array | None = None
) -> jax.Array:
    r"""The contrast of each row with those of its class, among all others.

    With :math:`z_i` the features divided by their norm and :math:`P_i` the other rows of the label of row :math:`i`,

    .. math:: - \frac{1}{|P_i|} \sum_{p \in P_i}
              \log \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{a \ne i} \exp(z_i \cdot z_a / \tau)}

    Args:
      features: `[B, D]`; views of one input are rows of one label.
      labels: int `[B]`.
      temperature: above 0; the default of their code is 0.07.
      where: bool `[B]`, the rows that take part; all by default.

    Returns:
      `[B]`; 0 for a row that takes no part, or that is alone with its label.

    Example:
      >>> rows = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
      >>> losses = supervised_contrastive(rows, jnp.array([0, 0, 1]), 1.0)
      >>> [round(loss, 4) for loss in losses.tolist()]  # log(1 + exp(-1)), and nothing for the one that is alone
      [0.3133, 0.3133, 0.0]
    """
    there = jnp.ones(labels.shape, bool) if where is None else where
    units = features / optax.safe_norm(features, 1e-12, axis=-1, keepdims=True)
    similarity = units @ units.T / temperature
    others = there[None, :] & ~jnp.eye(labels.shape[0], dtype=bool)
    positives = others & (labels[:, None] == labels[None, :]) & there[:, None]
    costs = jax.nn.logsumexp(similarity, axis=-1, keepdims=True, where=others) - similarity
    return jnp.sum(costs, axis=-1, where=positives) / jnp.maximum(positives.sum(-1), 1)
