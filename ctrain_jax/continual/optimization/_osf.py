"""OSF: orthogonal subspace fine-tuning.

Nayak, Killamsetty, Han, Bhandwaldar et al., "Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual
Learning", 2025, arXiv 2504.07097. Opened: the authors' first code (Red-Hat-AI-Innovation-Team/orthogonal-subspace-
learning), the projections of their later one (mini_trainer, `osft_utils.py`), OSF in huggingface/peft, and notes on the
paper; the paper was not. All of these train the factors of the low part, kept orthogonal to the high part; here the
kernel itself is trained, with the same promise. The projection comes after the optimizer, which mini_trainer does as
well; the other codes project gradients, which AdamW turns. Where we differ: all kernels are constrained by default,
where the authors leave embeddings and the head free; the share is the same in every experience, where the first code's
script adds 0.07 (of the larger side) with every task; the paper's share by the cosine of a layer's inputs and outputs,
commented out in the first code, is not here (in perceptrons these cosines scatter around 0): give each layer its share
in `keep`, as in peft.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Method, PyTree, after
from ctrain_jax.ops import check_fraction, check_pattern, matrix_shape


class OsfState(NamedTuple):
    """How much of each kernel is kept, and what."""

    keep: dict[str, jax.Array]  # {pattern: float32 []}
    left: PyTree  # for each parameter [rows, rank] float32, left singular vectors, then zeros; [0, 0]: trained freely
    right: PyTree  # [columns, rank], the right ones


def osf(keep: float | Mapping[str, float] = 0.5, *, pretrained: bool = False) -> Method:
    r"""Train kernels in the directions of their small singular values alone.

    When an experience starts, of each kernel :math:`W = U S V^T` as a matrix the leading
    :math:`k = \lfloor r \min(d_{in}, d_{out}) \rfloor` singular vectors :math:`U_k, V_k` are kept, and every update
    :math:`u` of the optimizer becomes

    .. math:: \tilde u = (I - U_k U_k^T) \, u \, (I - V_k V_k^T)

    so that the kept triplets are singular triplets of the kernel at the end as well, to the rounding of the parameters:
    keep these in float32. The next experience chooses anew. Other parameters (biases, norms)
    are trained as always. No data is looked at, nor is anything stored for an experience. A kernel of more than two
    axes is a matrix by `ops.matrix_shape`. Cost: four products of each update with singular vectors in a step, an SVD
    of each kernel in an experience. As an outer wrapper sees the update last, put `osf` first in a chain.

    Args:
      keep: r, the share of singular vectors that is kept, of every kernel, or `{pattern: share}` by names like
        `block_0.attention.query.kernel`: the first pattern (`re.search`) that finds a name counts, and kernels that no
        pattern finds are trained freely. 0.5 of mini_trainer and peft; 0 is plain training, 1 freezes kernels of full
        rank.
      pretrained: the first experience starts from a trained network, whose singular vectors are kept as well; by
        default the first experience keeps nothing.

    Returns:
      The method.

    Raises:
      ValueError: a share outside of [0, 1]; when the learner is made: a pattern that is the first of no parameter of
        two axes or more.

    Example:
      >>> osf({"attention": 0.8, "mlp": 0.5}).name
      'osf'
    """
    shares = dict(keep) if isinstance(keep, Mapping) else {r"kernel$": keep}
    for pattern, share in shares.items():
        check_pattern("keep", pattern)
        check_fraction("keep", share)

    def pattern_of(path):
        return next((pattern for pattern in shares if re.search(pattern, _name(path))), None)

    def init(rng, params, ctx):
        leaves = jax.tree_util.tree_leaves_with_path(params)
        used = {pattern_of(path) for path, leaf in leaves if leaf.ndim > 1}
        idle = [pattern for pattern in shares if pattern not in used]
        if idle or not shares:
            names = ", ".join(_name(path) for path, leaf in leaves if leaf.ndim > 1)
            raise ValueError(f"osf: keep finds no kernel by {idle}, expected some of {names or 'no kernel'}: mend it.")

        def empty(side):
            def zeros(path, leaf):
                if leaf.ndim < 2 or pattern_of(path) is None:
                    return jnp.zeros((0, 0))
                matrix = matrix_shape(leaf.shape)
                return jnp.zeros((matrix[side], min(matrix)))

            return jax.tree_util.tree_map_with_path(zeros, params)

        return OsfState({name: jnp.asarray(r, jnp.float32) for name, r in shares.items()}, empty(0), empty(1))

    def begin(s, ts, ctx):
        nothing = (ctx.experience.index == 0) & (not pretrained)

        def vectors(path, kernel, left, right):
            if left.size == 0:
                return left, right
            matrix = kernel.astype(jnp.float32).reshape(left.shape[0], -1)
            u, values, vt = jnp.linalg.svd(matrix, full_matrices=False)
            # 0.29 * 100 is 28.999998 in float32.
            number = jnp.floor(s.keep[pattern_of(path)] * u.shape[1] + 1e-3)
            # A direction that the kernel does not have (of a head that starts at 0, say) is any: it stays free.
            kept = (jnp.arange(u.shape[1]) < number) & (values > 1e-6 * values[0]) & ~nothing
            return jnp.where(kept, u, 0.0), jnp.where(kept, vt.T, 0.0)

        pairs = jax.tree_util.tree_map_with_path(vectors, ts.params, s.left, s.right)
        left, right = jax.tree.transpose(jax.tree.structure(ts.params), jax.tree.structure((0, 0)), pairs)
        return s._replace(left=left, right=right), ts

    def project(updates, state, params=None, **extra):
        s = extra["method_state"]
        return jax.tree.map(_project, updates, s.left, s.right), state

    only = after(optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), project))
    return Method("osf", init=init, begin=begin, optimizer=only, needs=("boundaries",))


def _project(update: jax.Array, left: jax.Array, right: jax.Array) -> jax.Array:
    if left.size == 0:
        return update
    with jax.default_matmul_precision("highest"):
        matrix = update.reshape(left.shape[0], -1)
        matrix = matrix - left @ (left.T @ matrix)
        matrix = matrix - (matrix @ right) @ right.T
    return matrix.reshape(update.shape).astype(update.dtype)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
