"""Refined linear decay: a learning-rate schedule from the gradient norms of an earlier run.

Defazio, Cutkosky, Mehta and Mishchenko, "When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement",
2023, arXiv 2310.07831 (its second version: "Optimal Linear Decay Learning Rate Schedules and Further Refinements").
Read at the source: the abstract and the official code (facebookresearch/adaptive_scheduling), which settled the rest:
the median is over a window of a tenth of the run, made odd, that repeats the first norm before the start and mirrors
the norms after the end; w is the norm to the power -2 for SGD, of l2 norms, and -1 for Adam, of l1 norms.

Where we differ: the code draws the norms at a fixed number of points in time and its schedule there; ours has the
length of the run. Linear decay itself, what constant norms give, is `optax.linear_schedule(peak, 0, num_steps)`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from ctrain_jax.ops import check_choice, check_fraction, check_non_negative, check_positive, check_size


def refined_linear_decay(
    grad_norms: ArrayLike, peak_value: float, *, power: float = 2.0, filter_fraction: float = 0.1
) -> optax.Schedule:
    r"""The schedule for a run as long as the one that the norms are of.

    .. math:: \eta_t \propto w_t \sum_{p > t} w_p, \quad w_t = \tilde G_t^{-power}

    with the median-smoothed norms :math:`\tilde G`. Large norms in the beginning give a warm-up. Where all norms are
    equal it is `optax.linear_schedule(peak_value, 0, num_steps - 1)`. Norms come from `record_gradient_norms`.

    Args:
      grad_norms: `[num_steps]` of a run, concrete; for instance one with linear decay.
      peak_value: the largest learning rate.
      power: 2 with l2 norms for SGD; 1 with l1 norms for Adam.
      filter_fraction: the window of the median, as a share of the run; 0.1 in the paper's code.

    Returns:
      The schedule; from step `num_steps - 1` on it is 0.

    Raises:
      ValueError: fewer than two norms, norms that are not finite and above 0 when smoothed (a record that is not full
        ends in zeros), a negative `peak_value`, a `power` that is not above 0, a `filter_fraction` outside of [0, 1].

    Example:
      >>> print(refined_linear_decay([2.0, 1.0, 1.0], 0.1)(np.arange(4)))
      [0.05 0.1  0.   0.  ]
    """
    check_non_negative("peak_value", peak_value)
    check_positive("power", power)
    check_fraction("filter_fraction", filter_fraction)
    norms = np.asarray(grad_norms, np.float64)
    if norms.ndim != 1 or norms.size < 2:
        raise ValueError(f"grad_norms expects one number for each of at least 2 steps, got shape {norms.shape}.")
    smooth = _median(norms, int(filter_fraction * norms.size) // 2)
    if not np.all(np.isfinite(smooth) & (smooth > 0)):
        raise ValueError(
            f"grad_norms must be finite and above 0 when smoothed, got {smooth.min():g} to {smooth.max():g}: give the "
            "norms of a whole run, or a larger filter_fraction."
        )
    weights = (smooth / smooth.min()) ** -power
    shape = weights * _tails(weights)
    values = peak_value * shape / shape.max()
    return lambda count: jnp.asarray(values)[jnp.clip(count, 0, values.size - 1)]


class RecordGradientNormsState(NamedTuple):
    """The norms so far."""

    step: jax.Array  # int32 [], steps so far
    norms: jax.Array  # float32 [num_steps], 0 where no step was yet


def record_gradient_norms(num_steps: int, ord: int = 2) -> optax.GradientTransformationExtraArgs:
    """A transform that passes its updates on and keeps their norms: first in a chain, those of the gradient.

    It runs inside of a compiled loop; `optax.tree.get(opt_state, "norms")` has the norms afterwards.

    Args:
      num_steps: how many norms to keep; later steps are not recorded.
      ord: 2 for the l2 norm over all parameters, 1 for the l1 norm.

    Returns:
      The transform.

    Raises:
      ValueError: a `num_steps` that is not a whole number of at least 1, another `ord`.

    Example:
      >>> tx = optax.chain(record_gradient_norms(3), optax.sgd(0.1))
      >>> update, state = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
      >>> optax.tree.get(state, "norms").tolist()
      [5.0, 0.0, 0.0]
    """
    check_size("num_steps", num_steps)
    check_choice("ord", ord, (1, 2))

    def init(params):
        del params
        return RecordGradientNormsState(jnp.zeros((), jnp.int32), jnp.zeros(num_steps))

    def update(updates, state, params=None, **extra):
        del params, extra
        norm = optax.tree.norm(optax.tree.cast(updates, jnp.float32), ord)
        norms = state.norms.at[state.step].set(norm, mode="drop")
        return updates, RecordGradientNormsState(state.step + 1, norms)

    return optax.GradientTransformationExtraArgs(init, update)


class LastIterateState(NamedTuple):
    """Where the wrapped optimizer is."""

    step: jax.Array  # int32 [], steps so far
    iterate: optax.Params  # z, like params
    base: optax.OptState


def last_iterate(base: optax.GradientTransformation, weights: ArrayLike) -> optax.GradientTransformationExtraArgs:
    r"""Any optimizer, followed so that its last iterate is as good as its weighted average.

    .. math:: x_{t+1} - x_t = \frac{\sum_{p > t} w_p}{\sum_p w_p} (z_{t+1} - z_t)

    where z are the iterates of `base`, fed the gradients at x times :math:`w_t` (theorem 1 of the paper). With SGD and
    equal weights it is SGD with linear decay, with :math:`w = G^{-2}` refined linear decay.

    Args:
      base: the optimizer that z is of, with a constant learning rate.
      weights: w, `[num_steps]`, 0 or above and not all 0.

    Returns:
      The transform; from step `num_steps - 1` on it stands still.

    Raises:
      ValueError: weights that are not finite numbers in one row, negative ones, or none above 0.

    Example:
      >>> tx = last_iterate(optax.sgd(1.0), np.ones(4))
      >>> state = tx.init(jnp.zeros(()))
      >>> for _ in range(4):
      ...   update, state = tx.update(jnp.ones(()), state, jnp.zeros(()))
      ...   print(update)
      -0.75
      -0.5
      -0.25
      -0.0
    """
    check_non_negative("weights", weights)
    values = np.asarray(weights, np.float64)
    if values.ndim != 1 or not 0 < values.sum() < np.inf:
        raise ValueError(
            f"weights expects finite numbers in one row, not all of them 0, got shape {values.shape} and sum "
            f"{values.sum():g}."
        )
    shares = _tails(values) / values.sum()
    base = optax.with_extra_args_support(base)

    def init(params):
        # A copy, so that a loop may donate both.
        return LastIterateState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params), base.init(params))

    def update(updates, state, params=None, **extra):
        del params
        at = jnp.minimum(state.step, values.size - 1)
        weighted = _scaled(jnp.asarray(values)[at], updates)
        moves, inner = base.update(weighted, state.base, state.iterate, **extra)
        new = LastIterateState(state.step + 1, optax.apply_updates(state.iterate, moves), inner)
        return _scaled(jnp.asarray(shares)[at], moves), new

    return optax.GradientTransformationExtraArgs(init, update)


def _median(norms: np.ndarray, half: int) -> np.ndarray:
    """The median over `2 half + 1` steps; the first is repeated before the start, the end is a mirror."""
    padded = np.pad(np.pad(norms, (half, 0), mode="edge"), (0, half), mode="reflect")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=-1)


def _tails(weights: np.ndarray) -> np.ndarray:
    """The sum of what comes after each."""
    return np.append(np.cumsum(weights[:0:-1])[::-1], 0.0)


def _scaled(factor: jax.Array, tree: optax.Updates) -> optax.Updates:
    """The tree times a number, in its own dtypes."""
    return jax.tree.map(lambda x: (factor * x).astype(x.dtype), tree)
