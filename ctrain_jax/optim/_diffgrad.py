"""diffGrad: Adam, with smaller steps for a parameter whose gradient hardly changes.

Dubey, Chakraborty, Roy, Mukherjee, Singh and Chaudhuri, "diffGrad: An Optimization Method for Convolutional Neural
Networks", 2019, arXiv 1909.11015. Read at the source: the abstract and the official code (shivram1987/diffGrad). Its
first release kept the previous gradient by reference, so that the difference was always 0 and every step half of
Adam's; `diffGrad_v2.py` keeps a copy, and so do we.

Where we differ: the official code adds eps to the square root of the uncorrected second moment, in effect
`eps / sqrt(1 - b2**t)` beside the corrected one; ours stands beside the corrected one, as in the paper and in
`optax.scale_by_adam`, which computes everything but the friction. Weight decay is left to `optax.chain`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.ops import check_fraction, check_non_negative


class ScaleByDiffgradState(NamedTuple):
    """Adam's moments and the gradient of the step before."""

    adam: optax.OptState  # count int32 [], mu and nu like params
    previous: optax.Updates  # like params, 0 at first


def scale_by_diffgrad(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, eps_root: float = 0.0
) -> optax.GradientTransformationExtraArgs:
    r"""Rescale updates as diffGrad does: `optax.scale_by_adam` times a friction in [1/2, 1).

    .. math:: \xi_t = \mathrm{sigmoid}(|g_{t-1} - g_t|), \quad
      u_t = \xi_t \, \frac{\hat m_t}{\sqrt{\hat v_t + \epsilon_{root}} + \epsilon}, \quad g_0 = 0

    Args:
      b1: decay of the mean of gradients, in [0, 1]; 0.9 in the paper.
      b2: decay of the mean of squared gradients, in [0, 1]; 0.999 in the paper.
      eps: added to the square root; 1e-8 in the paper.
      eps_root: added under the square root, for those who differentiate through an update; 0 in the paper.

    Returns:
      The transform. It keeps three trees like the parameters.

    Raises:
      ValueError: a decay outside of [0, 1] or a negative `eps` or `eps_root`.

    Example:
      >>> tx = scale_by_diffgrad()
      >>> state = tx.init(jnp.zeros(2))
      >>> for _ in range(2):
      ...   update, state = tx.update(jnp.array([0.01, 100.0]), state)
      >>> update.round(3).tolist()  # the gradient stays the same: half of Adam's step
      [0.5, 0.5]
    """
    check_fraction("b1", b1)
    check_fraction("b2", b2)
    check_non_negative("eps", eps)
    check_non_negative("eps_root", eps_root)
    adam = optax.scale_by_adam(b1, b2, eps, eps_root)

    def init(params):
        return ScaleByDiffgradState(adam.init(params), optax.tree.zeros_like(params))

    def update(updates, state, params=None, **extra):
        del extra
        steps, moments = adam.update(updates, state.adam, params)
        friction = jax.tree.map(lambda g, old: jax.nn.sigmoid(jnp.abs(old - g)), updates, state.previous)
        previous = optax.tree.cast_like(updates, state.previous)
        return optax.tree.mul(friction, steps), ScaleByDiffgradState(moments, previous)

    return optax.GradientTransformationExtraArgs(init, update)


def diffgrad(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam whose steps are up to halved where the gradient hardly changes.

    .. math:: \theta_t = \theta_{t-1} - \eta \, u_t

    with :math:`u` as in `scale_by_diffgrad`.

    Args:
      learning_rate: a number or a schedule; 1e-3 in the paper.
      b1: decay of the mean of gradients, in [0, 1]; 0.9 in the paper.
      b2: decay of the mean of squared gradients, in [0, 1]; 0.999 in the paper.
      eps: added to the square root; 1e-8 in the paper.
      eps_root: added under the square root; 0 in the paper.

    Returns:
      The optimizer.

    Raises:
      ValueError: a decay outside of [0, 1] or a negative `eps` or `eps_root`.

    Example:
      >>> params, tx = jnp.array([1.0, -2.0]), diffgrad(0.1)
      >>> state = tx.init(params)
      >>> for _ in range(100):
      ...   update, state = tx.update(2 * params, state)  # the gradient of the squared norm
      ...   params = optax.apply_updates(params, update)
      >>> bool(jnp.abs(params).max() < 0.1)
      True
    """
    return optax.chain(scale_by_diffgrad(b1, b2, eps, eps_root), optax.scale_by_learning_rate(learning_rate))
