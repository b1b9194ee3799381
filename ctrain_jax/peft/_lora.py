"""LoRA: low-rank adaptation.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685. Where we differ: every
kernel is adapted by default, not those of attention alone, and so are kernels of more than two axes: as the matrix that
their dense layer multiplies with, and elsewhere (convolutions) split where the matrix is most square, which is where
rank r costs least. Written from the equations; no code was opened.
"""

import math

import jax
import jax.numpy as jnp

from ctrain_jax.core import Model, ModelTransform
from ctrain_jax.ops import check_choice, check_pattern, check_positive, check_size, matrix_shape
from ctrain_jax.peft._base import adapted, beside_dense, check_dense, dense_layers, frozen_base, name_of


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
    check_pattern("match", match)
    check_pattern("train", train)
    check_positive("alpha", rank if alpha is None else alpha)
    check_choice("form", form, ("intercept", "tree"))
    scale = 1.0 if alpha is None else alpha / rank

    def transform(model: Model) -> Model:
        def extend(rng, inputs, base):
            kernels = adapted(base, match, train)
            inside = dense_layers(model, base, inputs)
            if form == "intercept":
                check_dense("lora's intercept form", kernels, inside, ", or use form='tree'")
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
            def add(name, x):
                pair = new.get(name)
                return None if pair is None else (scale * (x @ pair["a"].astype(x.dtype))) @ pair["b"].astype(x.dtype)

            return beside_dense(model, base, inputs, add, **options)

        return frozen_base(model, train, extend, tree if form == "tree" else intercept)

    return transform


def _init(rng: jax.Array, name: str, kernel: jax.Array, split: int | None, rank: int) -> dict[str, jax.Array]:
    if kernel.ndim < 2:
        raise ValueError(f"lora adapts kernels of two axes or more, got {name} {kernel.shape}: narrow the pattern.")
    if split is None:
        rows, columns = matrix_shape(kernel.shape)
    else:
        rows, columns = math.prod(kernel.shape[:split]), math.prod(kernel.shape[split:])
    return {"a": jax.random.normal(rng, (rows, rank)) / math.sqrt(rows), "b": jnp.zeros((rank, columns))}
