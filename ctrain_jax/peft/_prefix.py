"""Prefix tuning: trained keys and values in front of those that attention computes.

Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021, arXiv 2101.00190. Where we
differ: the prefix is trained directly, without the paper's MLP reparametrisation. Written from the description; no
code was opened.
"""

import jax
import jax.numpy as jnp

from ctrain_jax.core import Model, ModelTransform
from ctrain_jax.ops import check_pattern, check_positive, check_size
from ctrain_jax.peft._base import frozen_base, probe


def prefix(length: int, *, train: str | None = None, stddev: float = 0.02) -> ModelTransform:
    r"""Freeze a transformer and train `length` keys and values for each head of each of its attention layers.

    .. math:: \mathrm{softmax}\!\left(\frac{Q [P_K; K]^\top}{\sqrt d}\right) [P_V; V]

    It reaches every `flax.linen.MultiHeadDotProductAttention` of a linen model; a mask never hides the prefix. How to
    start from a trained base: see `lora`.

    Args:
      length: keys and values added to each layer; the paper uses 10 to 200.
      train: pattern of base leaves that stay trained themselves (a new head, say); None for none. Of a base that is
        itself a transform, `"^new"` keeps what that one trains: `prefix(4, train="^new")(lora(2)(model))`.
      stddev: of the initial keys and values.

    Returns:
      The transform of a model. `params["new"]` is `{layer: {"key" | "value": [length, heads, d]}}`, float32; `frozen`
      holds the base.

    Raises:
      ValueError: `length` below 1, `stddev` not positive; when the model is made, a model without such a layer, or with
        one that decodes with a cache.

    Example:
      >>> from ctrain_jax import core, models
      >>> model = prefix(3)(core.from_linen(models.ViT(10, width=16, depth=1, heads=4)))
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 28, 28)))
      >>> jax.tree.map(jnp.shape, variables.params["new"])
      {'block_0.attention': {'key': (3, 4, 4), 'value': (3, 4, 4)}}

    References:
      Li and Liang 2021, arXiv 2101.00190.
    """
    check_size("length", length)
    check_pattern("train", train)
    check_positive("stddev", stddev)

    def transform(model: Model) -> Model:
        def extend(rng, inputs, base):
            shapes: dict[str, dict[str, tuple[int, ...]]] = {}

            def see(context, x, answer):
                place = _place(context)
                if place is not None:
                    shapes.setdefault(place[0], {})[place[1]] = (length, *answer.shape[-2:])

            probe(model, base, inputs, see)
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
                is_attention = isinstance(context.module, nn.MultiHeadDotProductAttention)
                if is_attention and kwargs.get("mask") is not None:
                    kwargs = {**kwargs, "mask": _open(kwargs["mask"], length)}
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


def _open(mask: jax.Array, length: int) -> jax.Array:
    """A mask `[..., queries, keys]` that lets every query see a prefix of this length."""
    return jnp.concatenate([jnp.ones((*mask.shape[:-1], length), mask.dtype), mask], axis=-1)


def _place(context) -> tuple[str, str] | None:
    """(attention layer, "key" or "value") for the projections that make keys and values."""
    import flax.linen as nn

    module, layer = context.module, context.module.parent
    is_projection = context.method_name == "__call__" and module.name in ("key", "value")
    if not is_projection or not isinstance(layer, nn.MultiHeadDotProductAttention):
        return None
    name = ".".join(module.path[:-1])
    if layer.decode:
        raise ValueError(
            f"prefix does not reach attention that decodes with a cache, and {name} does: set decode=False."
        )
    return name, module.name
