"""HLOP: projections out of subspaces that are learned by Hebb's rule.

Xiao, Meng, Zhang, He and Lin, "Hebbian Learning based Orthogonal Projection for Continual Learning of Spiking Neural
Networks", ICLR 2024, arXiv 2402.11984. The authors' code was opened (pkuxmq/HLOP-SNN, `modules/hlop_module.py` and
`spiking_train_pmnist.py`), the paper was not. This is the projection for networks of any activation, not their spiking
neurons: lateral weights see the inputs of a layer as they are, not rates of spikes. Where we differ: new rows are
learned in one pass when the experience is over, from its network, where the code learns them while the network still
trains; they begin orthogonal to the old rows too; the projection comes after the optimizer, as in `gpm`; every
experience adds equally many rows; BatchNorm's statistics go on moving, where the code stops them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.continual.optimization._bases import empty_bases, fill, layer_inputs, name_of, protect, rows_at
from ctrain_jax.core import Method, PyTree
from ctrain_jax.ops import check_fraction, check_pattern, check_positive, check_size


class HlopState(NamedTuple):
    """What is protected, and how it is learned."""

    lr: jax.Array  # float32 []
    momentum: jax.Array  # float32 []
    bases: (
        PyTree  # for each parameter [d_in, columns] float32, H transposed, zeros from the next rows on; [0, 0]: trained
    )


def hlop(
    rank: int = 70, *, lr: float = 0.01, momentum: float = 0.9, iterations: int = 5, train: str | None = None
) -> Method:
    r"""Change kernels only where earlier experiences do not look, by what lateral neurons learned of their inputs.

    When an experience is over, each Dense and Conv kernel gets `rank` new rows of lateral weights :math:`H`
    `[k, d_in]`, orthonormal at first. The rows of the experience go by in batches, in random order, and with the
    layer's inputs :math:`x` `[n, d_in]` (the patches of a convolution) the new rows alone move, some times a batch, by

    .. math:: y = x H^T, \qquad \hat x = y H, \qquad v \leftarrow m v + (1 - m) \frac{1}{n} y^T (x - \hat x), \qquad
              H \leftarrow H + \eta v

    with entries of the mean cut at -10 and 10: Oja's rule, to an orthonormal basis of the principal inputs that the old
    rows leave over. Every later update :math:`u` of the optimizer becomes :math:`u - H^T H u`. All other parameters
    (biases, scales of a normalisation) are frozen after the first experience. A step costs what it costs with `gpm`.

    With the rows of all experiences a kernel would have no free direction left: it gets at most its equal share of them
    in each. The rule's pace is :math:`\eta` times the energy of a direction in a batch, so a layer with inputs of
    another scale wants another `lr`, and so do batches of a few rows: with one too large, :math:`H` does not become
    orthonormal, and the projection enlarges updates. Put `hlop` first in a chain, as `gpm`; for another `rank` in some
    layers, chain two of them, each with `train` for what the other protects.

    Args:
      rank: rows that each experience adds; 80, 200 and 100 in the three layers in the first and 70 falling to 10 in the
        later ones in the authors' code for permuted MNIST. At most `d_in / T`, of T experiences, and at least 1.
      lr: eta; 0.01 in the authors' code, 0.001 for the pixels of permuted MNIST.
      momentum: m in [0, 1]; 0.9 there.
      iterations: moves for each batch; 5 there.
      train: pattern (`re.search`) of parameters that stay trained, by names like `head.kernel`; None for none.

    Returns:
      The method.

    Raises:
      ValueError: `rank` or `iterations` below 1, an `lr` of 0 or below, a `momentum` outside of [0, 1]; when the
        learner is made: a pattern that finds nothing, or a kernel that is of no Dense or Conv layer of a linen model.

    Example:
      >>> hlop(40, train="^head").name
      'hlop'
    """
    check_size("rank", rank)
    check_pattern("train", train)
    check_size("iterations", iterations)
    check_positive("lr", lr)
    check_fraction("momentum", momentum)

    def share(width, ctx):
        return max(1, min(rank, width // ctx.spec.num_experiences))

    def init(rng, params, ctx):
        def columns(width):
            return min(width, share(width, ctx) * ctx.spec.num_experiences)

        bases = empty_bases("hlop", params, ctx, columns, train)
        return HlopState(jnp.asarray(lr, jnp.float32), jnp.asarray(momentum, jnp.float32), bases)

    def end(s, ts, ctx):
        leaves = jax.tree_util.tree_leaves_with_path(s.bases)
        old = {name_of(path): basis for path, basis in leaves if basis.size and name_of(path).endswith("kernel")}
        new = {
            name: _start(jax.random.fold_in(ctx.rng, i), basis, share(len(basis), ctx))
            for i, (name, basis) in enumerate(old.items())
        }

        def learn(carry, batch, b):
            rows = rows_at(ctx, batch["position"])
            inputs = layer_inputs(ctx, ts.params, rows["inputs"], task=rows["task"])

            def move(name, now, speed):
                x, real = inputs[name], batch["weights"]
                x = x * jnp.repeat(real, x.shape[0] // real.shape[0])[:, None]
                number = real.sum() * (x.shape[0] // real.shape[0])
                return oja(old[name], now, speed, x, number, s.lr, s.momentum, iterations)

            return {name: move(name, *pair) for name, pair in carry.items()}

        learned = ctx.scan(learn, {name: (rows, jnp.zeros_like(rows)) for name, rows in new.items()})

        def grown(name, basis):
            rows = learned[name][0]
            start = ctx.experience.index * rows.shape[1]
            # Full: more experiences than inputs.
            more = jax.lax.dynamic_update_slice(basis, rows, (0, start))
            return jnp.where(start < basis.shape[1], more, basis)

        return s._replace(bases=fill(s.bases, learned, grown)), ts

    return Method("hlop", init=init, end=end, optimizer=protect(), needs=("boundaries",))


def oja(
    old: jax.Array,
    new: jax.Array,
    speed: jax.Array,
    inputs: jax.Array,
    number: jax.Array,
    lr: jax.Array,
    momentum: jax.Array,
    iterations: int,
) -> tuple[jax.Array, jax.Array]:
    """New rows [d_in, k] and their speed after some moves on inputs [n, d_in], of which so many are real."""
    with jax.default_matmul_precision("highest"):
        rest = inputs - (inputs @ old) @ old.T

        def move(_, carry):
            now, speed = carry
            y = inputs @ now
            change = (rest - y @ now.T).T @ y / number
            speed = momentum * speed + (1 - momentum) * jnp.clip(change, -10.0, 10.0)
            return now + lr * speed, speed

        return jax.lax.fori_loop(0, iterations, move, (new, speed))


def _start(rng: jax.Array, old: jax.Array, rank: int) -> jax.Array:
    """Random orthonormal columns [d_in, rank], orthogonal to the old ones."""
    with jax.default_matmul_precision("highest"):
        drawn = jax.random.normal(rng, (old.shape[0], rank))
        return jnp.linalg.qr(drawn - old @ (old.T @ drawn))[0]
