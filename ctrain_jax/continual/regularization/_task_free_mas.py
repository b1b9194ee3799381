"""Task-free MAS: memory aware synapses that find out themselves when something has been learned.

Aljundi, Kelchtermans and Tuytelaars, "Task-Free Continual Learning", CVPR 2019, arXiv 1812.03596; a chapter of Aljundi,
"Continual Learning in Neural Networks", 2019, arXiv 1910.02718.
Opened at the source: the second author's code (kkelchte/task_free_continual_learning), not the papers.
Where we differ: the loss of the window is a mean over rows, not a sum; a step is taken once for each batch, theirs five
times; a window is looked at when it is full; importance is that of `mas`, the gradient of the squared norm of the
outputs and its mean over rows, theirs is of the norm itself and a sum; the penalty has no half.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual.regularization._mas import importance
from ctrain_jax.continual.regularization._quadratic import quadratic
from ctrain_jax.core import Method
from ctrain_jax.ops import append_rows, check_non_negative, check_positive, check_size

UNSEEN = 1e9  # a loss before the first: a window that is not full is no plateau


class Watch(NamedTuple):
    """What is known of the losses of the last steps."""

    window: jax.Array  # float32 [W]: the latest last
    limit: jax.Array  # float32 []: mean and standard deviation of the window of the last plateau, added
    risen: jax.Array  # bool []: a window was above it since


class TaskFreeMasState(NamedTuple):
    """How sensitive the outputs are to each parameter, where it was, and what tells when that is to be renewed."""

    lam: jax.Array  # float32 []
    mean: jax.Array  # float32 []
    variance: jax.Array  # float32 []
    watch: Watch
    records: dict[str, jax.Array]  # of `size` rows: those with the largest losses; row -1 where there is none
    omega: optax.Params  # like params, float32: mean over plateaus
    anchor: optax.Params  # like params: at the last plateau
    plateaus: jax.Array  # int32 []: so far


def task_free_mas(lam: float, *, size: int = 30, window: int = 5, mean: float = 0.2, variance: float = 0.1) -> Method:
    r"""`mas` without boundaries: importance is measured where the loss has come to rest.

    Of the mean losses of the last `window` batches, with their mean :math:`\mu` and variance :math:`\sigma^2`, a
    plateau is where both are below their thresholds, and a peak was seen since the last plateau :math:`k`,
    :math:`\mu > \mu_k + \sigma_k`. At the :math:`k`-th plateau, with the logits :math:`f` (of a row's own head, where
    heads are restricted) and the :math:`N` rows that are stored,

    .. math:: \Omega_i \leftarrow \left( 1 - \frac{1}{k} \right) \Omega_i
              + \frac{1}{k N} \sum_n \left| \frac{\partial \|f(x_n)\|_2^2}{\partial \theta_i} \right|

    and the anchor moves to the parameters. Training adds :math:`\lambda \sum_i \Omega_i (\theta_i - \theta^*_i)^2`.
    The rows that are stored are those of the last step with the largest losses, and join the next batch: they are
    hard ones, recent and old. Meant for one pass: a row that comes again may be stored more than once.

    Args:
      lam: the strength, the authors' weight divided by two: 0.25 in their code.
      size: rows that are stored; row numbers are, 8 bytes each. 5 beside batches of 20 in the authors' code.
      window: losses that are looked at.
      mean: the mean loss below which a window may be a plateau, in units of the problem's loss.
      variance: the same for its variance.

    Returns:
      The method. Mapped over seeds, importance is computed in each step, since some seed may need it.

    Raises:
      ValueError: a negative `lam`, a `size` or `window` below 1, a `mean` or `variance` of 0 or below.

    Example:
      >>> task_free_mas(0.25, mean=0.5).name
      'task_free_mas'
    """
    check_non_negative("lam", lam)
    check_size("size", size)
    check_size("window", window)
    check_positive("mean", mean)
    check_positive("variance", variance)

    def init(rng, params, ctx):
        strength, level, spread = (jnp.asarray(x, jnp.float32) for x in (lam, mean, variance))
        records = {name: jnp.zeros((size, *x.shape), x.dtype) for name, x in ctx.spec.record.items()}
        records["row"] -= 1
        watch = Watch(jnp.full(window, UNSEEN), jnp.float32(0), jnp.bool_(True))
        zeros = optax.tree.zeros_like(params, dtype=jnp.float32)
        return TaskFreeMasState(strength, level, spread, watch, records, zeros, params, jnp.int32(0))

    def augment(s, batch, ctx):
        real = s.records["row"] >= 0
        copies = jnp.arange(size) % ctx.incoming["row"].shape[0]
        records = {name: jnp.where(real, x, ctx.incoming[name][copies]) for name, x in s.records.items()}
        return append_rows(batch, ctx.fetch(records) | {"weights": real.astype(jnp.float32)})

    def loss(s, params, ctx):
        return s.lam * quadratic(s.omega, params, s.anchor), {}

    def update(s, ts, ctx):
        weights = ctx.batch["weights"]
        losses = ctx.problem.loss(ctx.outputs, ctx.batch)
        watch, plateau = watched(s.watch, jnp.average(losses, weights=weights), s.mean, s.variance)

        def renewed(s):
            # The rows that the step was taken with.
            weights = (s.records["row"] >= 0).astype(jnp.float32)
            found, k = importance(ctx, ts, ctx.fetch(s.records) | {"weights": weights}), s.plateaus + 1
            found = jax.tree.map(lambda x: x / jnp.maximum(weights.sum(), 1), found)
            omega = jax.tree.map(lambda old, new: old + (new - old) / k, s.omega, found)
            return s._replace(omega=omega, anchor=ts.params, plateaus=k)

        s = jax.lax.cond(plateau, renewed, lambda s: s, s)
        _, hard = jax.lax.top_k(jnp.where(weights > 0, losses, -jnp.inf), size)
        records = {name: ctx.batch[name][hard] for name in s.records}
        records["row"] = jnp.where(weights[hard] > 0, records["row"], -1)
        return s._replace(watch=watch, records=records), ts

    return Method("task_free_mas", init=init, augment=augment, loss=loss, update=update, needs=("labels",))


def watched(watch: Watch, loss: jax.Array, mean: Any, variance: Any) -> tuple[Watch, jax.Array]:
    """One more loss, and whether this is a plateau."""
    window = jnp.append(watch.window[1:], loss)
    centre, spread = jnp.mean(window), jnp.var(window)
    risen = watch.risen | (centre > watch.limit)
    plateau = risen & (centre < mean) & (spread < variance)
    limit = jnp.where(plateau, centre + jnp.sqrt(spread), watch.limit)
    return Watch(window, limit, risen & ~plateau), plateau
