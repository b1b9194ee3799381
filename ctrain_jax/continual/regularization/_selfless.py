"""Selfless sequential learning: few units of a layer answer, so that others are left for what comes.

Aljundi, Rohrbach and Tuytelaars, "Selfless Sequential Learning", ICLR 2019, arXiv 1806.05421: its regularizer SLNID.
Opened: the authors' code (rahafaljundi/Selfless-Sequential-Learning); of the paper the abstract alone. Where we differ
from the code: what two units are spared is the product of what each of them is; the code takes the smaller one, and by
a switch the product: the penalty is then theirs, written out, to 4e-8.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.continual._units import Layers, given_to_layers, order_of_layers
from ctrain_jax.core import Context, Method, PyTree, tag
from ctrain_jax.ops import check_non_negative, check_positive


class SelflessState(NamedTuple):
    """How much the outputs hang on each unit."""

    lam: jax.Array  # float32 []
    sigma: jax.Array  # float32 []
    importance: Layers  # {the dense layer that is given the units: float32 [D]}, summed over experiences


def selfless(lam: float = 1e-3, *, sigma: float = 1 / 6) -> Method:
    r"""Inhibit units that are active together, near ones most, and those least that earlier experiences need.

    Training adds, for what each dense layer but the first is given, :math:`h` [B, D],

    .. math:: \lambda \sum_{i \ne j} e^{-\alpha_i - \alpha_j} \exp\Big(-\frac{(i - j)^2}{2 (\sigma D)^2}\Big)
              \Big| \frac{1}{B} \sum_n h_{n i} h_{n j} \Big|

    After an experience of :math:`N` rows, with the logits :math:`f` (of a row's own head, where heads are restricted),

    .. math:: \alpha_i \leftarrow \alpha_i + \frac{1}{N} \sum_{n :\, h_{n i} \ne 0}
              \left| \frac{\partial \|f(x_n)\|_2^2}{\partial h_{n i}} \right|

    It keeps nothing by itself: chain it with a penalty on parameters that matter, `mas` or `ewc`, which finds the
    parameters of units that are silent free to move.

    Args:
      lam: the strength; 1e-3 in the authors' code.
      sigma: how far a unit reaches, as a share of its layer; 1 / 6 in the authors' code.

    Returns:
      The method, for a linen network with dense layers of units [B, D]. Its forward pass is that of the network, with
      the same dropout: compiled, it costs nothing.

    Raises:
      ValueError: a negative `lam`, a `sigma` of 0 or below; when the learner is started, a network without a dense
        layer behind another, with one that is not given [B, D], that is called twice, or that lies in nn.remat
        or nn.scan.

    Example:
      >>> selfless(1e-3).needs
      ('boundaries',)
    """
    check_non_negative("lam", lam)
    check_positive("sigma", sigma)

    def init(rng, params, ctx):
        dummy = jnp.zeros(ctx.spec.batch["inputs"].shape)
        given = jax.eval_shape(lambda p: given_to_layers(ctx, p, dummy)[1], params)
        # eval_shape sorts names.
        layers = order_of_layers(ctx, params)[1:]
        wrong = [name for name in layers if given[name].ndim != 2 or len(given[name]) != len(dummy)]
        if not layers or wrong:
            raise ValueError(
                "selfless inhibits units [B, D] between dense layers of a linen model, got "
                f"{', '.join(f'{name} with {given[name].shape}' for name in wrong) or 'none'}: use an MLP."
            )
        importance = {name: jnp.zeros(given[name].shape[-1]) for name in layers}
        return SelflessState(jnp.asarray(lam, jnp.float32), jnp.asarray(sigma, jnp.float32), importance)

    def loss(s, params, ctx):
        batch = ctx.batch
        options = {"train": True, "rng": tag(ctx.key, "forward"), "task": batch.get("task")}
        _, given = given_to_layers(ctx, params, batch["inputs"], **options)
        share = batch["weights"] / jnp.maximum(jnp.sum(batch["weights"]), 1.0)
        return s.lam * sum(
            inhibition(given[name], jnp.exp(-alpha), s.sigma, share) for name, alpha in s.importance.items()
        ), {}

    def end(s, ts, ctx):
        def add(total, batch, index):
            return jax.tree.map(jnp.add, total, slopes(ctx, ts.params, ts.model_state, batch, list(total)))

        total = ctx.scan(add, jax.tree.map(jnp.zeros_like, s.importance))
        return s._replace(
            importance=jax.tree.map(lambda old, new: old + new / ctx.experience.size, s.importance, total)
        ), ts

    return Method("selfless", init=init, loss=loss, end=end, needs=("boundaries",))


def inhibition(h: jax.Array, free: jax.Array, sigma: jax.Array, share: jax.Array) -> jax.Array:
    """How much units [B, D] are active together, over rows of some share; `free` [D]: how much that counts of each."""
    at = jnp.arange(h.shape[-1])
    apart = at[:, None] - at
    near = jnp.exp(-jnp.square(apart / (sigma * len(at))) / 2) * (apart != 0)
    return free @ (near * jnp.abs((share[:, None] * h).T @ h)) @ free


def slopes(ctx: Context, params: PyTree, model_state: PyTree, batch: PyTree, names: list[str]) -> Layers:
    """The sum over rows of |d ||f||^2 / d h| of what each layer is given, where it is not 0."""
    options = {"model_state": model_state, "task": batch.get("task")}
    allowed = batch.get("classes", True)
    _, given = given_to_layers(ctx, params, batch["inputs"], **options)

    def of(name):
        def squares(h):
            outputs, _ = given_to_layers(ctx, params, batch["inputs"], {name: h}, **options)
            return jnp.sum(jnp.square(outputs.logits), where=allowed)

        h = given[name]
        return batch["weights"] @ (jnp.abs(jax.grad(squares)(h)) * (h != 0))

    return {name: of(name) for name in names}
