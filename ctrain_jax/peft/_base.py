"""What the transforms of a trained model share: a base that is frozen, but for the leaves that a pattern names."""

import re
from collections.abc import Callable
from typing import Any

import jax

from ctrain_jax.core import Model, PyTree, Variables

Named = dict[str, jax.Array]


def name_of(path: tuple) -> str:
    """The name of a leaf: `Dense_0.kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def named_leaves(tree: PyTree) -> Named:
    """`{name: leaf}`."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def matching(tree: PyTree, pattern: str) -> Named:
    """The leaves whose name the pattern finds; a pattern that finds none is a ValueError."""
    leaves = named_leaves(tree)
    found = {name: leaf for name, leaf in leaves.items() if re.search(pattern, name)}
    if not found:
        raise ValueError(f"The pattern {pattern!r} matches no parameter: choose from {', '.join(sorted(leaves))}.")
    return found


def probe(model: Model, base: Variables, inputs: jax.Array, see: Callable[..., None]) -> None:
    """Calls `see(context, x, answer)` with the shapes of each call of a linen layer on one input; computes nothing.

    Args:
      model: any model; one that is not made of linen modules calls nothing.
      base: its variables.
      inputs: `[B, ...]`.
      see: is given the context of the call, the layer's first argument and its answer.
    """
    import flax.linen as nn

    def watch(next_call, args, kwargs, context):
        answer = next_call(*args, **kwargs)
        if context.method_name == "__call__":
            see(context, next(iter((*args, *kwargs.values())), None), answer)
        return answer

    with nn.intercept_methods(watch):
        jax.eval_shape(lambda v, x: model.apply(v, x)[0], base, inputs)


def frozen_base(model: Model, train: str | None, extend: Callable[..., PyTree], apply: Callable) -> Model:
    """A model whose base is frozen, with new parameters beside it.

    Args:
      model: the base.
      train: pattern of the base's leaves that stay trained; None for none.
      extend: `(rng, inputs, variables of the base) -> new parameters`.
      apply: `(new, variables of the base, inputs, **options) -> (Outputs, model_state)`.

    Returns:
      The model; `params` is `{"new": ..., "base": {name: trained leaf}}`, `frozen` the base's params and frozen.
    """

    def init(rng: jax.Array, inputs: jax.Array) -> Variables:
        base = model.init(rng, inputs)
        trained = {} if train is None else matching(base.params, train)
        params = {"new": extend(jax.random.fold_in(rng, 1), inputs, base), "base": trained}
        return Variables(params, base.model_state, {"params": base.params, "frozen": base.frozen})

    def run(variables: Variables, inputs: jax.Array, **options: Any) -> Any:
        trained = variables.params["base"]
        whole = jax.tree_util.tree_map_with_path(
            lambda path, leaf: trained.get(name_of(path), leaf), variables.frozen["params"]
        )
        base = Variables(whole, variables.model_state, variables.frozen["frozen"])
        return apply(variables.params["new"], base, inputs, **options)

    return Model(init, run)
