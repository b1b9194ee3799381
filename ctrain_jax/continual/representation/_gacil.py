"""G-ACIL: analytic class-incremental learning without exemplars.

Zhuang et al., "G-ACIL: Analytic Learning for Exemplar-Free Generalized Class Incremental Learning", 2024, arXiv
2403.15706; recursive form first in ACIL, Zhuang et al., NeurIPS 2022, arXiv 2205.14922. Where we differ: the authors
update the inverse of the Gram matrix in float64; in float32 that recursion loses accuracy, so we keep the sums
`H^T H` and `H^T Y`, from which the same solution follows by one Cholesky solve after each experience. The recursive
form is the test's reference. Written from the equations; no code was opened.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Method, mask_logits
from ctrain_jax.ops import check_positive, check_size, ridge


class GacilState(NamedTuple):
    """The sufficient statistics of ridge regression on random features, and its solution."""

    gamma: jax.Array  # float32 []
    expansion: jax.Array  # float32 [D, width], fixed
    gram: jax.Array  # float32 [width, width], H^T H
    cross: jax.Array  # float32 [width, C], H^T Y
    head: jax.Array  # float32 [width, C]
    counts: jax.Array  # float32 [C], rows seen of each class


def gacil(width: int = 2048, *, gamma: float = 0.1, train: bool = False) -> Method:
    r"""Ridge regression on random features of a frozen network, solved exactly after each experience.

    With :math:`h = \mathrm{relu}(\phi(x) W_r)`, a fixed random :math:`W_r`, and one-hot labels :math:`Y`, the head
    after any number of experiences is that of joint training,

    .. math:: W = (H^\top H + \gamma I)^{-1} H^\top Y

    whatever the order of the rows and however classes mix between experiences: nothing is forgotten. Columns of classes
    never seen are 0, and their logits are put out of reach. Each experience is passed once, at its end; there is no
    gradient step, so one epoch is enough.

    Args:
      width: random features; the paper uses 8192 or more. Memory and the solve grow with its square and cube.
      gamma: the ridge.
      train: let the optimizer train the network as well (the sums then mix features of different moments).

    Returns:
      The method; it needs features of the model.

    Raises:
      ValueError: `width` below 1, or `gamma` not positive.

    Example:
      >>> gacil(1024).needs
      ('boundaries', 'classes', 'features')
    """
    check_positive("gamma", gamma)
    check_size("width", width)

    def init(rng, params, ctx):
        features, classes = ctx.spec.outputs.features.shape[-1], ctx.spec.num_classes
        expansion = jax.random.normal(rng, (features, width)) / jnp.sqrt(features)
        flat = jnp.zeros((width, classes))
        return GacilState(
            jnp.asarray(gamma, jnp.float32), expansion, jnp.zeros((width, width)), flat, flat, jnp.zeros(classes)
        )

    def update(s, ts, ctx):
        return s, ts if train else ts._replace(model_state=ctx.model_state)

    def end(s, ts, ctx):
        def add(sums, batch, b):
            gram, cross, counts = sums
            features = ctx.forward(ts.params, batch["inputs"], task=batch["task"])[0].features
            # A row of weight 0 adds nothing; weights are 0 or 1 here.
            hidden = jax.nn.relu(features @ s.expansion) * batch["weights"][:, None]
            labels = jax.nn.one_hot(batch["labels"], ctx.spec.num_classes) * batch["weights"][:, None]
            return gram + hidden.T @ hidden, cross + hidden.T @ labels, counts + labels.sum(0)

        gram, cross, counts = ctx.scan(add, (s.gram, s.cross, s.counts), size=512)
        return s._replace(gram=gram, cross=cross, head=ridge(gram, cross, s.gamma), counts=counts), ts

    def predict(s, ctx):
        logits = jax.nn.relu(ctx.outputs.features @ s.expansion) @ s.head
        return ctx.outputs._replace(logits=mask_logits(logits, s.counts > 0))

    method = Method(
        "gacil",
        init=init,
        update=update,
        end=end,
        predict=predict,
        needs=("boundaries", "classes", "features"),
    )
    return method if train else method._replace(optimizer=lambda tx: optax.set_to_zero())
