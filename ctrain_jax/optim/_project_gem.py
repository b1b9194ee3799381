"""project_gem: the nearest gradient that goes up none of several losses.

Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, arXiv 1706.08840 (equations 8 to
11). The authors' code (facebookresearch/GradientEpisodicMemory) was opened, the paper was not; the margin is what it is
in the code, a lower bound of the dual variables. Where we differ: the dual problem is a non-negative least squares
problem, for `optax.nnls`; the code adds 1e-3 to the diagonal of the Gram matrix, which is most of it where gradients
are small.
"""

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from ctrain_jax.ops import check_non_negative

# Of projected gradient descent in K numbers, under a millisecond. Against an exact solver, the largest error in units
# of |g|, for up to 20 references of 2,000 numbers: 1e-5 where their cosines are 0.8, 1e-4 at 0.98, 2e-4 at 0.9998.
ITERATIONS = 1000


def project_gem(margin: float = 0.5) -> optax.GradientTransformationExtraArgs:
    r"""Project the gradient to where it conflicts with none of K others.

    With the gradient :math:`g` and the references as the rows of :math:`G`, all leaves taken as one vector,

    .. math:: \min_{\tilde g} \frac{1}{2} \|\tilde g - g\|_2^2 \quad \text{where} \quad G \tilde g \ge 0

    by its dual, :math:`\min_{v \ge m} \frac{1}{2} v^T G G^T v + (G g)^T v`, which is K numbers, and
    :math:`\tilde g = g + G^T v`. A margin :math:`m > 0` adds that much of each reference on top, for old losses to
    improve as well. Nothing is changed where no reference conflicts. The update takes `references=`, a tree like the
    updates with a leading axis K, and `active=` bool `[K]`: the others have no effect. No state; it belongs before the
    optimizer.

    Args:
      margin: m, 0 or above; 0 is the projection, and the paper uses 0.5 ("memory strength").

    Returns:
      The transform.

    Raises:
      ValueError: a negative margin; in update: `references` or `active` missing.

    Example:
      >>> tx, updates = project_gem(margin=0.0), jnp.array([-1.0, -1.0, 2.0])
      >>> references = jnp.array([[1.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
      >>> tx.update(updates, tx.init(updates), references=references, active=jnp.array([True, False]))[0].tolist()
      [0.0, -1.0, 2.0]

    References:
      Lopez-Paz and Ranzato 2017, arXiv 1706.08840.
    """
    check_non_negative("margin", margin)

    def update(updates, state, params=None, *, references=None, active=None, **extra):
        if references is None or active is None:
            raise ValueError(
                f"project_gem expects {'references' if references is None else 'active'}= among the extra arguments, "
                "got none: pass the gradients [K, ...] that the updates must not go against, and which count, bool [K]."
            )
        flat, restore = jax.flatten_util.ravel_pytree(optax.tree.cast(updates, jnp.float32))
        stacked = [r.reshape(r.shape[0], -1).astype(jnp.float32) for r in jax.tree.leaves(references)]
        # An inactive reference may hold anything, NaN included.
        rows = jnp.where(active[:, None], jnp.concatenate(stacked, axis=1), 0.0)

        def project():
            length = jnp.linalg.norm(rows, axis=1, keepdims=True)
            directions = rows / jnp.where(length > 0, length, 1.0)
            pushed = flat + margin * rows.sum(0)
            # What the dual variables have above the margin, times the lengths.
            return pushed + optax.nnls(directions.T, -pushed, ITERATIONS) @ directions

        with jax.default_matmul_precision("highest"):
            projected = jax.lax.cond(jnp.any(rows @ flat < 0), project, lambda: flat)
        return jax.tree.map(lambda new, g: new.astype(g.dtype), restore(projected), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
