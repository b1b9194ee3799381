"""SAM: step with the gradient of the worst point nearby, to end in flat minima.

Foret, Kleiner, Mobahi and Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving Generalization", 2020,
arXiv 2010.01412. Written from its equations 2 and 3 (p = 2); of code, only `optax.contrib.sam` was opened. That one
takes no extra arguments but `grad_fn(params, i)`, and by default spends a call of update on each of its two gradients;
this one is a step of the wrapped optimizer for each call, and hands on every extra argument.

Where we differ: nowhere; the adaptive variant (ASAM) is not here.
"""

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.ops import check_non_negative


def sam(base: optax.GradientTransformation, rho: float = 0.05) -> optax.GradientTransformationExtraArgs:
    r"""Hand `base` the gradient at the end of an ascent of length rho.

    .. math:: \epsilon = \rho \, \frac{g}{\|g\|_2}, \quad \tilde g = \nabla L(\theta + \epsilon)

    The norm is over all parameters that it sees: over a group, inside of `optax.partition` or `optax.masked`. What goes
    before the optimizer belongs in `base` (`sam(optax.chain(clip, adam))`), as the gradient is computed anew.

    Args:
      base: the optimizer, with extra arguments or without; it is given all but the gradient unchanged.
      rho: length of the ascent, in units of the parameters; 0.05 in the paper. With 0 it is `base`.

    Returns:
      The optimizer; its state is that of `base`. Its update needs `params`, and among the extra arguments
      `grad_fn(params) -> gradient`, of the same batch, as `core.make_learner` gives it: two gradients for each step.

    Raises:
      ValueError: a negative `rho`; in update: `params` or `grad_fn` missing.

    Example:
      >>> loss = lambda x: jnp.sum(x**4)
      >>> params, tx = jnp.array([1.0, 0.0]), sam(optax.sgd(0.1), rho=0.5)
      >>> update, _ = tx.update(jax.grad(loss)(params), tx.init(params), params, grad_fn=jax.grad(loss))
      >>> print(update)  # the gradient at 1.5 is 13.5
      [-1.35 -0.  ]
    """
    check_non_negative("rho", rho)
    base = optax.with_extra_args_support(base)

    def update(updates, state, params=None, *, grad_fn=None, **extra):
        if params is None or grad_fn is None:
            raise ValueError(
                f"sam expects {'params' if params is None else 'grad_fn among the extra arguments'}, got none: call "
                "update(grads, state, params, grad_fn=jax.grad(loss)), with the loss of this step as a function of "
                "params."
            )
        norm = optax.tree.norm(optax.tree.cast(updates, jnp.float32))
        scale = rho / jnp.where(norm > 0, norm, 1.0)
        there = jax.tree.map(lambda p, g: (p + scale * g).astype(p.dtype), params, updates)
        return base.update(grad_fn(there), state, params, grad_fn=grad_fn, **extra)

    return optax.GradientTransformationExtraArgs(base.init, update)
