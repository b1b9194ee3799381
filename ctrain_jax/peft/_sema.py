"""SEMA: adapters that are mixed by a router, and a new one only where a layer sees what none of them was made for.

Wang, Lu, Yao and Gong, "Self-Expansion of Pre-trained Models with Mixture of Adapters for Continual Learning", CVPR
2025, arXiv 2403.18886. Opened: the authors' code (huiyiwang01/SEMA-CL: backbone/sema_block.py, sema_components.py,
vit_sema.py, models/sema.py, configs); the paper was not. Where we differ: all layers that signal get their module when
the experience starts, and train together; there the first one that signals is trained alone before deeper ones are
asked again, each for as many epochs. A signal is a mean over all rows of the experience, there over any batch of 128. A
descriptor is the linear autoencoder of least error, found at once, theirs takes steps of SGD towards it; its errors are
measured when that is done, on the half of the rows that it was not fitted to; theirs are the last 500 on the way.
Layers that `layers` leaves out have no module, theirs one of the first experience. A module of a transformer's block
sees what the block is given, theirs what its attention has made of that. Beside that a step of SGD beside an older
module and the signal agree with theirs to rounding (4e-7).
"""

import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.core import Method, Model, PyTree, TrainState, Variables, mask_logits
from ctrain_jax.ops import (
    add_to_gaussians,
    check_pattern,
    check_positive,
    check_size,
    check_wrapped,
    class_gaussians,
    permute_index,
    restart,
)
from ctrain_jax.peft._base import frozen_base


class Descriptor(NamedTuple):
    """What the modules of a layer were made for, of K modules."""

    centre: jax.Array  # float32 [K, d]
    basis: jax.Array  # float32 [K, d, code], orthonormal columns
    mean: jax.Array  # float32 [K], of the errors
    scale: jax.Array  # float32 [K], one over their deviation


class SemaState(NamedTuple):
    """When a layer grows."""

    threshold: jax.Array  # float32 []
    descriptors: dict[str, Descriptor]  # by layer


def sema(
    layers: str,
    *,
    max_modules: int = 10,
    bottleneck: int = 16,
    code: int = 128,
    threshold: float = 1.0,
    train: str | None = None,
) -> Method:
    r"""Freeze a model; beside some layers a mixture of adapters, which grows where a new experience looks new.

    A layer that is given :math:`x`, of mean :math:`\bar x` over its tokens, answers, with its K modules so far,

    .. math:: y = f(x) + \sum_{k \le K} p_k \left( U_k \max(0, D_k x + b_k) + c_k \right), \qquad
              p = \mathrm{softmax}(R \bar x + r)

    The descriptor of a module are the `code` principal components of :math:`\bar x` in half of the rows it was for.
    With :math:`e_k(x)` the mean squared error of :math:`\bar x` in them, and mean :math:`\mu_k` and deviation
    :math:`\sigma_k` of these errors in the other half, a layer asks when another experience starts

    .. math:: \min_k \; \frac{1}{n} \sum_x \frac{|e_k(x) - \mu_k|}{\sigma_k} > \mathrm{threshold}

    and gets a module with a column of the router if so, which it always does in the first one. These alone are trained,
    beside what `train` names; a layer that asks for nothing reuses what it has. When the experience is over they are
    frozen. On rows of the same kind the left side is about 0.8.

    A router tells inputs apart by their direction, and a new column is trained on rows of one experience alone: it is
    for layers that see inputs with a mean near 0. Behind a ReLU rows of earlier experiences took later modules as well.

    The authors tell a row apart from the classes of its experience alone: `core.chain(peft.sema(...),
    continual.local_loss())`. Start from a trained network: `core.run_stream(learner, variables=...)`.

    Args:
      layers: pattern (`re.search`) of the modules of a linen model that grow, by names like `dense_1`, or
        `^block_[123]$` for whole blocks; the authors take the last three of twelve blocks.
      max_modules: of a layer; all have room from the start, and a layer that is full grows no more.
      bottleneck: width of an adapter.
      code: of a descriptor, smaller than the width of what the layer is given; 128 of 768 in the authors' code.
      threshold: 1 or 2 in the authors' configs.
      train: pattern of base leaves that stay trained themselves, through all experiences (a head, say); None for none.

    Returns:
      The method. `params["new"]` is the module that each layer trains, if it does; `frozen` holds the base, the modules
      in `bank`, how many of them are there in `count`, by layer, and in `open` which layers train one.

    Raises:
      ValueError: a size below 1, a `threshold` of 0 or below, no regular expression; when a learner is made, a pattern
        that finds nothing, a layer inside of `nn.remat` or `nn.scan`, one that is called twice, or one that does not
        take [B, ..., d] to [B, ..., k]; when it is started, a `code` that is not below d, another model around its own,
        or a second `sema`.

    Example:
      >>> sema("^block_3$", train="^head").needs
      ('boundaries',)

    References:
      Wang et al. 2025, arXiv 2403.18886.
    """
    for name, value in (("max_modules", max_modules), ("bottleneck", bottleneck), ("code", code)):
        check_size(name, value)
    check_positive("threshold", threshold)
    check_pattern("layers", layers)
    check_pattern("train", train)

    def model(inner):
        def extend(rng, inputs, base):
            shapes = _shapes(inner, base, inputs, layers)
            keys = jax.random.split(rng, len(shapes))
            return {
                layer: _drawn(key, x.shape[-1], answer.shape[-1], bottleneck)
                for key, (layer, (x, answer)) in zip(keys, shapes.items(), strict=True)
            }

        def mixed(new, base, inputs, **options):
            own, frozen = new

            def add(layer, x, answer):
                if layer not in own:
                    return None
                count, bank, dtype = frozen["count"][layer], frozen["bank"][layer], answer.dtype
                modules = jax.tree.map(lambda old, leaf: old.at[count].set(leaf).astype(dtype), bank, own[layer])
                return mixture(modules, x.astype(dtype), jnp.arange(max_modules) < count + frozen["open"][layer])

            return _beside(inner, base, inputs, add, **options)

        whole = frozen_base(inner, train, extend, mixed)

        def init(rng, inputs):
            made = whole.init(rng, inputs)
            own = made.params["new"]
            more = {
                "bank": jax.tree.map(lambda leaf: jnp.zeros((max_modules, *leaf.shape)), own),
                "count": {layer: jnp.int32(0) for layer in own},
                "open": {layer: jnp.bool_(False) for layer in own},
            }
            return made._replace(frozen=made.frozen | more)

        def apply(variables, inputs, **options):
            new = variables.params["new"], variables.frozen
            return whole.apply(variables._replace(params=variables.params | {"new": new}), inputs, **options)

        return Model(init, apply)

    def pooled(ts: TrainState, batch, ctx) -> dict[str, jax.Array]:
        variables = Variables(ts.params, ts.model_state, ts.frozen)
        seen = _watched(ctx.model, variables, batch["inputs"], ts.frozen["count"], task=batch["task"])
        return {layer: _mean(x.astype(jnp.float32)) for layer, (x, _) in seen.items()}

    def init(rng, params, ctx):
        check_wrapped("sema", ctx.frozen, "bank")
        descriptors = {}
        for layer, own in params["new"].items():
            width = len(own["down"])
            if code >= width:
                raise ValueError(f"sema: code={code} expects to be below the width of what {layer} is given, {width}.")
            spread = jnp.zeros(max_modules), jnp.ones(max_modules)
            basis = jnp.zeros((max_modules, width, code))
            descriptors[layer] = Descriptor(jnp.zeros((max_modules, width)), basis, *spread)
        return SemaState(jnp.asarray(threshold, jnp.float32), descriptors)

    def begin(s, ts, ctx):
        def add(sums, batch, b):
            seen, weights = pooled(ts, batch, ctx), batch["weights"]
            return {layer: old + weights @ deviations(s.descriptors[layer], seen[layer]) for layer, old in sums.items()}

        sums = ctx.scan(add, {layer: jnp.zeros(max_modules) for layer in s.descriptors}, size=256)
        own, opened = {}, {}
        keys = jax.random.split(ctx.rng, len(sums))
        for key, (layer, new) in zip(keys, ts.params["new"].items(), strict=True):
            count = ts.frozen["count"][layer]
            strange = jnp.where(jnp.arange(max_modules) < count, sums[layer] / ctx.experience.size, jnp.inf).min()
            opened[layer] = (strange > s.threshold) & (count < max_modules)
            fresh = _drawn(key, len(new["down"]), len(new["up_bias"]), bottleneck)
            own[layer] = jax.tree.map(lambda a, b, grows=opened[layer]: jnp.where(grows, a, b), fresh, new)
        ts = ts._replace(params=ts.params | {"new": own}, frozen=ts.frozen | {"open": opened})
        return s, restart(ts, ctx)

    def end(s, ts, ctx):
        counts, opened, size = ts.frozen["count"], ts.frozen["open"], ctx.experience.size

        def half(batch, which):
            # Rows that a descriptor was fitted to look less strange to it than others of their kind.
            return batch["weights"] * (permute_index(ctx.rng, batch["position"], size) % 2 == which)

        def measure(found, batch, b):
            seen, none = pooled(ts, batch, ctx), jnp.zeros(len(batch["weights"]), jnp.int32)
            return {layer: add_to_gaussians(old, seen[layer], none, half(batch, 0)) for layer, old in found.items()}

        start = {layer: class_gaussians(1, x.centre.shape[1]) for layer, x in s.descriptors.items()}
        parts = {
            layer: (found.means[0], jnp.linalg.eigh(found.covariances[0])[1][:, -code:])
            for layer, found in ctx.scan(measure, start, size=256).items()
        }

        def weigh(sums, batch, b):
            seen, weights = pooled(ts, batch, ctx), half(batch, 1)
            powers = {layer: error(*parts[layer], x)[:, None] ** jnp.arange(1, 3) for layer, x in seen.items()}
            return {layer: old + weights @ powers[layer] for layer, old in sums.items()}

        sums = ctx.scan(weigh, {layer: jnp.zeros(2) for layer in parts}, size=256)
        descriptors, bank = {}, {}
        for layer, own in ts.params["new"].items():
            place = counts[layer], opened[layer]
            mean, square = sums[layer] / jnp.maximum(size // 2, 1)
            scale = jax.lax.rsqrt(jnp.maximum(square - mean**2, 1e-6 * square + 1e-30))
            descriptors[layer] = _put(s.descriptors[layer], Descriptor(*parts[layer], mean, scale), *place)
            bank[layer] = _put(ts.frozen["bank"][layer], own, *place)
        counts = {layer: count + opened[layer] for layer, count in counts.items()}
        closed = {layer: jnp.bool_(False) for layer in opened}
        frozen = ts.frozen | {"bank": bank, "count": counts, "open": closed}
        return s._replace(descriptors=descriptors), ts._replace(frozen=frozen)

    return Method("sema", init=init, begin=begin, end=end, model=model, needs=("boundaries",))


def mixture(modules: Any, x: jax.Array, alive: jax.Array) -> jax.Array:
    """[B, ..., k] of x [B, ..., d]: what the modules that are alive [K] add, by the weights of the router."""
    logits = _mean(x) @ modules["router"].T + modules["router_bias"]
    weights = jnp.where(alive, jax.nn.softmax(mask_logits(logits, alive)), 0)
    hidden = jax.nn.relu(jnp.einsum("b...d,kdr->b...kr", x, modules["down"]) + modules["down_bias"])
    tokens = len(x), *[1] * (x.ndim - 2)
    added = jnp.einsum("b...kr,kro->b...o", hidden * weights.reshape(*tokens, -1, 1), modules["up"])
    return added + (weights @ modules["up_bias"]).reshape(*tokens, -1)


def error(centre: jax.Array, basis: jax.Array, x: jax.Array) -> jax.Array:
    """Mean squared error [B] of x [B, d] in the plane through a centre [d] along a basis [d, code]."""
    off = x - centre
    with jax.default_matmul_precision("highest"):  # what is left may be small
        return jnp.square(off - (off @ basis) @ basis.T).mean(-1)


def deviations(descriptor: Descriptor, x: jax.Array) -> jax.Array:
    """By how many deviations the error of a row is not what a module is used to: [B, K] of x [B, d]."""
    errors = jax.vmap(error, (0, 0, None), 1)(descriptor.centre, descriptor.basis, x)
    return jnp.abs(errors - descriptor.mean) * descriptor.scale


def _put(bank: Any, own: Any, at: jax.Array, grown: jax.Array) -> Any:
    """The bank [K, ...] with a module in one slot, if the layer grew."""
    return jax.tree.map(lambda old, leaf: jnp.where(grown, old.at[at].set(leaf), old), bank, own)


def _mean(x: jax.Array) -> jax.Array:
    """[B, d], over the tokens."""
    return x.reshape(len(x), -1, x.shape[-1]).mean(1)


def _drawn(rng: jax.Array, width: int, answer: int, bottleneck: int) -> dict[str, jax.Array]:
    """A module that adds nothing yet."""
    down, router = jax.random.split(rng)
    bound = 1 / math.sqrt(width)
    column = jax.random.uniform(router, (width + 1,), minval=-bound, maxval=bound)
    return {
        "down": jax.random.uniform(down, (width, bottleneck), minval=-bound, maxval=bound),
        "down_bias": jnp.zeros(bottleneck),
        "up": jnp.zeros((bottleneck, answer)),
        "up_bias": jnp.zeros(answer),
        "router": column[:-1],
        "router_bias": column[-1],
    }


def _beside(model: Model, base: Variables, inputs: jax.Array, add: Any, **options: Any) -> Any:
    """The linen model with `add(name, x, answer)`, or nothing where that is None, added to what its modules answer."""
    import flax.linen as nn

    def beside(next_call, args, kwargs, context):
        answer = next_call(*args, **kwargs)
        x = next(iter((*args, *kwargs.values())), None)
        if context.method_name != "__call__" or not isinstance(x, jax.Array) or not isinstance(answer, jax.Array):
            return answer
        more = add(".".join(context.module.path), x, answer)
        return answer if more is None else answer + more.astype(answer.dtype)

    with nn.intercept_methods(beside):
        return model.apply(base, jnp.asarray(inputs), **options)


def _watched(model: Model, base: Variables, inputs: jax.Array, layers: Any, **options: Any) -> PyTree:
    """`{layer: (what it is given, what it answers)}`, of those in `layers` that this call can see."""
    from flax.core import tracers

    outside, found = tracers.current_trace(), {}

    def note(layer, x, answer):
        # What a layer inside of nn.remat is given does not outlive the call.
        if layer in layers and tracers.current_trace() == outside:
            found[layer] = x, answer

    _beside(model, base, inputs, note, **options)
    return found


def _shapes(model: Model, base: Variables, inputs: jax.Array, pattern: str) -> PyTree:
    """What the layers that the pattern finds are given and answer, as shapes."""
    names: list[str] = []
    jax.eval_shape(lambda v: _beside(model, v, inputs, lambda name, x, answer: names.append(name))[0], base)
    layers = [name for name in dict.fromkeys(names) if re.search(pattern, name)]
    if not layers:
        choice = f"choose from {', '.join(dict.fromkeys(names))}" if names else "this model has none"
        raise ValueError(f"sema: layers={pattern!r} finds no module of a linen model: {choice}.")
    found = jax.eval_shape(lambda v: _watched(model, v, inputs, layers), base)
    for layer in layers:
        if layer not in found:
            raise ValueError(f"sema: {layer} is inside of nn.remat or nn.scan, where it cannot be seen: narrow layers.")
        if names.count(layer) > 1:
            raise ValueError(f"sema: {layer} is called {names.count(layer)} times in a pass: narrow layers.")
        x, answer = found[layer]
        if x.ndim < 2 or len(x) != len(inputs) or x.shape[:-1] != answer.shape[:-1]:
            raise ValueError(
                f"sema reaches modules that take [B, ..., d] to [B, ..., k], and {layer} takes {list(x.shape)} to "
                f"{list(answer.shape)}: narrow layers."
            )
    return found
