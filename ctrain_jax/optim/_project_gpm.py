"""project_gpm: keep updates of kernels out of protected directions of their input.

Saha, Garg and Roy, "Gradient Projection Memory for Continual Learning", ICLR 2021, arXiv 2103.09762 (equations 6 and
7). The authors' code (sahagobinda/GPM) was opened: it makes the matrix M M^T beforehand, [d_in, d_in] for each kernel;
here two thin products are taken in each step. Where we differ: nowhere else.
"""

import jax
import jax.numpy as jnp
import optax


def project_gpm() -> optax.GradientTransformationExtraArgs:
    r"""Take from each kernel's update what acts on a given subspace of the kernel's input.

    With :math:`M` an orthonormal basis of the subspace, `[d_in, r]`, and the update :math:`u` as a matrix
    `[d_in, d_out]` (its leading axes are the input: `[kh, kw, c_in, c_out]` is `[kh * kw * c_in, c_out]`),

    .. math:: \tilde u = u - M M^T u

    so that :math:`x^T \tilde u = 0` for every input :math:`x` in the subspace. The update takes `bases=`, a tree like
    the updates with an array `[d_in, r]` for each leaf; unused columns are zero, and a leaf with a basis of no columns,
    `[0, 0]` say, is left as it is. A bias is a kernel whose input is the constant 1: `[[1]]` freezes it. No state.
    Before plain SGD and after it are the same; an optimizer with momentum or scales turns what is projected before it,
    so it belongs after the optimizer.

    Returns:
      The transform.

    Raises:
      ValueError: in update: `bases` missing, a basis that is no matrix, or whose rows are not leading axes of the leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> tx, updates = project_gpm(), jnp.ones((2, 3))
      >>> tx.update(updates, tx.init(updates), bases=jnp.array([[1.0], [0.0]]))[0].tolist()
      [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]

    References:
      Saha et al. 2021, arXiv 2103.09762.
    """

    def update(updates, state, params=None, *, bases=None, **extra):
        if bases is None:
            raise ValueError(
                "project_gpm expects bases= among the extra arguments, a basis [d_in, r] for each leaf, got none: pass "
                "the directions that are protected."
            )
        return jax.tree.map(_project, updates, bases), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _project(update: jax.Array, basis: jax.Array) -> jax.Array:
    if basis.size == 0:
        return update
    if basis.ndim != 2 or update.size % basis.shape[0]:
        raise ValueError(
            f"project_gpm expects for each leaf a basis [d_in, r] whose rows are its leading axes, got {basis.shape} "
            f"for a leaf of shape {update.shape}: give [0, 0] for a leaf that is left as it is."
        )
    matrix = update.reshape(basis.shape[0], -1)
    highest = jax.lax.Precision.HIGHEST
    inside = jnp.matmul(basis, jnp.matmul(basis.T, matrix, precision=highest), precision=highest)
    return (matrix - inside).reshape(update.shape).astype(update.dtype)
