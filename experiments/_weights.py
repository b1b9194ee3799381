"""Weights that a run starts from: a file, or one of the backbones of `experiments.pretrain` by its name."""

import hashlib
import json
from pathlib import Path

import jax

from configs import pretrain
from ctrain_jax import core
from experiments import _cost


def folder(name: str, cache: str | Path | None = None) -> Path:
    """Where a backbone is kept: its name, and a hash of its config without the place of the data."""
    config = pretrain.get_config(name)
    told = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:10]
    return (_cost.CACHE / "pretrained" if cache is None else Path(cache)) / f"{name}_{told}"


def file(weights: str) -> Path:
    """The file that `config.weights` names.

    Raises:
      ValueError: a name whose backbone is not there yet.
    """
    if weights not in pretrain.BACKBONES:
        return Path(weights)
    path = folder(weights) / "variables.safetensors"
    if not path.is_file():
        raise ValueError(f"{weights} is not trained yet: python -m experiments.pretrain --name={weights}.")
    return path


def started(model: core.Model, variables: core.Variables) -> core.Model:
    """A model whose `init` gives these Variables; a `head` for another number of classes starts anew.

    Raises:
      ValueError: in `init`, Variables of another network.
    """
    given = _leaves(variables)

    def init(rng: jax.Array, inputs: jax.Array) -> core.Variables:
        fresh = model.init(rng, inputs)
        if wrong := sorted(given.keys() ^ _leaves(fresh).keys()):
            word = "also has" if wrong[0] in given else "lacks"
            raise ValueError(f"config.weights {word} {wrong[0]}: give weights of the network that config.model says.")

        def start(path: tuple, x: jax.Array) -> jax.Array:
            name = _name(path)
            if given[name].shape == x.shape:
                return given[name]
            if name.startswith("params/head/"):
                return x
            raise ValueError(
                f"config.weights has {name} of shape {given[name].shape}, expected {x.shape}: give weights of the "
                "network that config.model says."
            )

        return jax.tree_util.tree_map_with_path(start, fresh)

    return model._replace(init=init)


def _leaves(variables: core.Variables) -> dict[str, jax.Array]:
    return {_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(variables)}


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
