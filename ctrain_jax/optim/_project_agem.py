"""project_agem: keep the step from going up a reference loss.

Chaudhry, Ranzato, Rohrbach and Elhoseiny, "Efficient Lifelong Learning with A-GEM", ICLR 2019, arXiv 1812.00420
(equation 11). Written from the equation; the projection of the authors' code (facebookresearch/agem) was read, which
divides by <r, r> as it is, and that of GMvandeVen/continual-learning, which adds 1e-7 to it. Where we differ: nothing
is added, and where the reference is 0 the gradient passes.
"""

import jax
import jax.numpy as jnp
import optax


def project_agem() -> optax.GradientTransformationExtraArgs:
    r"""Project the gradient to where it does not conflict with another one.

    With the gradient :math:`g` and the reference :math:`r`, all leaves taken as one vector,

    .. math:: \tilde g = g - \frac{\min(\langle g, r \rangle, 0)}{\langle r, r \rangle} \, r

    which is the nearest vector with :math:`\langle \tilde g, r \rangle \ge 0`. The update takes `reference=`, a tree
    like the updates; a reference of zeros leaves the updates as they are. No state; it belongs before the optimizer.

    Returns:
      The transform.

    Raises:
      ValueError: in update: `reference` missing.

    Example:
      >>> tx = project_agem()
      >>> updates, reference = jnp.array([1.0, -1.0]), jnp.array([0.0, 2.0])
      >>> tx.update(updates, tx.init(updates), reference=reference)[0]
      Array([1., 0.], dtype=float32)

    References:
      Chaudhry et al. 2019, arXiv 1812.00420.
    """

    def update(updates, state, params=None, *, reference=None, **extra):
        if reference is None:
            raise ValueError(
                "project_agem expects reference= among the extra arguments, a tree like the updates, got none: pass "
                "the gradient that the updates must not go against."
            )
        conflict = jnp.minimum(optax.tree.vdot(updates, reference), 0.0)
        length = optax.tree.norm(reference, squared=True)
        factor = conflict / jnp.where(length > 0, length, 1.0)
        return jax.tree.map(lambda g, r: g - (factor * r).astype(g.dtype), updates, reference), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
