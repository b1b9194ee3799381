"""--sweep: each combination is the run of its config, and the best is the best by validation."""

import json

import numpy as np
import pytest

from configs.continual import ewc
from configs.streams import drifting
from experiments import _build, _outcome, _results, _space, _sweep, continual, report

AXES = ["ewc.lam=0,1e4", "optimizer.learning_rate=0.0001,0.01"]


@pytest.fixture(scope="module")
def config():
    config = ewc.get_config("runlocal")
    config.scenario.num_experiences = 2
    config.scenario.valid_fraction = 0.2
    config.model.hidden = (16,)
    config.steps = 40
    return config


@pytest.fixture(scope="module")
def swept(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return folder, _sweep.run(config, folder, 2, AXES)


def test_each_combination_is_the_run_of_its_config(config, swept, tmp_path):
    folder, results = swept
    assert len(results) == 4 and len({json.dumps(result["matrices"]) for result in results}) == 4
    name = "ewc.lam=10000_optimizer.learning_rate=0.01"
    stored = json.loads((folder / name / "result.json").read_text())
    alone = continual.train(_space.changed(config, {"ewc.lam": 1e4, "optimizer.learning_rate": 0.01}), tmp_path, 2)
    assert stored["config"] == alone["config"] and stored["seeds"] == alone["seeds"] == [0, 1]
    np.testing.assert_allclose(stored["matrices"], alone["matrices"], atol=0.02)


def test_the_best_is_the_best_by_validation(swept):
    _, results = swept
    means = [np.mean(result["validation"]) for result in results]
    assert means == sorted(means, reverse=True) and means[0] > means[-1] + 0.1
    lines = _sweep.table(results).splitlines()
    assert lines[0].split() == ["name", "validation", "final", "accuracy"]
    assert lines[1].startswith(results[0]["name"]) and len(lines) == 5


def test_the_report_shows_it(swept, tmp_path):
    folder, results = swept
    assert len(_results.find_runs(folder)) == 4
    text = report.write_report([folder], tmp_path / "report.html").read_text()
    assert text.count(">best by validation<") == 1
    best = text.index(">best by validation<")
    assert results[0]["name"] in text[best - 400 : best]


def test_what_it_refuses(config, tmp_path):
    def refused(axes, match, config=config):
        with pytest.raises(_build.ConfigError, match=match):
            _sweep.run(config, tmp_path, 1, axes)

    refused(["ewc.lamda=1,2"], "'ewc.lamda' is not a known number of a method or of the optimizer: did you mean 'ewc.l")
    refused(["batch_size=1,2"], "'batch_size' is not a known number")
    refused(["ewc.lam=1,big"], r"expects a key and different numbers, as in ewc.lam=1,10, and each key once, got 'ewc")
    refused(["ewc.lam=1,1"], "expects a key and different numbers")
    refused(["ewc.lam=1", "ewc.lam=2"], "each key once")
    plain = _space.changed(config, {})
    plain.scenario.valid_fraction = 0.0
    refused(["ewc.lam=1"], "holds nothing out: add --config.scenario.valid_fraction=0.1", plain)
    (tmp_path / "config.json").write_text("{}")
    refused(["ewc.lam=1"], "is not an empty folder: use another --workdir")


def test_a_result_says_where_tests_are_of_other_parts_than_experiences(config):
    drift = drifting.get_config("runlocal")
    for own, told in ((config, False), (drift, True)):
        stream = _build.build_stream(own)
        result = _outcome.scored(own, stream, [0], {"accuracy": [[[0.5, 0.4], [0.3, 0.6]]]}, {"accuracy": [[0.1, 0.1]]})
        assert ("tests" in result) == told and _results.is_square(result) != told  # whatever the shape of the matrix
