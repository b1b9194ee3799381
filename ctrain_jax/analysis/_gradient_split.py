"""The gradient of each term of a loss: how strong it is, and whether the terms agree.

De Lange, van de Ven and Tuytelaars, "Continual evaluation for lifelong learning: Identifying the stability gap", ICLR
2023, arXiv 2205.13452, split the gradient of a continual learner in a plasticity gradient, of the current data, and a
stability gradient, of what protects the past; right after a task change the second is almost zero, whence the gap.
Their abstract was opened, not the rest of the paper or their code.

Where we differ: any number of terms, by name.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class GradientSplit(NamedTuple):
    """What the gradients of the terms of a loss look like, by the names of the terms."""

    norms: dict[str, jax.Array]  # {term: float32 []}
    cosines: dict[str, dict[str, jax.Array]]  # {term: {other term: float32 []}}, both ways


def gradient_split(losses: Mapping[str, Callable[[optax.Params], jax.Array]], params: optax.Params) -> GradientSplit:
    r"""Norms :math:`\|g_a\|_2` of the gradients of each term of a loss, and their cosines.

    .. math:: g_a = \nabla_\theta \ell_a(\theta), \qquad \cos(a, b) = \frac{g_a^\top g_b}{\|g_a\|_2 \|g_b\|_2}

    A negative cosine is a conflict: a small step along one term makes the other one worse. Holds all gradients at a
    time.

    Args:
      losses: {name of a term: params -> scalar}, with the weights that the terms have in the loss.
      params: where.

    Returns:
      A `GradientSplit`; the cosine with a gradient of zero is 0.

    Raises:
      ValueError: no term.

    Example:
      >>> import jax.numpy as jnp
      >>> from ctrain_jax import analysis
      >>> terms = {"new": lambda p: 3 * p[0], "old": lambda p: jnp.sum(p**2) / 2}
      >>> split = analysis.gradient_split(terms, jnp.array([-3.0, 4.0]))  # gradients (3, 0) and (-3, 4)
      >>> print({name: f"{norm:.1f}" for name, norm in split.norms.items()}, f"{split.cosines['new']['old']:.1f}")
      {'new': '3.0', 'old': '5.0'} -0.6

    References:
      arXiv 2205.13452, 2022.
    """
    if not losses:
        raise ValueError("gradient_split expects at least one term, got none: give {name: params -> scalar}.")
    # Sums of squares of half-precision gradients would overflow.
    grads = {name: optax.tree.cast(jax.grad(loss)(params), jnp.float32) for name, loss in losses.items()}
    norms = {name: optax.tree.norm(g) for name, g in grads.items()}

    def cosine(a: str, b: str) -> jax.Array:
        size = norms[a] * norms[b]
        return jnp.where(size > 0, optax.tree.vdot(grads[a], grads[b]) / jnp.where(size > 0, size, 1.0), 0.0)

    return GradientSplit(norms, {a: {b: cosine(a, b) for b in grads if b != a} for a in grads})
