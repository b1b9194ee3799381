"""MIP: a hypernetwork whose weights do not grow with what it is given.

Ortiz, Guttag and Dalca, "Magnitude Invariant Parametrizations Improve Hypernetwork Learning", ICLR 2024, arXiv
2304.07645. The authors' code (JJGO/hyperlight) was opened. As there, layers are drawn by fan-out with biases of 0,
activations are leaky, the code of a condition is all cosines, then all sines, and the network that does not depend on
the condition is the bias of the last layer. Where we differ: that network is drawn as its model draws it, and the rest
of the last layer by the number of all entries of the network and without the gain of an activation, where the code
takes the number of those of each array and that gain: changes start smaller here. That it learns tasks one after
another is ours, with the embeddings and the penalty of von Oswald et al., ICLR 2020, arXiv 1906.00695
(chrhenning/hypercl was opened): the penalty looks at the hypernetwork as it is, the code by default at where a step of
the task's own loss would take it.
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.core
import jax.numpy as jnp
from jax.typing import ArrayLike

from ctrain_jax.continual.architecture._hypernet import Hypernet, hypernetwork, spreads
from ctrain_jax.core import Method, PyTree
from ctrain_jax.ops import check_choice, check_fraction, check_non_negative, check_size, mip_encode

SLOPE = 0.01  # of an activation below 0


def mip_hypernet(
    num_tasks: int,
    *,
    beta: float = 0.01,
    dim: int = 8,
    conditions: ArrayLike | None = None,
    hidden: Sequence[int] = (16, 128),
    encoding: str = "circle",
    residual: bool = True,
) -> Method:
    r"""Generate the network of a task from its condition, and keep what was generated for earlier tasks.

    .. math:: \theta_t = \theta_0 + h(E(\gamma_t); \omega), \qquad
              E(\gamma) = [\cos(\pi \gamma / 2), \sin(\pi \gamma / 2)]

    Without the code :math:`E` what layers of ReLU generate is proportional to :math:`\gamma`, and so is the gradient;
    with it every condition has the same length, and :math:`\theta_0` the size that the network is drawn with.

    While a task is learned, those learned before, :math:`K`, are held by

    .. math:: \frac{\beta}{|K|} \sum_{j \in K} \|\theta_j - \theta_j^*\|_2^2

    with :math:`\theta_j^*` as it was generated when the experience began. An experience starts with a new state of the
    optimizer. Statistics of BatchNorm are kept for each task. One task serves a batch: see `supsup`.

    Args:
      num_tasks: tasks; they are numbered from 0.
      beta: strength of the penalty; 0.01 in the code of von Oswald et al. for Split-MNIST.
      dim: D, the length of a condition that is learned. Only the task itself moves it.
      conditions: `[num_tasks, D]` in [0, 1], in place of those.
      hidden: widths of the layers of h.
      encoding: "circle" is E; "none" gives h the condition itself.
      residual: False has no :math:`\theta_0`: h alone makes the network, of the spread that it is drawn with.

    Returns:
      The method. It needs the task of a row in tests as well: `streams.task_incremental`,
      `streams.permuted(..., task_known=True)`. Parameters are `layers`, `heads` and with `residual` the network
      `start` of :math:`\theta_0`, and `embeddings` unless there are conditions.

    Raises:
      ValueError: `num_tasks`, `dim` or a width below 1, a negative `beta`, another `encoding`, conditions that are not
        num_tasks rows in [0, 1], or all 0 where nothing is generated from 0; when a learner is made, more experiences
        than tasks.

    Example:
      >>> mip_hypernet(5).needs
      ('task', 'boundaries')
    """
    check_size("num_tasks", num_tasks)
    check_non_negative("beta", beta)
    check_size("dim", dim)
    for width in hidden:
        check_size("Each width in hidden", width)
    check_choice("encoding", encoding, ("circle", "none"))
    given = None if conditions is None else jnp.asarray(conditions, jnp.float32)
    if given is not None:
        check_fraction("conditions", given)
        if given.ndim != 2 or len(given) != num_tasks:
            raise ValueError(
                f"mip_hypernet: conditions expects {num_tasks} rows [num_tasks, D], got shape {given.shape}."
            )
        if encoding == "none" and not residual and not isinstance(given, jax.core.Tracer) and not given.any():
            raise ValueError(
                "mip_hypernet: conditions of 0 alone generate nothing: give encoding='circle' or residual."
            )

    def make(rng, start):
        rng_own, rng_layers, rng_heads = jax.random.split(rng, 3)
        params, fixed = {}, {"conditions": given}
        if given is None:
            params["embeddings"] = jax.random.uniform(rng_own, (num_tasks, dim))
            fixed = {}
        width = (dim if given is None else given.shape[1]) * (2 if encoding == "circle" else 1)
        params["layers"] = draw_layers(rng_layers, (width, *hidden))
        params["heads"] = draw_heads(rng_heads, (width, *hidden)[-1], start)
        if residual:
            return params | {"start": start}, fixed
        centre, spread = spreads(start)
        changes = jax.vmap(lambda task: change(params, fixed, task))(jnp.arange(num_tasks))
        params["heads"] = jax.tree.map(
            lambda head, found, size: head * size / jnp.sqrt(jnp.mean(jnp.square(found))),
            params["heads"],
            changes,
            spread,
        )
        return params, fixed | {"start": centre}

    def change(params, fixed, task):
        x = (params["embeddings"] if given is None else fixed["conditions"])[task]
        x = mip_encode(x) if encoding == "circle" else x
        for layer in params["layers"]:
            x = jax.nn.leaky_relu(x @ layer["kernel"] + layer["bias"], SLOPE)
        return jax.tree.map(lambda head: jnp.tensordot(x, head, 1), params["heads"])

    def generate(params, fixed, task):
        return jax.tree.map(jnp.add, (params if residual else fixed)["start"], change(params, fixed, task))

    return hypernetwork("mip_hypernet", num_tasks, beta, Hypernet(make, generate))


def draw_layers(rng: jax.Array, widths: Sequence[int]) -> list[dict[str, jax.Array]]:
    """Dense layers whose outputs are as long as their inputs, if they are leaky."""
    gain = math.sqrt(2 / (1 + SLOPE**2))
    return [
        {"kernel": gain / math.sqrt(out) * jax.random.normal(key, (given, out)), "bias": jnp.zeros(out)}
        for key, (given, out) in zip(jax.random.split(rng, len(widths)), itertools.pairwise(widths), strict=False)
    ]


def draw_heads(rng: jax.Array, width: int, network: PyTree) -> PyTree:
    """A layer from so many units to all entries of a network, each leaf `[width, ...]`."""
    leaves, tree = jax.tree.flatten(network)
    scale = 1 / math.sqrt(sum(leaf.size for leaf in leaves))
    keys = jax.random.split(rng, len(leaves))
    drawn = [scale * jax.random.normal(k, (width, *x.shape), x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)
