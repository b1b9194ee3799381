"""Models from flax modules, of either API, or by hand."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ctrain_jax.core._base import Model, Outputs, PyTree, Variables


def from_linen(module: Any) -> Model:
    """A model from a `flax.linen` module.

    The module is called as `module(inputs)`, with `train=` and `task=` where its `__call__` names them. It returns
    logits, a pair (logits, features), or `Outputs`. The collection `params` is trained, every other one (say
    `batch_stats`) is carried as `model_state`. Random streams (dropout) are seeded by the step.

    Args:
      module: an instance of `flax.linen.Module`.

    Returns:
      The model.

    Raises:
      TypeError: `module` is not a linen module (a class instead of an instance, say).

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> model = from_linen(nn.Dense(3))
      >>> variables = model.init(jax.random.key(0), jnp.zeros((2, 4)))
      >>> model.apply(variables, jnp.zeros((2, 4)))[0].logits.shape
      (2, 3)
    """
    import flax.linen as nn

    if not isinstance(module, nn.Module):
        raise TypeError(f"from_linen expects an instance of flax.linen.Module, got {module!r}: call the class first.")
    named = _keywords(type(module).__call__)

    def call(collections, inputs, train, rng, task, mutable):
        rngs = None if rng is None else {"params": rng}  # linen falls back to "params" for any other stream
        options = _options(named, train, task)
        return module.apply(collections, inputs, rngs=rngs, mutable=mutable, **options)

    def init(rng: jax.Array, inputs: jax.Array) -> Variables:
        collections = dict(module.init(rng, inputs, **_options(named, False, None)))
        return Variables(collections.pop("params", {}), collections, ())

    def apply(variables, inputs, *, train=False, rng=None, task=None):
        collections = {"params": variables.params, **variables.model_state}
        mutable = list(variables.model_state) if train else []
        answer, written = call(collections, inputs, train, rng, task, mutable)
        return as_outputs(answer), {**variables.model_state, **written}

    return Model(init, apply)


def from_nnx(make: Callable[[Any], Any]) -> Model:
    """A model from a `flax.nnx` module, by its constructor.

    `nnx.Param` is trained; every other state (BatchNorm statistics) is carried as `model_state`; random streams
    (dropout) are reseeded by the step, so that they are a function of (seed, experience, step).

    Args:
      make: builds the module from `nnx.Rngs`: `lambda rngs: Net(rngs=rngs)`. Its `__call__` is used as in
        `from_linen`; `module.train()` and `module.eval()` are set by the step.

    Returns:
      The model.

    Raises:
      TypeError: `make` is a module instead of a function that builds one.

    Example:
      >>> from flax import nnx
      >>> model = from_nnx(lambda rngs: nnx.Linear(4, 3, rngs=rngs))
      >>> variables = model.init(jax.random.key(0), jnp.zeros((2, 4)))
      >>> model.apply(variables, jnp.zeros((2, 4)))[0].logits.shape
      (2, 3)
    """
    from flax import nnx

    if isinstance(make, nnx.Module) or not callable(make):
        raise TypeError("from_nnx expects a function of nnx.Rngs that builds the module: lambda rngs: Net(rngs=rngs).")

    def split(module):
        graph, params, streams, rest = nnx.split(module, nnx.Param, nnx.RngState, ...)
        return graph, nnx.to_pure_dict(params), streams, nnx.to_pure_dict(rest)

    # The structure of the module, without its arrays.
    example = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    graph, abstract_params, abstract_streams, abstract_rest = nnx.split(example, nnx.Param, nnx.RngState, ...)
    named = _keywords(type(example).__call__)

    def init(rng: jax.Array, inputs: jax.Array) -> Variables:
        del inputs
        _, params, _, rest = split(make(nnx.Rngs(rng)))
        return Variables(params, rest, ())

    def apply(variables, inputs, *, train=False, rng=None, task=None):
        params, rest = nnx.clone(abstract_params), nnx.clone(abstract_rest)
        nnx.replace_by_pure_dict(params, variables.params)
        nnx.replace_by_pure_dict(rest, variables.model_state)
        seed = jax.random.key(0) if rng is None else rng
        leaves, tree = jax.tree.flatten(abstract_streams)
        leaves = [
            jax.random.fold_in(seed, i) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else jnp.zeros(x.shape, x.dtype)
            for i, x in enumerate(leaves)
        ]
        module = nnx.merge(graph, params, jax.tree.unflatten(tree, leaves), rest)
        (module.train if train else module.eval)()
        answer = module(inputs, **_options(named, train, task))
        return as_outputs(answer), split(module)[3]

    return Model(init, apply)


def as_outputs(answer: Any) -> Outputs:
    """`Outputs` from what a module returned: logits, (logits, features), or `Outputs` itself."""
    if isinstance(answer, Outputs):
        return answer
    if isinstance(answer, tuple) and len(answer) == 2:
        logits, features = answer
        return Outputs(logits, features)
    if isinstance(answer, jax.Array):
        return Outputs(answer)
    raise TypeError(
        f"A model returns logits, (logits, features) or core.Outputs, got {type(answer).__name__}: change its __call__."
    )


def _keywords(call: Callable) -> frozenset[str]:
    return frozenset(inspect.signature(call).parameters) & {"train", "task"}


def _options(named: frozenset[str], train: bool, task: PyTree) -> dict[str, Any]:
    return {name: value for name, value in (("train", train), ("task", task)) if name in named}
