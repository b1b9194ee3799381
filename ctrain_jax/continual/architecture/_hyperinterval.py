"""HyperInterval: a box of embeddings for each task, all of whose networks are trained, by interval arithmetic.

Krukowski et al., "HINT: Hypernetwork Approach to Training Weight Interval Regions in Continual Learning", 2024, arXiv
2405.15444 (HyperInterval in its first versions). The authors' code (gmum/HyperInterval) was opened. As there, sides of
a box share `eps` by a softmax, half of an experience widens the box, and, as where embeddings are nested, the penalty
looks at lower ends, centres and upper ends of weights; ends are those of an interval hypernetwork written after the
code. Where we differ: the centre is the network of the centre of the box, where the code trains, holds and tests the
middle of lower and upper ends; the penalty is a mean over earlier tasks, which the code divides by their number once
more, and looks at the hypernetwork as it is; in the first half the weight of the worst case grows along with the box,
where the code takes 5e-5 a step from that of the centre and then jumps to `kappa`; bounds of a product are those of
centre and radius, wider than the code's for inputs of 0 and above (by 8 percent on a small network), and take any
inputs; the network that all share starts as its model draws it; embeddings are not nested, so that no single one serves
all tasks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.continual.architecture._hypernet import Hypernet, HypernetState, hypernetwork
from ctrain_jax.continual.architecture._mip_hypernet import draw_heads, draw_layers
from ctrain_jax.continual.architecture._tasks import progress
from ctrain_jax.core import Method
from ctrain_jax.ops import check_fraction, check_non_negative, check_size, interval_bounds


class HyperintervalState(NamedTuple):
    """How wide the box is by now, and what earlier tasks are given."""

    kappa: jax.Array  # float32 []
    width: jax.Array  # float32 [], from 0 to 1
    held: HypernetState


def hyperinterval(
    num_tasks: int,
    *,
    beta: float = 0.01,
    eps: float = 0.1,
    kappa: float = 0.5,
    dim: int = 8,
    hidden: Sequence[int] = (100, 100),
) -> Method:
    r"""Train every network that a box of embeddings generates, and keep the boxes of earlier tasks.

    .. math:: \theta_t(e) = \theta_0 + h(e; \omega), \qquad |e - e_t| \le r_t = \epsilon \, \mathrm{softmax}(\rho_t)

    Interval arithmetic through h and through the network gives :math:`\underline z \le z(e) \le \overline z` for the
    logits of all e in the box. The loss is

    .. math:: \kappa \, \ell\big(z(e_t), y\big) + (1 - \kappa) \, \ell(\hat z, y), \qquad
              \hat z_c = \underline z_c \text{ if } c = y, \text{ else } \overline z_c

    Where :math:`\hat z` is right about a row, so is every network of the box. In the first half of an experience
    :math:`\epsilon` and :math:`1 - \kappa` grow from 0. Tasks learned before, :math:`K`, are held by

    .. math:: \frac{\beta}{3 |K|} \sum_{j \in K} \|\underline \theta_j - \underline \theta_j^*\|_2^2
              + \|\theta_j - \theta_j^*\|_2^2 + \|\overline \theta_j - \overline \theta_j^*\|_2^2

    with ends of their whole boxes. Answers are those of :math:`e_t`; `ops.interval_bounds` over `embeddings` gives
    bounds. An experience starts with a new state of the optimizer. Statistics of BatchNorm, which the bounds take as
    they are, are kept for each task. One task serves a batch: see `supsup`.

    Args:
      num_tasks: tasks; they are numbered from 0.
      beta: strength of the penalty.
      eps: sum of the sides of a box, halved; 0.5 to 1 in the code on digits, with embeddings of 24 and 72.
      kappa: weight of the centre, in [0, 1]; 1 trains that alone.
      dim: length of an embedding. Only the task itself moves its box.
      hidden: widths of the layers of h, (100, 100) in the code on Permuted-MNIST.

    Returns:
      The method. It needs the task of a row in tests as well: `streams.task_incremental`,
      `streams.permuted(..., task_known=True)`. Parameters are `embeddings` (`center` and `radius`, the latter
      :math:`\rho`), `layers`, `heads` and the network `start`; `frozen["fixed"]["eps"]` is epsilon.

    Raises:
      ValueError: a size below 1, a negative `beta` or `eps`, a `kappa` outside of [0, 1]; when a learner is made, more
        experiences than tasks; in the first step, a network of which `ops.interval_bounds` knows no bounds.

    Example:
      >>> hyperinterval(5).needs
      ('task', 'boundaries', 'classes')
    """
    check_size("num_tasks", num_tasks)
    check_size("dim", dim)
    for width in hidden:
        check_size("Each width in hidden", width)
    check_non_negative("beta", beta)
    check_non_negative("eps", eps)
    check_fraction("kappa", kappa)
    widths = (dim, *hidden)

    def make(rng, start):
        rng_own, rng_layers, rng_heads = jax.random.split(rng, 3)
        params = {
            "embeddings": {
                "center": jax.random.normal(rng_own, (num_tasks, dim)),
                "radius": jnp.zeros((num_tasks, dim)),
            },
            "layers": draw_layers(rng_layers, widths),
            "heads": draw_heads(rng_heads, widths[-1], start),
            "start": start,
        }
        return params, {"eps": jnp.asarray(eps, jnp.float32)}

    def network(params, x):
        for layer in params["layers"]:
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
        return jax.tree.map(lambda start, head: start + jnp.tensordot(x, head, 1), params["start"], params["heads"])

    def generate(params, fixed, task):
        return network(params, params["embeddings"]["center"][task])

    def radii(params, fixed):
        return fixed["eps"] * jax.nn.softmax(params["embeddings"]["radius"])

    def keep(params, fixed, task, index):
        own = params["embeddings"]["center"][task]
        center, radius = interval_bounds(lambda x: network(params, x), own, radii(params, fixed)[task])
        return {
            "low": jax.tree.map(jnp.subtract, center, radius),
            "center": network(params, own),
            "high": jax.tree.map(jnp.add, center, radius),
        }

    plain = hypernetwork("hyperinterval", num_tasks, beta / 3, Hypernet(make, generate), keep=keep)

    def init(rng, params, ctx):
        held = plain.init(rng, params, ctx)
        return HyperintervalState(jnp.asarray(kappa, jnp.float32), jnp.zeros(()), held)

    def begin(s, ts, ctx):
        held, ts = plain.begin(s.held, ts, ctx)
        return s._replace(width=jnp.zeros(()), held=held), ts

    def loss(s, params, ctx):
        batch = ctx.batch

        def answer(center):
            moved = params | {"embeddings": params["embeddings"] | {"center": center}}
            return ctx.forward(moved, batch["inputs"], task=batch["task"])[0].logits

        box = s.width * radii(params, ctx.frozen["fixed"])
        center, radius = interval_bounds(answer, params["embeddings"]["center"], box)
        own = jax.nn.one_hot(batch["labels"], center.shape[-1], dtype=bool)
        worst = ctx.outputs._replace(logits=jnp.where(own, center - radius, center + radius))
        more = ctx.problem.loss(worst, batch) - ctx.problem.loss(ctx.outputs, batch)
        mean = jnp.sum(batch["weights"] * more) / jnp.maximum(jnp.sum(batch["weights"]), 1)
        penalty, _ = plain.loss(s.held, params, ctx)
        return s.width * (1 - s.kappa) * mean + penalty, {}

    def update(s, ts, ctx):
        done, steps = progress(ts, ctx)
        held, ts = plain.update(s.held, ts, ctx)
        return s._replace(width=jnp.minimum(2 * done / steps, 1).astype(jnp.float32), held=held), ts

    def end(s, ts, ctx):
        held, ts = plain.end(s.held, ts, ctx)
        return s._replace(held=held), ts

    return plain._replace(init=init, begin=begin, loss=loss, update=update, end=end, needs=(*plain.needs, "classes"))
