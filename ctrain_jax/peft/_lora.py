"""LoRA: low-rank adaptation.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685. Where we differ: kernels of
more than two axes (attention, convolutions) are adapted as matrices too, split where the matrix is most square, which
is where rank r costs least. Written from the equations; no code was opened.
"""

import math

import jax
import jax.numpy as jnp

from ctrain_jax.core import Model, ModelTransform
from ctrain_jax.ops import check_choice, check_positive
from ctrain_jax.peft._base import frozen_base, matching, name_of


def lora(
    rank: int, *, alpha: float | None = None, match: str = r"kernel$", train: str | None = None, form: str = "intercept"
) -> ModelTransform:
    r"""Freeze a model and train a low-rank correction of its kernels.

    .. math:: y = x W + \frac{\alpha}{r} \, x A B, \qquad A \in R^{d \times r},\; B \in R^{r \times k}

    with :math:`A` Gaussian of variance :math:`1/d` and :math:`B = 0`, so that training starts at the base model.

    Args:
      rank: r.
      alpha: the scale is `alpha / rank`; `rank` by default.
      match: pattern (`re.search`) of the kernels that are adapted, by names like `Dense_0.kernel`.
      train: pattern of base leaves that stay trained themselves (a new head, say); None for none.
      form: "intercept" computes `x A B` beside each `nn.Dense` and `nn.DenseGeneral` of a linen model and never the
        gradient of W: cheaper. "tree" adds `A B` to the kernel, and works for any model. Both are the same function.

    Returns:
      The transform of a model. Its `frozen` holds the base. To start from a trained base, give its Variables to
      `run_stream(..., variables=...)`.

    Raises:
      ValueError: a bad argument here; when the model is made, a pattern that matches nothing or a leaf that is no kernel
        of a dense layer ("intercept").

    Example:
      >>> import flax.linen as nn
      >>> from ctrain_jax import core
      >>> model = lora(2)(core.from_linen(nn.Dense(3)))
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 5)))
      >>> jax.tree.map(jnp.shape, variables.params["new"])
      {'kernel': {'a': (5, 2), 'b': (2, 3)}}
    """
    check_positive("rank", rank)
    check_choice("form", form, ("intercept", "tree"))
    scale = (rank if alpha is None else alpha) / rank

    def transform(model: Model) -> Model:
        def extend(rng, inputs, base):
            kernels = matching(base.params, match)
            if form == "intercept":
                _check_dense(model, base, inputs, kernels)
            keys = jax.random.split(rng, len(kernels))
            return {name: _init(key, kernel, rank) for key, (name, kernel) in zip(keys, kernels.items(), strict=True)}

        def tree(new, base, inputs, **options):
            def merge(path, kernel):
                if name_of(path) not in new:
                    return kernel
                pair = new[name_of(path)]
                return kernel + scale * (pair["a"] @ pair["b"]).reshape(kernel.shape).astype(kernel.dtype)

            merged = jax.tree_util.tree_map_with_path(merge, base.params)
            return model.apply(base._replace(params=merged), inputs, **options)

        def intercept(new, base, inputs, **options):
            import flax.linen as nn

            def add(next_call, args, kwargs, context):
                answer = next_call(*args, **kwargs)
                pair = new.get(_kernel_name(context))
                if pair is None:
                    return answer
                x = args[0]
                axes = _contracted(context.module, x)
                flat = x.reshape(*x.shape[: x.ndim - axes], -1)
                low = scale * (flat @ pair["a"].astype(flat.dtype)) @ pair["b"].astype(flat.dtype)
                return answer + low.reshape(answer.shape)

            with nn.intercept_methods(add):
                return model.apply(base, inputs, **options)

        return frozen_base(model, train, extend, tree if form == "tree" else intercept)

    return transform


def _init(rng: jax.Array, kernel: jax.Array, rank: int) -> dict[str, jax.Array]:
    if kernel.ndim < 2:
        raise ValueError(f"lora adapts kernels of at least two axes, got shape {kernel.shape}: narrow the pattern.")
    split = _split(kernel.shape)
    rows, columns = math.prod(kernel.shape[:split]), math.prod(kernel.shape[split:])
    return {"a": jax.random.normal(rng, (rows, rank)) / math.sqrt(rows), "b": jnp.zeros((rank, columns))}


def _split(shape: tuple[int, ...]) -> int:
    """How many leading axes are the input: where the matrix is most square, the latest such place."""
    return min(range(len(shape) - 1, 0, -1), key=lambda k: math.prod(shape[:k]) + math.prod(shape[k:]))


def _kernel_name(context) -> str | None:
    import flax.linen as nn

    module = context.module
    if context.method_name != "__call__" or not isinstance(module, nn.Dense | nn.DenseGeneral):
        return None
    return ".".join((*module.path, "kernel"))


def _contracted(module, x: jax.Array) -> int:
    """How many last axes of the input a dense layer contracts."""
    import flax.linen as nn

    if isinstance(module, nn.Dense):
        return 1
    axes = (module.axis,) if isinstance(module.axis, int) else tuple(module.axis)
    if module.batch_dims or sorted(a % x.ndim for a in axes) != list(range(x.ndim - len(axes), x.ndim)):
        raise ValueError(f"lora's intercept form reaches layers over the last axes, got axis={axes}: use form='tree'.")
    return len(axes)


def _check_dense(model: Model, base, inputs: jax.Array, kernels: dict[str, jax.Array]) -> None:
    import flax.linen as nn

    splits: dict[str, int] = {}

    def see(next_call, args, kwargs, context):
        name = _kernel_name(context)
        if name is not None:
            splits[name] = _contracted(context.module, args[0])
        return next_call(*args, **kwargs)

    with nn.intercept_methods(see):
        jax.eval_shape(lambda v, x: model.apply(v, x)[0], base, inputs)
    unreached = sorted(n for n, k in kernels.items() if n not in splits or splits[n] != _split(k.shape))
    if unreached:
        raise ValueError(
            f"lora's intercept form reaches dense layers of linen models only, and {', '.join(unreached)} "
            "is none of them: narrow the pattern, or use form='tree'."
        )
