"""GPM: gradient projection memory.

Saha, Garg and Roy, "Gradient Projection Memory for Continual Learning", ICLR 2021, arXiv 2103.09762. The authors' code
(sahagobinda/GPM) was opened. As there, parameters other than kernels (of BatchNorm; its layers have no biases) stand
still after the first experience. Where we differ: the projection comes after the optimizer, so that the promise holds
under momentum, Adam and weight decay, where the authors' plain SGD makes no difference; a kernel's first basis is the
smallest that reaches the threshold, as in equation 5, where the code takes one direction less; one threshold serves all
layers, where the code has one for each; and all layers are looked at with the same rows, where the code takes fewer of
them for convolutions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.continual.optimization._bases import empty_bases, fill, layer_inputs, protect, rows_at
from ctrain_jax.core import Method, PyTree
from ctrain_jax.ops import check_fraction, check_non_negative, check_pattern, check_size


class GpmState(NamedTuple):
    """What is protected."""

    threshold: jax.Array  # float32 []
    growth: jax.Array  # float32 []
    bases: PyTree  # for each parameter [d_in, columns] float32, orthonormal columns, then zeros; [0, 0]: trained


def gpm(
    threshold: float = 0.97,
    *,
    growth: float = 0.003,
    max_rank: int | None = None,
    rows: int = 300,
    train: str | None = None,
) -> Method:
    r"""Change kernels only where earlier experiences do not look.

    When an experience is over, the inputs of each Dense and Conv kernel for some of its rows, `A` `[n, d_in]` (the
    patches of a convolution), add to the kernel's basis :math:`M` the fewest leading right singular vectors of
    :math:`\hat A = A - A M M^T` with which

    .. math:: \|A M\|_F^2 + \sum_{i \le k} \hat\sigma_i^2 \ge \epsilon_t \|A\|_F^2, \qquad
              \epsilon_t = \epsilon + t \, \delta

    and every later update :math:`u` of the optimizer becomes :math:`u - M M^T u`. All other parameters (biases, scales
    of a normalisation) are frozen after the first experience: for a bias the input is the constant 1. Statistics of
    BatchNorm go on moving. Cost: two products of each update with the basis in a step, several times that of a small
    batch where a basis is wide: `max_rank` caps it.

    As an outer wrapper sees the update last, put `gpm` first in a chain, before methods that change updates. For other
    thresholds in some layers, chain two of them, each with `train` for what the other protects.

    Args:
      threshold: epsilon, the share of the energy that is protected; 0.95 to 0.99 in the paper.
      growth: delta, added to it with every experience; 0.003 (CIFAR-100), 0.001 or 0 in the authors' code.
      max_rank: columns of a basis at most: the first ones found are kept. All of `d_in` by default.
      rows: rows of an experience that are looked at, in one forward pass that holds the patches of every convolution;
        300 (perceptrons) and 125 (convolutions) in the authors' code.
      train: pattern (`re.search`) of parameters that stay trained, by names like `head.kernel`: heads of which each
        task has its own. None for none.

    Returns:
      The method.

    Raises:
      ValueError: a `threshold` outside of [0, 1], a negative `growth`, `max_rank` or `rows` below 1; when the learner
        is made: a pattern that finds nothing, or a kernel that is of no Dense or Conv layer of a linen model.

    Example:
      >>> gpm(0.95, train="^head").name
      'gpm'
    """
    check_fraction("threshold", threshold)
    check_non_negative("growth", growth)
    check_size("rows", rows)
    check_pattern("train", train)
    if max_rank is not None:
        check_size("max_rank", max_rank)

    def init(rng, params, ctx):
        bases = empty_bases("gpm", params, ctx, lambda width: min(width, max_rank or width), train)
        return GpmState(jnp.asarray(threshold, jnp.float32), jnp.asarray(growth, jnp.float32), bases)

    def end(s, ts, ctx):
        experience, num = ctx.experience, min(rows, ctx.spec.max_rows)
        at = jnp.arange(num, dtype=jnp.int32)
        batch = rows_at(ctx, at % experience.size)
        inputs = layer_inputs(ctx, ts.params, batch["inputs"], task=batch["task"])
        # Rows beyond a small experience are repetitions.
        real = (at < experience.size).astype(jnp.float32)
        wanted = s.threshold + s.growth * experience.index

        def grown(name, basis):
            seen = inputs[name]
            return _grow(basis, seen * jnp.repeat(real, seen.shape[0] // num)[:, None], wanted)

        return s._replace(bases=fill(s.bases, inputs, grown)), ts

    return Method("gpm", init=init, end=end, optimizer=protect(), needs=("boundaries",))


def _grow(basis: jax.Array, inputs: jax.Array, wanted: jax.Array) -> jax.Array:
    """The basis [d_in, columns] with as many directions of the inputs [n, d_in] as the wanted share of energy needs."""
    with jax.default_matmul_precision("highest"):
        total = jnp.square(inputs).sum()
        rest = inputs - (inputs @ basis) @ basis.T
        energy, directions = _spectrum(rest)
        share = jnp.cumsum(energy) - energy + total - energy.sum()  # without the i-th direction and all after it
        # What is left by rounding has directions as well.
        number = jnp.sum((share < wanted * total) & (energy > 1e-6 * total))
        # Small directions are orthogonal to the basis up to rounding of large ones only.
        directions -= basis @ (basis.T @ directions)
        directions /= jnp.maximum(jnp.linalg.norm(directions, axis=0), 1e-12)
    place = jnp.arange(basis.shape[1]) - jnp.sum(jnp.any(basis != 0, axis=0))
    new = directions[:, jnp.clip(place, 0, directions.shape[1] - 1)]
    return jnp.where(place < 0, basis, jnp.where(place < number, new, 0.0))


def _spectrum(inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Squared singular values [k] of inputs [n, d], largest first, and right singular vectors [d, k]."""
    if inputs.shape[0] > inputs.shape[1]:
        energy, directions = jnp.linalg.eigh(inputs.T @ inputs)
        return energy[::-1], directions[:, ::-1]
    directions, values, _ = jnp.linalg.svd(inputs.T, full_matrices=False)
    return jnp.square(values), directions
