"""What the transforms of a trained model share: a base that is frozen, but for the leaves that a pattern names."""

import re
from collections.abc import Callable, Iterable
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


def adapted(base: Variables, match: str, train: str | None) -> Named:
    """The kernels that a correction is for: of those that `match` finds the ones that `train` leaves frozen."""
    kernels = matching(base.params, match)
    found = {name: kernel for name, kernel in kernels.items() if train is None or not re.search(train, name)}
    if not found:
        raise ValueError(f"train={train!r} names every kernel that match={match!r} finds: narrow one of the patterns.")
    return found


def dense_layers(model: Model, base: Variables, inputs: jax.Array) -> dict[str, int]:
    """`{kernel: how many of its leading axes are the input}` of the dense layers that the model calls."""
    splits: dict[str, int] = {}
    shapes = {name: leaf.shape for name, leaf in named_leaves(base.params).items()}

    def see(context, x, answer):
        name = _kernel_name(context)
        axes = None if name is None else _contracted(context.module, x)
        if axes is None or name not in shapes:
            return
        # A kernel that a lifted layer (nn.scan) stacks has axes that the call does not see.
        if shapes[name] == (*x.shape[x.ndim - axes :], *answer.shape[x.ndim - axes :]):
            splits[name] = axes

    probe(model, base, inputs, see)
    return splits


def check_dense(what: str, kernels: Iterable[str], inside: Iterable[str], instead: str = "") -> None:
    """The kernels are all of dense layers."""
    outside = sorted(set(kernels) - set(inside))
    if outside:
        raise ValueError(
            f"{what} reaches dense layers of linen models, over the last axes of their input, and "
            f"{', '.join(outside)} is in none of them: narrow the pattern{instead}."
        )


def beside_dense(model: Model, base: Variables, inputs: jax.Array, add: Callable[..., Any], **options: Any) -> Any:
    """The linen model with something added to what its dense layers answer.

    Args:
      model, base, inputs, options: of the call.
      add: `(name of the kernel, x [..., d]) -> [..., k]`, or None where nothing is added; computes in the dtype of x,
        which is that of the layer's answer.

    Returns:
      What the model answers.
    """
    import flax.linen as nn

    def beside(next_call, args, kwargs, context):
        answer = next_call(*args, **kwargs)
        name = _kernel_name(context)
        if name is None:
            return answer
        x = next(iter((*args, *kwargs.values()))).astype(answer.dtype)
        axes = _contracted(context.module, x)
        if axes is None:
            return answer
        more = add(name, x.reshape(*x.shape[: x.ndim - axes], -1))
        return answer if more is None else answer + more.reshape(answer.shape).astype(answer.dtype)

    with nn.intercept_methods(beside):
        return model.apply(base, inputs, **options)


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


def _kernel_name(context) -> str | None:
    import flax.linen as nn

    if context.method_name != "__call__" or not isinstance(context.module, nn.Dense | nn.DenseGeneral):
        return None
    return ".".join((*context.module.path, "kernel"))


def _contracted(module, x: jax.Array) -> int | None:
    """How many last axes of its input a dense layer contracts; None where it is other axes."""
    import flax.linen as nn

    if isinstance(module, nn.Dense):
        return 1
    axes = (module.axis,) if isinstance(module.axis, int) else tuple(module.axis)
    in_order = [a % x.ndim for a in axes] == list(range(x.ndim - len(axes), x.ndim))
    return len(axes) if in_order and not module.batch_dims else None
