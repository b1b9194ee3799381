"""Prefix tuning: trained keys and values in front of those that attention computes.

Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021, arXiv 2101.00190. Where we
differ: the prefix is trained directly, without the paper's MLP reparametrisation. Written from the description; no
code was opened.
"""

import jax
import jax.numpy as jnp

from ctrain_jax.core import Model, ModelTransform
from ctrain_jax.ops import check_positive
from ctrain_jax.peft._base import frozen_base


def prefix(length: int, *, train: str | None = None, stddev: float = 0.02) -> ModelTransform:
    r"""Freeze a transformer and train `length` keys and values for each of its attention layers.

    .. math:: \mathrm{softmax}\!\left(\frac{Q [P_K; K]^\top}{\sqrt d}\right) [P_V; V]

    It reaches every `flax.linen.MultiHeadDotProductAttention` of a linen model that is called without a mask.

    Args:
      length: keys and values added to each layer.
      train: pattern of base leaves that stay trained themselves (a new head, say); None for none.
      stddev: of the initial keys and values.

    Returns:
      The transform of a model. Its `frozen` holds the base; `params["new"]` is
      `{layer: {"key" | "value": [length, heads, d]}}`.

    Raises:
      ValueError: `length` below 1; when the model is made, a model without such a layer.

    Example:
      >>> prefix(0)
      Traceback (most recent call last):
      ...
      ValueError: length must be above 0, got 0: give a larger number.
    """
    check_positive("length", length)

    def transform(model: Model) -> Model:
        def extend(rng, inputs, base):
            import flax.linen as nn

            shapes: dict[str, dict[str, tuple[int, ...]]] = {}

            def see(next_call, args, kwargs, context):
                answer = next_call(*args, **kwargs)
                place = _place(context)
                if place is not None:
                    shapes.setdefault(place[0], {})[place[1]] = (length, *answer.shape[-2:])
                return answer

            with nn.intercept_methods(see):
                jax.eval_shape(lambda v, x: model.apply(v, x)[0], base, inputs)
            if not shapes:
                raise ValueError(
                    "prefix reaches flax.linen.MultiHeadDotProductAttention, and the model calls none: "
                    "use a transformer such as models.ViT."
                )
            keys = iter(jax.random.split(rng, 2 * len(shapes)))
            return {
                layer: {kind: stddev * jax.random.normal(next(keys), shape) for kind, shape in kinds.items()}
                for layer, kinds in shapes.items()
            }

        def apply(new, base, inputs, **options):
            import flax.linen as nn

            def add(next_call, args, kwargs, context):
                answer = next_call(*args, **kwargs)
                place = _place(context)
                if place is None:
                    return answer
                own = new[place[0]][place[1]].astype(answer.dtype)
                own = jnp.broadcast_to(own, (*answer.shape[:-3], *own.shape))
                return jnp.concatenate([own, answer], axis=-3)

            with nn.intercept_methods(add):
                return model.apply(base, inputs, **options)

        return frozen_base(model, train, extend, apply)

    return transform


def _place(context) -> tuple[str, str] | None:
    """(attention layer, "key" or "value") for the projections that make keys and values."""
    import flax.linen as nn

    module = context.module
    is_projection = context.method_name == "__call__" and module.name in ("key", "value")
    if not is_projection or not isinstance(module.parent, nn.MultiHeadDotProductAttention):
        return None
    return ".".join(module.path[:-1]), module.name
