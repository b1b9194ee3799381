"""LoRA: low-rank adaptation.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685. Where we differ: every
kernel is adapted by default, not those of attention alone, and so are kernels of more than two axes: as the matrix that
their dense layer multiplies with, and elsewhere (convolutions) split where the matrix is most square, which is where
rank r costs least. Written from the equations; no code was opened.
"""

import math
import re

import jax
import jax.numpy as jnp

from ctrain_jax.core import Model, ModelTransform, Variables
from ctrain_jax.ops import check_choice, check_positive, check_size, matrix_shape
from ctrain_jax.peft._base import Named, frozen_base, matching, name_of, named_leaves, probe


def lora(
    rank: int, *, alpha: float | None = None, match: str = r"kernel$", train: str | None = None, form: str = "intercept"
) -> ModelTransform:
    r"""Freeze a model and train a low-rank correction of its kernels.

    .. math:: y = x W + \frac{\alpha}{r} \, x A B, \qquad A \in R^{d \times r},\; B \in R^{r \times k}

    with :math:`A` Gaussian of variance :math:`1/d` and :math:`B = 0`, so that training starts at the base model.

    As a method of a learner it starts from the trained variables of the base; as a model, from a base whose `init`
    returns them:

        learner = core.make_learner(base, core.Method("lora", model=lora(4)), ...)
        core.run_stream(learner, variables=trained)

        lora(4)(base._replace(init=lambda rng, inputs: trained))

    Args:
      rank: r.
      alpha: the scale is `alpha / rank`; `rank` by default.
      match: pattern (`re.search`) of the kernels that are adapted, by names like `Dense_0.kernel`.
      train: pattern of base leaves that stay trained themselves (a new head, say), and so need no correction; None for
        none. Of a base that is itself a transform, `"^new"` keeps what that one trains.
      form: "intercept" computes `x A B` beside each `nn.Dense` and `nn.DenseGeneral` of a linen model and never the
        gradient of W: cheaper. "tree" adds `A B` to the kernel, and works for any model. Both are the same function.

    Returns:
      The transform of a model. `params["new"]` is `{kernel: {"a": [d, r], "b": [r, k]}}`, float32; `frozen` holds the
      base.

    Raises:
      ValueError: a bad argument here; when the model is made, a pattern that matches nothing, or a kernel that the
        form cannot adapt.

    Example:
      >>> import flax.linen as nn
      >>> from ctrain_jax import core
      >>> model = lora(2)(core.from_linen(nn.Dense(3)))
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 5)))
      >>> jax.tree.map(jnp.shape, variables.params["new"])
      {'kernel': {'a': (5, 2), 'b': (2, 3)}}

    References:
      Hu et al. 2022, arXiv 2106.09685.
    """
    check_size("rank", rank)
    check_positive("alpha", rank if alpha is None else alpha)
    check_choice("form", form, ("intercept", "tree"))
    scale = 1.0 if alpha is None else alpha / rank

    def transform(model: Model) -> Model:
        def extend(rng, inputs, base):
            kernels = _adapted(base, match, train)
            inside = _dense_layers(model, base, inputs)
            outside = sorted(kernels.keys() - inside.keys())
            if outside and form == "intercept":
                raise ValueError(
                    "lora's intercept form reaches dense layers of linen models, over the last axes of their input, "
                    f"and {', '.join(outside)} is in none of them: narrow the pattern, or use form='tree'."
                )
            keys = jax.random.split(rng, len(kernels))
            return {
                name: _init(key, name, kernel, inside.get(name), rank)
                for key, (name, kernel) in zip(keys, kernels.items(), strict=True)
            }

        def tree(new, base, inputs, **options):
            def merge(path, kernel):
                pair = new.get(name_of(path))
                if pair is None:
                    return kernel
                return kernel + (scale * pair["a"] @ pair["b"]).reshape(kernel.shape).astype(kernel.dtype)

            merged = jax.tree_util.tree_map_with_path(merge, base.params)
            return model.apply(base._replace(params=merged), inputs, **options)

        def intercept(new, base, inputs, **options):
            import flax.linen as nn

            def add(next_call, args, kwargs, context):
                answer = next_call(*args, **kwargs)
                pair = new.get(_kernel_name(context))
                if pair is None:
                    return answer
                # The computation runs in the layer's own dtype.
                a, b = pair["a"].astype(answer.dtype), pair["b"].astype(answer.dtype)
                x = next(iter((*args, *kwargs.values()))).astype(answer.dtype)
                flat = x.reshape(*x.shape[: x.ndim - _contracted(context.module, x)], -1)
                return answer + (scale * (flat @ a) @ b).reshape(answer.shape).astype(answer.dtype)

            with nn.intercept_methods(add):
                return model.apply(base, inputs, **options)

        return frozen_base(model, train, extend, tree if form == "tree" else intercept)

    return transform


def _adapted(base: Variables, match: str, train: str | None) -> Named:
    kernels = matching(base.params, match)
    adapted = {name: kernel for name, kernel in kernels.items() if train is None or not re.search(train, name)}
    if not adapted:
        raise ValueError(f"train={train!r} names every kernel that match={match!r} finds: narrow one of the patterns.")
    return adapted


def _init(rng: jax.Array, name: str, kernel: jax.Array, split: int | None, rank: int) -> dict[str, jax.Array]:
    if kernel.ndim < 2:
        raise ValueError(f"lora adapts kernels of two axes or more, got {name} {kernel.shape}: narrow the pattern.")
    if split is None:
        rows, columns = matrix_shape(kernel.shape)
    else:
        rows, columns = math.prod(kernel.shape[:split]), math.prod(kernel.shape[split:])
    return {"a": jax.random.normal(rng, (rows, rank)) / math.sqrt(rows), "b": jnp.zeros((rank, columns))}


def _dense_layers(model: Model, base: Variables, inputs: jax.Array) -> dict[str, int]:
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
