"""CPE-CLIP: prompts of the text tower, and from them by a linear map those of the image tower.

D'Alessandro, Alonso, Calabres and Galar, "Multimodal Parameter-Efficient Few-Shot Class Incremental Learning", ICCV
workshops 2023, arXiv 2303.04751. Opened: the authors' code (neuraptic/cpe-clip, CoLeLib/models/clip_models.py and
training/strategies/clip_pe.py); the paper was not. Where we differ: prompts stand in front of all tokens and have no
place of their own, where theirs stand behind the first token of a text and move the places of the others on, and at the
end of an image; theirs enter the image tower in front of a LayerNorm that CLIP has ahead of its blocks; their third
mode, which repeats prompts instead of what blocks make of them, is not here. A transcription with the prompts in front,
of random weights, differs by 3e-6 in logits for each pair of modes, and 7e-9 in gradients; by 0.01 (of 2) with those of
a text behind its first token, and by 0.4 where they move its places on as well.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ctrain_jax.core import Model, ModelTransform
from ctrain_jax.models._transformer import Block
from ctrain_jax.ops import check_choice, check_pattern, check_size
from ctrain_jax.peft._base import frozen_base, probe

TOWERS = ("text", "image")


def cpe_clip(
    length: int = 2, depth: int = 12, *, text: str = "replace", image: str = "accumulate", train: str | None = None
) -> ModelTransform:
    r"""Freeze both towers and train `length` vectors for each of their first `depth` blocks, coupled across towers.

    In block :math:`i` the text tower is given the prompts :math:`P_i` in front of its tokens, and the image tower
    :math:`P_i W + b`. All classes share them, so that a new class adds no parameter. The prompts of a block take the
    place of what the block before made of its own (`"replace"`), or join it (`"accumulate"`); behind the last block
    they are dropped.

    The authors train them in a session on the classes of that session alone, and damp the updates of later sessions:
    `core.chain(core.Method("cpe_clip", model=peft.cpe_clip()), continual.local_loss())` with
    `optax.chain(optax.sgd(0.01, momentum=0.9), optim.scale_by_session(...))`; their rate rises by 0.002 an epoch from
    0.001. How to start from a trained base: see `lora`.

    Args:
      length: prompts of a block; 2 in the authors' code.
      depth: blocks with prompts; 12 there, which is all of CLIP's.
      text: "replace" or "accumulate"; the first in the authors' code.
      image: the same; the second there.
      train: pattern of base leaves that stay trained themselves; None for none.

    Returns:
      The transform of a model such as `models.Clip`, whose towers are `text` and `image` and are made of the block of
      `models`. `params["new"]` is `{"prompts": [depth, length, D], "kernel": [D, E], "bias": [E]}`; `frozen` holds the
      base.

    Raises:
      ValueError: `length` or `depth` below 1, another mode, no pattern; when the model is made, one without such
        towers, or with fewer blocks than `depth`.

    Example:
      >>> from ctrain_jax import core, models
      >>> model = cpe_clip(3, 1)(core.from_linen(models.Clip(2, names=((0,), (1,)), width=8, depth=1, heads=2)))
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28)))
      >>> jax.tree.map(jnp.shape, variables.params["new"])
      {'bias': (8,), 'kernel': (8, 8), 'prompts': (1, 3, 8)}
    """
    check_size("length", length)
    check_size("depth", depth)
    check_pattern("train", train)
    modes = {"text": text, "image": image}
    for tower, mode in modes.items():
        check_choice(tower, mode, ("replace", "accumulate"))

    def transform(model: Model) -> Model:
        def extend(rng, inputs, base):
            paths: set[tuple[str, ...]] = set()

            def see(context, x, answer):
                if _tower(context) is not None:
                    paths.add(context.module.path)

            probe(model, base, inputs, see)
            found = {tower: sum(path[:1] == (tower,) for path in paths) for tower in TOWERS}
            if min(found.values()) < depth:
                raise ValueError(
                    f"cpe_clip expects towers params['text'] and params['image'] of at least depth={depth} blocks of "
                    f"models, block_0, block_1, ..., got {found}: use models.Clip, or a lower depth."
                )
            d, e = (base.params[tower]["block_0"]["norm_0"]["scale"].shape[0] for tower in TOWERS)
            keys = jax.random.split(rng, 3)

            def uniform(key, shape, bound):
                return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

            # As there: PyTorch's Glorot takes all prompts for one layer of `length * d` inputs, `depth * d` outputs.
            return {
                "prompts": uniform(keys[0], (depth, length, d), (6 / (d * (length + depth))) ** 0.5),
                "kernel": uniform(keys[1], (d, e), d**-0.5),
                "bias": uniform(keys[2], (e,), d**-0.5),
            }

        def apply(new, base, inputs, **options):
            import flax.linen as nn

            prompts = {"text": new["prompts"], "image": new["prompts"] @ new["kernel"] + new["bias"]}

            def add(next_call, args, kwargs, context):
                tower = _tower(context)
                if tower is None:
                    return next_call(*args, **kwargs)
                x, mask = _arguments(*args, **kwargs)
                place, accumulate = int(context.module.path[-1].removeprefix("block_")), modes[tower] == "accumulate"
                before, now = (_in_front(place + i, length, depth, accumulate) for i in (0, 1))
                if place < depth:
                    own = jnp.broadcast_to(prompts[tower][place].astype(x.dtype), (x.shape[0], length, x.shape[-1]))
                    x = jnp.concatenate([x[:, : before if accumulate else 0], own, x[:, before:]], axis=1)
                answer = next_call(x, None if mask is None else _open(mask, now))
                return answer[:, now:] if place + 1 == _blocks(base.params, tower) else answer

            with nn.intercept_methods(add):
                return model.apply(base, inputs, **options)

        return frozen_base(model, train, extend, apply)

    return transform


def _tower(context: Any) -> str | None:
    """The tower of whose blocks one is called; None in any other call."""
    module = context.module
    if not isinstance(module, Block) or context.method_name != "__call__":
        return None
    return next((tower for tower in TOWERS if module.path[:1] == (tower,)), None)


def _blocks(params: Any, tower: str) -> int:
    """How many blocks a tower has."""
    return sum(name.startswith("block_") for name in params[tower])


def _in_front(place: int, length: int, depth: int, accumulate: bool) -> int:
    """How many prompts stand in front of the tokens that a block is given by those before it."""
    return length * min(place, depth if accumulate else 1)


def _arguments(x: jax.Array, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
    return x, mask


def _open(mask: jax.Array, length: int) -> jax.Array:
    """A mask [B or 1, 1, T, T] behind as many prompts, which see those before them and are seen by all."""
    own = jnp.broadcast_to(jnp.tri(length, dtype=mask.dtype), (*mask.shape[:-2], length, length))
    to_tokens = jnp.zeros((*mask.shape[:-2], length, mask.shape[-1]), mask.dtype)
    to_prompts = jnp.ones((*mask.shape[:-1], length), mask.dtype)
    return jnp.block([[own, to_tokens], [to_prompts, mask]])
