"""A holdout that may be asked many times.

Dwork, Feldman, Hardt, Pitassi, Reingold and Roth, "Preserving Statistical Validity in Adaptive Data Analysis", STOC
2015, arXiv 1411.2664, and "Generalization in Adaptive Data Analysis and Holdout Reuse", NeurIPS 2015, arXiv 1506.02629,
whose practical mechanism this is. Opened at the source: the description of it in Communications of the ACM 60(4), 2017,
and a copy of the code of the experiments (andyljones/thresholdout).

Where we differ: noise is Laplace as in the paper; the code of the experiments has normal noise, no budget, and never
draws the threshold again.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ctrain_jax.ops import check_non_negative, check_size


class ThresholdoutState(NamedTuple):
    """What has been spent."""

    threshold: jax.Array  # float32 [], with its noise
    budget: jax.Array  # int32 [], how often the holdout may still speak


class Thresholdout(NamedTuple):
    """A reusable holdout, as pure functions."""

    init: Callable[[jax.Array], ThresholdoutState]  # (rng) -> state
    query: Callable[
        [ThresholdoutState, ArrayLike, ArrayLike, jax.Array], tuple[jax.Array, ThresholdoutState]
    ]  # (state, train_mean, holdout_mean, rng) -> (answer, state)


def thresholdout(threshold: float = 0.04, sigma: float = 0.01, *, budget: int) -> Thresholdout:
    r"""Answer from the training data as long as the holdout agrees.

    .. math:: \hat T = T + \mathrm{Lap}(2 \sigma), \qquad
              \mathrm{answer} = \begin{cases} b + \mathrm{Lap}(\sigma) & |b - a| > \hat T + \mathrm{Lap}(4 \sigma) \\
              a & \text{otherwise} \end{cases}

    for the mean `a` of a question on the training rows and `b` on the holdout. The first case spends one unit of the
    budget and draws :math:`\hat T` again. What is learned about the holdout is thus little, and a choice that follows
    the answers fits the holdout little more than fresh data: ask it wherever the same validation rows choose between
    many hyper-parameters, checkpoints or features. Never look at the holdout beside it.

    Args:
      threshold: `T`, in units of the means. The default of both is for 10,000 rows of questions in [0, 1]; they go with
        one over the root of the number of holdout rows: 4 and 1 of them, in the authors' experiment.
      sigma: scale of the noise. 0 leaves the mere comparison, which protects less.
      budget: how many answers of the holdout there are.

    Returns:
      `Thresholdout`. `init(rng)` gives the state. `query(state, train_mean, holdout_mean, rng)` gives an answer `[]`,
      nan once the budget is spent, and the state; it takes a key of its own each time, and scalars: go over several
      questions with `jax.lax.scan`.

    Raises:
      ValueError: a threshold or a sigma below 0, a budget that is no whole number above 0.

    Example:
      >>> import jax
      >>> from ctrain_jax import metrics
      >>> holdout = metrics.thresholdout(threshold=0.04, sigma=0.0, budget=1)
      >>> state = holdout.init(jax.random.key(0))
      >>> answer, state = holdout.query(state, 0.71, 0.70, jax.random.key(1))
      >>> print(f"{answer:.2f} {state.budget}")   # they agree
      0.71 1
      >>> answer, state = holdout.query(state, 0.90, 0.70, jax.random.key(2))
      >>> print(f"{answer:.2f} {state.budget}")
      0.70 0

    References:
      arXiv 1506.02629, 2015, figure 1; Science 349(6248), 2015.
    """
    check_non_negative("threshold", threshold)
    check_non_negative("sigma", sigma)
    check_size("budget", budget)

    def noisy(rng: jax.Array) -> jax.Array:
        return threshold + 2 * sigma * jax.random.laplace(rng)

    def init(rng: jax.Array) -> ThresholdoutState:
        return ThresholdoutState(jnp.asarray(noisy(rng), jnp.float32), jnp.asarray(budget, jnp.int32))

    def query(
        state: ThresholdoutState, train_mean: ArrayLike, holdout_mean: ArrayLike, rng: jax.Array
    ) -> tuple[jax.Array, ThresholdoutState]:
        train_mean, holdout_mean = jnp.asarray(train_mean, jnp.float32), jnp.asarray(holdout_mean, jnp.float32)
        if train_mean.shape != () or holdout_mean.shape != ():
            raise ValueError(
                f"A question expects two means [], got shapes {train_mean.shape} and {holdout_mean.shape}: ask one at "
                "a time, with jax.lax.scan."
            )
        compare, speak, again = jax.random.split(rng, 3)
        limit = state.threshold + 4 * sigma * jax.random.laplace(compare)
        left = state.budget > 0
        differs = left & (jnp.abs(holdout_mean - train_mean) > limit)
        spoken = holdout_mean + sigma * jax.random.laplace(speak)
        answer = jnp.where(left, jnp.where(differs, spoken, train_mean), jnp.nan)
        fresh = jnp.asarray(noisy(again), jnp.float32)
        return answer, ThresholdoutState(jnp.where(differs, fresh, state.threshold), state.budget - differs)

    return Thresholdout(init, query)
