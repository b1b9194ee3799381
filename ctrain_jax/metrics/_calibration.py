"""Whether probabilities mean what they say.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599 (expected
calibration error); Nixon et al., "Measuring Calibration in Deep Learning", 2019, arXiv 1904.01685 (bins of equal mass);
Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78(1), 1950. Written from
the definitions; none of them was opened.

Where we differ: bins of equal mass are those of the highest probability alone, where Nixon et al. also look at the
other classes.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ctrain_jax.ops import check_size


def expected_calibration_error(
    probabilities: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    num_bins: int = 15,
    adaptive: bool = False,
) -> jax.Array:
    r"""How far confidence is from accuracy, averaged over bins of confidence (ECE).

    .. math:: \mathrm{ECE} = \sum_m \frac{|B_m|}{N} \left| \mathrm{acc}(B_m) - \mathrm{conf}(B_m) \right|
              = \frac{1}{\sum_n w_n}
                \sum_m \left| \sum_{n \in B_m} w_n \left( [\hat y_n = y_n] - \hat p_n \right) \right|

    where :math:`\hat p_n` is the highest probability of row `n` and :math:`\hat y_n` its class. Bin `m` is
    :math:`(m / M, (m + 1) / M]`, counted from 0. The number depends on the bins and is biased upwards where they hold
    few rows: compare what was measured alike.

    Args:
      probabilities: `[N, C]`, not logits.
      labels: int `[N]`.
      weights: `[N]`, 0 for padding; 1 by default.
      num_bins: `M`, 15 in Guo et al.
      adaptive: bins of equal weight instead of equal width; rows of one confidence are told apart by their order.

    Returns:
      `[]`, in [0, 1]; 0 is calibrated. nan where all weights are 0.

    Raises:
      ValueError: shapes that do not belong together, no bin.

    Example:
      >>> from ctrain_jax import metrics
      >>> probabilities = [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]
      >>> error = metrics.expected_calibration_error(probabilities, [0, 1, 1, 1])
      >>> print(f"{error:.2f}")   # half of |0.5 - 0.9| and half of |1 - 0.6|
      0.40

    References:
      arXiv 1706.04599, 2017, equation 3; arXiv 1904.01685, 2019.
    """
    check_size("num_bins", num_bins)
    p, classes, w = _rows(probabilities, labels, weights)
    confidence = p.max(-1)
    excess = w * ((p.argmax(-1) == classes) - confidence)
    if adaptive:
        order = jnp.argsort(confidence)
        own = w[order]
        middle = (jnp.cumsum(own) - own / 2) / w.sum()
        place = jnp.clip(jnp.floor(middle * num_bins).astype(jnp.int32), 0, num_bins - 1)
        excess = excess[order]
    else:
        edges = jnp.linspace(0.0, 1.0, num_bins + 1)
        place = jnp.searchsorted(edges[1:-1], confidence)
    return jnp.abs(jnp.zeros(num_bins).at[place].add(excess)).sum() / w.sum()


def brier_score(probabilities: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> jax.Array:
    r"""Squared distance of probabilities from what happened, of all classes.

    .. math:: \mathrm{BS} = \frac{1}{\sum_n w_n} \sum_n w_n \sum_c \left( p_{nc} - [y_n = c] \right)^2

    A proper score: it is least, in expectation, for the true probabilities. Where two classes are reported as half of
    it, as scikit-learn does, divide by 2.

    Args:
      probabilities: `[N, C]`, not logits.
      labels: int `[N]`.
      weights: `[N]`, 0 for padding; 1 by default.

    Returns:
      `[]`, in [0, 2]; lower is better. nan where all weights are 0.

    Raises:
      ValueError: shapes that do not belong together.

    Example:
      >>> from ctrain_jax import metrics
      >>> print(f"{metrics.brier_score([[0.8, 0.2], [0.5, 0.5]], [0, 1]):.2f}")   # (0.04 + 0.04 + 0.25 + 0.25) / 2
      0.29

    References:
      Brier, Monthly Weather Review 78(1), 1950.
    """
    p, classes, w = _rows(probabilities, labels, weights)
    happened = jax.nn.one_hot(classes, p.shape[-1])
    return jnp.sum(w * jnp.sum((p - happened) ** 2, -1)) / w.sum()


def _rows(
    probabilities: ArrayLike, labels: ArrayLike, weights: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    # Half precision is too coarse for bins.
    p, classes = jnp.asarray(probabilities, jnp.float32), jnp.asarray(labels)
    w = jnp.ones(classes.shape) if weights is None else jnp.asarray(weights, jnp.float32)
    if p.ndim != 2 or classes.shape != p.shape[:1] or w.shape != p.shape[:1]:
        raise ValueError(
            f"Calibration expects probabilities [N, C], labels [N] and weights [N], got {p.shape}, {classes.shape} and "
            f"{w.shape}: give one of each for every row, and use vmap for seeds."
        )
    return p, classes, w
