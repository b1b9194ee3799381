"""What `packnet` and `dst_cl` share: kernels whose weights belong to one task each, and an output layer for each."""

import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.continual.architecture._tasks import by_task, check_kernels, copies, name_of, named
from ctrain_jax.core import Context, Model, PyTree, Variables

Named = dict[str, jax.Array]


class Parts(NamedTuple):
    """Which parameters are kernels that tasks share, and of which each has its own; the rest is the first one's."""

    match: str
    own: str | None

    def owned(self, name: str) -> bool:
        """Each task has a copy of it."""
        return self.own is not None and re.search(self.own, name) is not None

    def shared(self, name: str) -> bool:
        """A kernel whose weights are divided among tasks."""
        return not self.owned(name) and re.search(self.match, name) is not None

    def kernels(self, tree: PyTree) -> Named:
        """Those of a tree like the parameters, by name."""
        return {name: leaf for name, leaf in named(tree).items() if self.shared(name)}

    def put(self, tree: PyTree, kernels: Named) -> PyTree:
        """The tree with these kernels."""
        return jax.tree_util.tree_map_with_path(lambda path, leaf: kernels.get(name_of(path), leaf), tree)

    def moves(self, tree: PyTree, kernels: Named, ctx: Context) -> PyTree:
        """Masks like the parameters: of kernels those given, the task's own, and in the first experience the rest."""

        def one(path, leaf):
            name = name_of(path)
            if name in kernels:
                return kernels[name]
            if self.owned(name):
                return (jnp.arange(len(leaf)) == ctx.experience.task).reshape(-1, *[1] * (leaf.ndim - 1))
            return ctx.experience.index == 0

        return jax.tree_util.tree_map_with_path(one, tree)


def isolated(
    who: str,
    num_tasks: int,
    parts: Parts,
    start: Callable[[Named], dict[str, PyTree]],
    see: Callable[[dict[str, PyTree], str, jax.Array, jax.Array], jax.Array],
) -> Callable[[Model], Model]:
    """The model whose kernels a task sees as `see(frozen, name, kernel, task)`; `frozen` starts as `start(kernels)`.

    `params` are those of the model; of those that each task has for itself, a copy for each along a first axis.
    """

    def model(inner):
        def init(rng, inputs):
            made = inner.init(rng, inputs)
            everything = named(made.params)
            if parts.own is not None and not any(map(parts.owned, everything)):
                raise ValueError(
                    f"{who}: own={parts.own!r} finds no parameter: choose from {', '.join(sorted(everything))}, or "
                    "give None for an output layer that tasks share."
                )
            kernels = parts.kernels(made.params)
            check_kernels(who, parts.match, everything, kernels)
            params = jax.tree_util.tree_map_with_path(
                lambda path, leaf: copies(leaf, num_tasks) if parts.owned(name_of(path)) else leaf, made.params
            )
            return Variables(params, copies(made.model_state, num_tasks), {"base": made.frozen, **start(kernels)})

        def network(variables, task):
            def one(path, leaf):
                name = name_of(path)
                if parts.owned(name):
                    return leaf[task]
                return see(variables.frozen, name, leaf, task) if parts.shared(name) else leaf

            return jax.tree_util.tree_map_with_path(one, variables.params)

        return Model(init, by_task(who, num_tasks, inner, network))

    return model
