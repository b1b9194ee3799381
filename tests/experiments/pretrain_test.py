"""Backbones: each recipe builds, one is trained once, and a run starts from it or says why it cannot."""

import jax
import numpy as np
import pytest

from configs import pretrain
from configs.continual import naive
from ctrain_jax import core
from experiments import _build, _cost, _weights
from experiments.pretrain import pretrained


@pytest.mark.parametrize("name", pretrain.BACKBONES)
def test_every_recipe_builds(name):
    learner = _build.build(pretrain.get_config(f"{name},runlocal"))
    assert learner.spec.num_experiences == 1
    whole = pretrain.get_config(name)
    assert whole.source.dataset in name and ("classes" in whole.source) == ("cifar10" in name)
    assert name in pretrain.__doc__
    for arg in ("", f"{name},runlokal"):
        with pytest.raises(ValueError, match="The config takes one of"):
            pretrain.get_config(arg)


def small(name, steps=2):
    config = naive.get_config("runlocal")
    config.name, config.steps, config.model.hidden = name, steps, (4,)
    config.scenario.num_experiences = 1
    return config


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(_cost, "CACHE", tmp_path)
    monkeypatch.setattr(pretrain, "get_config", small)
    return tmp_path / "pretrained"


def test_a_backbone_is_trained_once_and_a_run_starts_from_it(cache, monkeypatch):
    config = small("run")
    config.weights = "vit_fashion_mnist"
    with pytest.raises(_build.ConfigError, match="is not trained yet: python -m experiments.pretrain --name=vit_fash"):
        _build.build(config)
    path = pretrained("vit_fashion_mnist")
    assert path.parent.parent == cache and path == _weights.file("vit_fashion_mnist")
    made = path.stat().st_mtime_ns
    assert pretrained("vit_fashion_mnist", data_dir="elsewhere") == path and path.stat().st_mtime_ns == made
    monkeypatch.setattr(pretrain, "get_config", lambda name: small(name, steps=3))
    assert _weights.folder("vit_fashion_mnist") != path.parent

    given = core.load_tensors(path).params
    monkeypatch.setattr(pretrain, "get_config", small)
    for weights in (str(path), "vit_fashion_mnist"):
        config.weights = weights
        params = core.start(_build.build(config), [0, 1]).params
        for layer, parts in given.items():
            if layer == "head" and weights != str(path):  # its classes are others
                assert (np.asarray(params["head"]["kernel"][1]) != np.asarray(parts["kernel"])).all()
                continue
            for name, x in parts.items():
                np.testing.assert_array_equal(params[layer][name], np.stack([x, x]))

    config.source.classes = (0, 1, 2)
    state = core.start(_build.build(config))
    np.testing.assert_array_equal(state.params["dense_0"]["kernel"], given["dense_0"]["kernel"])
    assert state.params["head"]["kernel"].shape == (4, 3)


def test_what_is_wrong_with_the_folder_is_told_by_its_flag(cache):
    folder = _weights.folder("vit_fashion_mnist")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"seed": 1}')
    with pytest.raises(_build.ConfigError, match="config.json cannot be read .*use another --cache"):
        pretrained("vit_fashion_mnist")


def test_weights_of_another_network_are_refused(cache, tmp_path):
    config = small("run")
    config.weights = str(pretrained("vit_fashion_mnist"))
    config.model.hidden = (5,)
    with pytest.raises(
        _build.ConfigError, match=r"config.weights /.*: it has params/dense_0/\w+ of shape .*4,?\), expected"
    ):
        _build.build(config)
    config.model.hidden = (4, 4)
    with pytest.raises(_build.ConfigError, match="config.weights /.*: it lacks params/dense_1"):
        _build.build(config)
    config = small("run")
    config.weights = 3
    with pytest.raises(_build.ConfigError, match="expects a file, or the name of a backbone, got 3"):
        _build.build(config)
    config = small("run")
    for name, hint in ((str(tmp_path / "none"), "choose from"), ("vit_fashion", "did you mean 'vit_fashion_mnist'")):
        config.weights = name
        with pytest.raises(_build.ConfigError, match=f"config.weights: '{name}' is no file and no backbone.*{hint}"):
            _build.build(config)


def test_what_a_method_draws_anew_is_not_the_weights(cache, tmp_path):
    config = small("run")
    fresh = core.start(_build.build(config))
    half = jax.tree.map(lambda x: (x + 1).astype("bfloat16"), fresh.params)
    core.save_tensors(tmp_path / "half", core.Variables(half, {}, {}))
    config.weights, config.methods, config.scenario.num_experiences = str(tmp_path / "half"), ("reinitialize",), 2
    learner = _build.build(config)
    first = core.start(learner)
    jax.tree.map(np.testing.assert_array_equal, first.params, half)
    assert {x.dtype.name for x in jax.tree.leaves(first.params)} == {"float32"}
    second = jax.jit(learner.begin)(first, core.to_device(learner.stream), 1)
    np.testing.assert_array_equal(second.params["dense_0"]["bias"], 0)
