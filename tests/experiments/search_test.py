"""A search chooses by validation rows alone, goes on where it was, and judges its choice by test rows elsewhere."""

import json

import numpy as np
import pytest

from configs.continual import ewc
from experiments import _build, _results, _space, report, search


@pytest.fixture(scope="module")
def config():
    config = ewc.get_config("runlocal")
    config.scenario = {"name": "class_incremental", "num_experiences": 2, "valid_fraction": 0.2}
    config.model.hidden = (8,)
    config.steps = 5
    return config


OPTIONS = {"num_seeds": 2, "at_once": 2, "protocol": "two_phase", "evaluation": ("classes",)}
SPACE = ("ewc.lam=1:1e4:log", "optimizer.learning_rate=1e-3:1e-1:log")


@pytest.fixture(scope="module")
def searched(config, tmp_path_factory):
    """A search that was interrupted while its second pair of trials ran, and gone on with."""
    folder = tmp_path_factory.mktemp("search")
    tried, calls = search._tried, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return tried(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_tried", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search.search(config, folder, SPACE, trials=4, **OPTIONS)
    assert len(list((folder / "trials").iterdir())) == 2
    return folder, search.search(config, folder, SPACE, trials=4, **OPTIONS)


def test_the_best_trial_is_judged_on_classes_that_no_trial_saw(searched):
    folder, result = searched
    trials = {path.name: json.loads((path / "result.json").read_text()) for path in (folder / "trials").iterdir()}
    assert result["trials"] == len(trials) == 4 and len({t["config"]["ewc"]["lam"] for t in trials.values()}) == 4
    scores = {name: np.mean(np.array(t["matrices"])[:, -1]) for name, t in trials.items()}
    best = max(scores, key=scores.__getitem__)
    assert result["score"] == pytest.approx(scores[best], abs=1e-6)
    judged = json.loads((folder / "evaluation" / best / "result.json").read_text())
    for key in ("ewc", "optimizer", "model"):
        assert judged["config"][key] == trials[best]["config"][key]
    here, there = ({*run["config"]["source"]["classes"]} for run in (trials[best], judged))
    assert len(here) == len(there) == 5 and not here & there
    assert judged["seeds"] == [1000, 1001] and result["evaluation"] == judged["matrices"]
    assert search.table(result).splitlines()[0].startswith("chosen           ewc.lam=")


def test_a_report_does_not_show_trials_beside_tests(searched, tmp_path):
    folder, _ = searched
    with pytest.raises(ValueError, match="scores on test rows, or of those on validation rows"):
        report.write_report([folder], tmp_path / "report.html")
    text = report.write_report([folder / "trials"], tmp_path / "report.html").read_text()
    assert "scores on validation rows" in text
    assert all(_results.split(_results.load_run(path)) == "valid" for path in _results.find_runs(folder / "trials"))


def test_a_search_that_was_stopped_draws_what_it_would_have_drawn(config, searched, tmp_path):
    folder, result = searched
    whole = search.search(config, tmp_path, SPACE, trials=4, **OPTIONS)
    assert whole["best"] == result["best"] and whole["evaluation"] == result["evaluation"]
    assert whole["score"] == result["score"] and whole["trials"] == result["trials"] == 4
    with pytest.raises(_build.ConfigError, match="holds another search"):
        search.search(config, tmp_path, SPACE[:1], trials=4, **OPTIONS)


def test_what_decides_a_shape_is_a_program_of_its_own_and_the_holdout_can_be_guarded(config, tmp_path):
    space = ("batch_size=8,16", "ewc.lam=1,100")
    result = search.search(config, tmp_path, space, trials=2, at_once=2, holdout_budget=1)
    assert set(result["best"]) == {"batch_size", "ewc.lam"} and result["best"]["batch_size"] in (8, 16)
    assert not (tmp_path / "trials").exists(), "the scores that Thresholdout guards lie open"


def test_axes_and_what_they_refuse(config, tmp_path):
    axes = _space.parsed(config, ["ewc.lam=1:10:log", "batch_size=8:64", "model.hidden=[8],[16, 16]"])
    assert axes[0] == _space.Axis("ewc.lam", (), 1.0, 10.0, True)
    (words,) = _space.parsed(config, ["optimizer.name=adam,sgd"])
    assert words.choices == ("adam", "sgd")
    assert axes[1].whole and axes[2].choices == ((8,), (16, 16))
    assert [_space.is_number_of_state(config, axis) for axis in axes] == [True, False, False]
    changed = _space.changed(config, {"ewc.lam": 3.0, "model.hidden": (4,)})
    assert changed.ewc.lam == 3.0 and changed.model.hidden == (4,) and config.model.hidden == (8,)

    def refused(match, space, **options):
        with pytest.raises(_build.ConfigError, match=match):
            search.search(config, tmp_path, space, **options)

    refused("--space is needed", [])
    refused("'ewc.lamda' is not a known key of config: did you mean 'ewc.lam'", ["ewc.lamda=1:2"])
    refused("each key once, got ewc.lam twice", ["ewc.lam=1:2", "ewc.lam=1:2"])
    for text in ("ewc.lam=2:1", "ewc.lam=0:1:log", "ewc.lam=1:2:lin", "ewc.lam=1", "ewc.lam=1,1", "ewc.lam=1:inf"):
        refused("--space expects KEY=LOW:HIGH", [text])
    refused("--evaluation belongs to --protocol=two_phase", SPACE, evaluation=("classes",))
    two = {"protocol": "two_phase"}
    refused("two_phase needs --evaluation=classes", SPACE, **two)
    refused("--evaluation expects classes, or source.KEY=VALUE", SPACE, evaluation=("ewc.lam=1",), **two)
    refused("names what the config has already", SPACE, evaluation=("source.name=digits",), **two)
    plain = _space.changed(config, {"scenario.valid_fraction": 0.0})
    with pytest.raises(_build.ConfigError, match="holds none out: set valid_fraction"):
        search.search(plain, tmp_path, SPACE)
    assert not list(tmp_path.iterdir())
