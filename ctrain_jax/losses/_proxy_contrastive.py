"""The proxy-based contrastive loss: a softmax over the classes of the batch, each counted as often as it has rows.

Lin, Zhang, Feng, Li and Ye, "PCR: Proxy-based Contrastive Replay for Online Class-Incremental Continual Learning", CVPR
2023, arXiv 2304.04408. Of the paper the beginning was opened; its authors' code (FelixHuiweiLin/PCR, utils/loss.py) was
as well: it puts the weight vector of each row's class beside the row and takes the contrast with all of them. Where we
differ: nowhere; it is written as the cross-entropy over present classes of logits to which the logarithms of their
counts are added, which is equal.
"""

import jax
import jax.numpy as jnp

from ctrain_jax.losses._present_class_ce import present_class_ce


def proxy_contrastive(logits: jax.Array, labels: jax.Array, where: jax.Array | None = None) -> jax.Array:
    r"""The contrast of each row with the proxies of all rows: a class has one, and it enters once for each row.

    With :math:`n_c` the rows of class :math:`c`, and :math:`z_{jc}` the nearness of row :math:`j` to the proxy of
    :math:`c`, over a temperature,

    .. math:: - \log \frac{\exp z_{j y_j}}{\sum_i \exp z_{j y_i}} = - z_{j y_j} + \log \sum_c n_c \exp z_{jc}

    Proxies of absent classes have no gradient. Where every class comes :math:`n` times it is the cross-entropy over
    these classes, plus :math:`\log n`.

    Args:
      logits: :math:`z`, `[B, C]`.
      labels: int `[B]`.
      where: bool `[B]`, the rows that are counted; all by default.

    Returns:
      `[B]`; that of a row which is not counted is of no use.

    Example:
      >>> losses = proxy_contrastive(jnp.zeros((3, 10)), jnp.array([7, 7, 2]))
      >>> print(losses.round(4))  # log 3: two proxies of class 7 and one of class 2
      [1.0986 1.0986 1.0986]
    """
    there = jnp.ones(labels.shape, bool) if where is None else where
    counts = jnp.zeros(logits.shape[-1]).at[labels].add(there)
    often = jnp.log(jnp.maximum(counts, 1.0)).astype(logits.dtype)
    return present_class_ce(logits + often, labels, counts > 0) + often[labels]
