"""MoRA: each rank of a low-rank correction is an expert that says itself how much it is meant.

Lu et al., "Little By Little: Continual Learning via Self-Activated Sparse Mixture-of-Rank Adaptive Learning", 2025,
arXiv 2506.21035. Written from a description; of the paper the abstract was opened, of what others wrote of it a summary
with the same equations and four reviews; no code was. Values of the paper are not known to us. Where we differ, as far
as those tell: the threshold holds in training too, in the paper in tests alone; the optimizer starts anew with each
experience; and a new rank starts at what its layer sees of a row of the experience. Drawn at random it is hardly ever
among the few that an input activates most, beside ranks that were trained: on turned digits, the later an experience,
the less of it was learned. As in the summary, what the softmax gives to ranks that are left out goes to no other.
"""

import jax
import jax.core
import jax.numpy as jnp

from ctrain_jax.core import Method
from ctrain_jax.ops import check_positive, check_size, unit
from ctrain_jax.peft._increments import increments, largest, live


def mora(
    num_tasks: int,
    rank: int,
    *,
    budget: int,
    alpha: float = 1.0,
    temperature: float = 0.1,
    threshold: float = 0.0,
    match: str = r"kernel$",
    train: str | None = None,
) -> Method:
    r"""Freeze a model; each experience trains ranks of its own, and an input takes the few that it activates.

    Beside each dense layer are R ranks, those of this experience and of all before it. With the activations
    :math:`h_i = a_i^\top x`,

    .. math:: s = \frac{h}{\|h\|_2}, \qquad w = \mathrm{softmax}(s / \tau), \qquad
              y = x W + \alpha \sum_{i \in K,\; s_i \ge \delta} w_i \, h_i \, b_i^\top

    where K are the `budget` largest scores. There is no router: a rank scores itself, so ranks of earlier experiences,
    which no longer move, are taken where they fit. Those of a new one start with :math:`b_i = 0` and an :math:`a_i` of
    length 1 along what the layer sees of a row of it: an answer changes by the share that they take from others. A rank
    that would start at 0 or like another one starts at random, and so do those of a layer inside of `nn.remat`.

    It tells inputs apart by their direction, and is for layers that see inputs with a mean near 0, as normalised tokens
    or pixels less their mean. Of pixels as they are, all ranks point along the mean, and it forgot as much as `lora`.

    Start from a trained network: `core.run_stream(learner, variables=...)`.

    Args:
      num_tasks: experiences that there is room for.
      rank: ranks of an experience.
      budget: how many ranks an input may take in a layer.
      alpha: scales what is added.
      temperature: :math:`\tau`. Where it is large the R ranks are those of `lora(R, alpha=alpha)`.
      threshold: :math:`\delta`, from -1 to 1; below it a rank is left out.
      match: pattern (`re.search`) of the kernels, by names like `Dense_0.kernel`; of dense layers of linen models.
      train: pattern of base leaves that stay trained themselves, through all experiences (a head, say); None for none.

    Returns:
      The method. `params["new"]` is `{kernel: {"a": [d, rank], "b": [rank, k]}}` of this experience; `frozen` holds the
      base and the ranks of all.

    Raises:
      ValueError: `num_tasks`, `rank` or `budget` below 1, `alpha` or `temperature` not above 0, a `threshold` outside
        of [-1, 1]; when a learner is made, a pattern that finds nothing, a kernel of no dense layer, or more
        experiences than `num_tasks`.

    Example:
      >>> mora(5, 4, budget=4).needs
      ('boundaries',)

    References:
      Lu et al. 2025, arXiv 2506.21035.
    """
    check_size("budget", budget)
    check_positive("alpha", alpha)
    check_positive("temperature", temperature)
    if not isinstance(threshold, jax.core.Tracer) and not -1 <= threshold <= 1:
        raise ValueError(f"threshold must be between -1 and 1, got {threshold!r}: it is one of cosines.")

    def keep(model, variables, inputs):
        values = {"alpha": alpha, "temperature": temperature, "threshold": threshold}
        return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}

    def route(model, frozen, inputs, task):
        alive = jnp.repeat(live(frozen, num_tasks), rank)

        def gate(kernel, seen):
            flat = seen.reshape(*seen.shape[:-2], -1)
            weights = rank_weights(flat, alive, budget, frozen["temperature"], frozen["threshold"])
            return (frozen["alpha"] * weights * flat).reshape(seen.shape).astype(seen.dtype)

        return gate

    return increments("mora", num_tasks, rank, match, train, keep, route, see=True)


def rank_weights(
    activations: jax.Array, alive: jax.Array, budget: int, temperature: jax.Array, threshold: jax.Array
) -> jax.Array:
    """By how much each rank is taken: [..., R] from activations [..., R], of those that are alive [R]."""
    scores = unit(jnp.where(alive, activations, 0).astype(jnp.float32))
    scores = jnp.where(alive, scores, -jnp.inf)
    weights = jax.nn.softmax(scores / temperature)
    return jnp.where(largest(scores, budget) & (scores >= threshold), weights, 0).astype(activations.dtype)
