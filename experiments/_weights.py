"""Weights that a run starts from: a file, or one of the backbones of `experiments.pretrain` by its name."""

import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp

from configs import pretrain
from ctrain_jax import core
from experiments import _cli, _cost


def folder(name: str, cache: str | Path | None = None) -> Path:
    """Where a backbone is kept: its name, and a hash of its config without the place of the data."""
    config = pretrain.get_config(name)
    told = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:10]
    return (_cost.CACHE / "pretrained" if cache is None else Path(cache)) / f"{name}_{told}"


def file(weights: str) -> Path:
    """The file that `config.weights` names.

    Raises:
      ValueError: neither a file nor a backbone, or one that is not trained yet.
    """
    if weights not in pretrain.BACKBONES:
        if not Path(weights).is_file():
            what = _cli.nearest(weights, pretrain.BACKBONES)
            raise ValueError(f"{weights!r} is no file and no backbone of configs/pretrain.py: {what}")
        return Path(weights)
    path = folder(weights) / "variables.safetensors"
    if not path.is_file():
        raise ValueError(f"{weights} is not trained yet: python -m experiments.pretrain --name={weights}.")
    return path


def started(learner: core.Learner, model: core.Model, variables: core.Variables, new_head: bool) -> core.Learner:
    """A learner of `model` that starts from these Variables; a `head` for another number of classes starts anew.

    What a method draws later, by `ctx.model.init`, is a draw.

    Args:
      learner: to be started.
      model: as it is before its method wraps it.
      variables: of the model.
      new_head: whether the `head` starts anew in any case: the classes of a backbone are not those of the stream.

    Returns:
      The learner.

    Raises:
      ValueError: Variables of another network.
    """
    given, batch = _leaves(variables), learner.spec.batch["inputs"]

    def start(path: tuple, x: jax.Array) -> jax.Array:
        name = _name(path)
        of_head = name.startswith("params/head/")
        if given[name].shape == x.shape and not (of_head and new_head):
            return given[name].astype(x.dtype)
        if of_head:
            return x
        raise ValueError(
            f"it has {name} of shape {given[name].shape}, expected {x.shape}: give weights of the network that "
            "config.model says."
        )

    def fitted(rng: jax.Array) -> core.Variables:
        fresh = model.init(core.tag(rng, "model"), jnp.zeros(batch.shape, batch.dtype))
        if wrong := sorted(given.keys() ^ _leaves(fresh).keys()):
            word = "also has" if wrong[0] in given else "lacks"
            raise ValueError(f"it {word} {wrong[0]}: give weights of the network that config.model says.")
        return jax.tree_util.tree_map_with_path(start, fresh)

    def init(rng: jax.Array, variables: core.Variables | None = None) -> core.TrainState:
        return learner.init(rng, fitted(rng) if variables is None else variables)

    jax.eval_shape(fitted, jax.random.key(0))
    return learner._replace(init=init)


def _leaves(variables: core.Variables) -> dict[str, jax.Array]:
    return {_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(variables)}


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
