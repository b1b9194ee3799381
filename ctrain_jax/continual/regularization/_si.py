"""SI: synaptic intelligence.

Zenke, Poole and Ganguli, "Continual Learning Through Synaptic Intelligence", ICML 2017, arXiv 1703.04200.
Opened at the source: the authors' code (ganguli-lab/pathint), van de Ven's (GMvandeVen/continual-learning), Mammoth's
(aimagelab/mammoth), not the paper: its equations are those that all three carry out.
Where we differ: nowhere from the authors' code. As there, the path integral takes the gradient of the task's own loss
and the summed importance is clipped at 0, since a negative one would push a parameter away without bound. Van de Ven's
code takes the gradient of the loss with its penalty and clips nothing; Mammoth's takes ours and clips nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual.regularization._quadratic import quadratic
from ctrain_jax.core import Method
from ctrain_jax.ops import check_non_negative, check_positive


class SiState(NamedTuple):
    """What each parameter gave so far, and where it was."""

    lam: jax.Array  # float32 []
    damping: jax.Array  # float32 []
    omega: optax.Params  # like params, float32: the importance, summed over experiences, at least 0
    path: optax.Params  # like params, float32: the decrease of the loss that is owed to each entry, in this experience
    anchor: optax.Params  # like params: at the end of the last experience


def si(lam: float, *, damping: float = 0.1) -> Method:
    r"""Anchor each parameter by the share of the loss's decrease that its movement brought about.

    Along the steps of an experience, with the gradient :math:`g` of the task's own loss before a step (of all its rows,
    replayed ones too; without the penalties of methods) and the displacement that the step ended in,

    .. math:: w_i \leftarrow w_i - g_i \, (\theta_i^{new} - \theta_i^{old})

    When it is over, with the distance :math:`\Delta_i` from the anchor,
    :math:`\Omega_i \leftarrow \max(0, \Omega_i + w_i / (\Delta_i^2 + \xi))`, and the anchor moves to the parameters.
    Training adds :math:`\lambda \sum_i \Omega_i (\theta_i - \theta^*_i)^2`.

    Alone, or beside penalties on the parameters, the task's own gradient costs nothing: it is computed anyway. Beside a
    loss through the network (distillation, say) it is one more backward pass.

    Args:
      lam: the strength, the paper's c: 1 in the authors' Split-MNIST, up to 1 in their Permuted-MNIST; 10 (task-), 5e4
        (domain-) and 5e3 (class-incremental) in van de Ven's Split-MNIST.
      damping: the paper's xi, in squared units of a parameter: it bounds the importance of what barely moved. 1e-3 in
        the authors' Split-MNIST, 0.1 elsewhere.

    Returns:
      The method.

    Raises:
      ValueError: a negative `lam`, a `damping` of 0 or below.

    Example:
      >>> si(1.0).name
      'si'
    """
    check_non_negative("lam", lam)
    check_positive("damping", damping)

    def init(rng, params, ctx):
        zeros = optax.tree.zeros_like(params, dtype=jnp.float32)
        return SiState(jnp.asarray(lam, jnp.float32), jnp.asarray(damping, jnp.float32), zeros, zeros, params)

    def loss(s, params, ctx):
        return s.lam * quadratic(s.omega, params, s.anchor), {}

    def update(s, ts, ctx):
        grads = ctx.grad_fn(ctx.params, penalties=False)
        path = jax.tree.map(lambda w, g, new, old: w - g * (new - old), s.path, grads, ts.params, ctx.params)
        return s._replace(path=path), ts

    def end(s, ts, ctx):
        def grown(omega, w, new, old):
            return jnp.maximum(omega + w / (jnp.square(new - old) + s.damping), 0)

        omega = jax.tree.map(grown, s.omega, s.path, ts.params, s.anchor)
        return s._replace(omega=omega, path=optax.tree.zeros_like(s.path), anchor=ts.params), ts

    return Method("si", init=init, loss=loss, update=update, end=end, needs=("boundaries",))
