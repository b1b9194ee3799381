"""JARe: increments of the weights, retrieved for each row by keys in the space of a frozen encoder.

Peng et al., "Scalable Language Model with Generalized Continual Learning", ICLR 2024, arXiv 2404.07470: joint adaptive
re-parameterisation (JARe) with what they call DTKR, the retrieval. The authors' code (Pbihao/SLM: `retriever.py`,
`slm.py`, `config.py`, `train.py` for BERT, and how `vectordb` makes keys) was opened; the paper was not. The weights of
one row are those of that code within 1e-7. Where we differ: each row of a batch retrieves for itself, where that code
takes the mean similarity of a batch; only keys so far compete, where its config lets those of tasks to come compete,
too; a head is not chosen by the task; keys are means of embeddings, the one of its two ways that needs no training, of
rows as they lie, which it shuffles first; every kernel has increments, not the output projections of attention alone; a
cosine below 0 counts as nearly 0.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ctrain_jax.core import Method, Model, Variables
from ctrain_jax.ops import check_size, unit
from ctrain_jax.peft._base import named_leaves
from ctrain_jax.peft._increments import Frozen, increments, largest, live


def jare(
    num_tasks: int,
    rank: int,
    *,
    slots: int = 4,
    top_k: int = 4,
    groups: int = 1,
    encoder: Callable[[jax.Array], jax.Array] | None = None,
    match: str = r"kernel$",
    train: str | None = None,
) -> Method:
    r"""Freeze a model; an experience stores increments of its weights under keys, and a row composes those it is near.

    An experience has `slots` increments :math:`\Delta_i = A_i B_i` of each kernel, each with a key: the mean embedding
    of every `slots`-th of its rows, taken when it starts. With the embedding :math:`q(x)` of a frozen encoder,

    .. math:: c_i = \cos(q(x), k_i), \qquad w_i = \frac{c_i}{\sum_{j \in K} c_j}, \qquad
              W(x) = W_0 + \sum_{i \in K} w_i \Delta_i

    where K are the `top_k` most similar keys of all experiences so far. Nobody tells which experience a row is of, in
    training as little as in a test. Increments of earlier experiences and their keys no longer move.

    Start from a trained network: `core.run_stream(learner, variables=...)`.

    Args:
      num_tasks: experiences that there is room for.
      rank: of an increment; 12 in the authors' BERT.
      slots: increments of an experience.
      top_k: how many a row composes.
      groups: the embedding is cut into as many parts, and the cosine is the mean of theirs; 6 in the authors' code.
      encoder: `inputs [B, ...] -> [B, D]`, pure and fixed; None takes the features of the model as it started, which
        costs a second forward pass. It is to tell experiences: of permuted digits the pixels find all rows, features
        of a network of upright ones four of five.
      match: pattern (`re.search`) of the kernels, by names like `Dense_0.kernel`; of dense layers of linen models.
      train: pattern of base leaves that stay trained themselves, through all experiences (a head, say); None for none.

    Returns:
      The method; it stands first in a chain. `params["new"]` is `{kernel: {"a": [d, slots * rank], "b": [slots * rank,
      k]}}` of this experience; `frozen` holds the base, its `statistics`, the increments of all and `keys`
      [num_tasks, slots, D].

    Raises:
      ValueError: a size below 1; when a learner is made, embeddings that are not [B, D] or that `groups` does not
        divide, a pattern that finds nothing, a kernel of no dense layer, or of one that does not see a row of the batch
        on the first axis, or more experiences than `num_tasks`.

    Example:
      >>> jare(5, 4).needs
      ('boundaries',)

    References:
      Peng et al. 2024, arXiv 2404.07470.
    """
    for name, value in (("rank", rank), ("slots", slots), ("top_k", top_k), ("groups", groups)):
        check_size(name, value)

    def embed(model: Model, frozen: Frozen, inputs: jax.Array, task: jax.Array | None) -> Any:
        if encoder is not None:
            return encoder(inputs)
        base = Variables(frozen["params"], frozen["statistics"], frozen["frozen"])
        return model.apply(base, inputs, task=task)[0].features

    def keep(model, variables, inputs):
        frozen = {"statistics": variables.model_state}
        shape = jax.eval_shape(lambda f, x: embed(model, f, x, None), variables.frozen | frozen, inputs)
        if shape is None or shape.ndim != 2 or shape.shape[1] % groups:
            got = "none" if shape is None else list(shape.shape)
            raise ValueError(
                f"jare embeds a row as a vector that {groups} groups divide, and gets {got} from [B, ...]: give an "
                "encoder, a model with features [B, D], or other groups."
            )
        return frozen | {"keys": jnp.zeros((num_tasks, slots, shape.shape[1]))}

    def route(model, frozen, inputs, task):
        weights = retrieve(embed(model, frozen, inputs, task), frozen["keys"], live(frozen, num_tasks), top_k, groups)

        def gate(kernel, seen):
            if len(seen) != len(weights):
                raise ValueError(
                    f"jare gives each of {len(weights)} rows weights of its own, and the layer of {kernel} sees "
                    f"{len(seen)} on its first axis: narrow match."
                )
            own = weights.reshape(len(weights), *[1] * (seen.ndim - 3), num_tasks, slots, 1).astype(seen.dtype)
            return (seen.reshape(*seen.shape[:-1], slots, rank) * own).reshape(seen.shape)

        return gate

    def learn(frozen, ctx):
        # The model as it started is the one without increments.
        bare = jax.tree.map(jnp.zeros_like, {"new": ctx.params["new"], "past": frozen["past"]})
        leaves = named_leaves(frozen["params"])
        params = {"new": bare["new"], "base": {name: leaves[name] for name in ctx.params["base"]}}
        started = Variables(params, frozen["statistics"], frozen | {"past": bare["past"]})

        def add(carry, batch, b):
            inputs = batch["inputs"]
            seen = encoder(inputs) if encoder else ctx.model.apply(started, inputs, task=batch["task"])[0].features
            slot = jax.nn.one_hot(batch["position"] % slots, slots) * batch["weights"][:, None]
            return carry[0] + slot.T @ seen.astype(jnp.float32), carry[1] + slot.sum(0)

        sums, numbers = ctx.scan(add, (jnp.zeros(frozen["keys"].shape[1:]), jnp.zeros(slots)))
        keys = frozen["keys"].at[frozen["task"]].set(sums / jnp.maximum(numbers, 1)[:, None])
        return frozen | {"keys": keys}

    return increments("jare", num_tasks, slots * rank, match, train, keep, route, learn)


def retrieve(queries: jax.Array, keys: jax.Array, alive: jax.Array, top_k: int, groups: int = 1) -> jax.Array:
    """The weights [B, T, S] of the increments with keys [T, S, D] of the experiences alive [T]; they sum to 1."""
    seen = unit(queries.astype(jnp.float32).reshape(len(queries), groups, -1))
    cosines = jnp.einsum("bgd,tsgd->bts", seen, unit(keys.reshape(*keys.shape[:2], groups, -1))) / groups
    cosines = jnp.where(alive[:, None], cosines, -jnp.inf).reshape(len(queries), -1)
    taken = jnp.where(largest(cosines, top_k) & (cosines > -jnp.inf), jnp.maximum(cosines, 1e-6), 0)
    return (taken / taken.sum(-1, keepdims=True)).reshape(len(queries), *keys.shape[:2])
