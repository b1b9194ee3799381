"""A learning curve stops where its end can be told, goes on where it was, and sees no test row."""

import json

import numpy as np
import pytest

from configs.continual import joint
from experiments import _build, learning_curve


@pytest.fixture
def config():
    config = joint.get_config("runlocal")
    config.scenario.valid_fraction = 0.2
    config.model.hidden = (8,)
    config.steps = 2
    return config


def test_it_stops_by_the_proximity_condition_and_goes_on_where_it_was(config, tmp_path, monkeypatch):
    asked = []

    def law(config, stream, seeds):
        rows = int(stream.experiences["train"].size.sum())
        asked.append(rows)
        return [0.9 - rows**-0.5 + 1 / rows] * len(seeds)  # limits fall: 119, 103, 97, 95, 93, 93

    monkeypatch.setattr(learning_curve, "_final", law)
    options = {"first": 0.01, "growth": 2.0, "threshold": 2.0}
    found = learning_curve.follow(config, tmp_path, **options)
    assert found["stopped"] and asked == found["rows"] and len(asked) == 7
    assert found["predicted"] == pytest.approx(0.9 - found["all_rows"] ** -0.5, abs=0.03)
    again = learning_curve.follow(config, tmp_path, **options)
    assert again == found and len(asked) == len(found["rows"])
    whole = learning_curve.follow(config, tmp_path, **options | {"threshold": 1e-9})
    assert not whole["stopped"] and whole["rows"][-1] == whole["all_rows"] == 1150
    assert "stopped at" in learning_curve.summary(found, 1.0) and "all 1,150 rows" in learning_curve.summary(whole, 1.0)


def test_rows_of_smaller_sizes_are_among_those_of_larger_ones(config):
    stream = _build.build_stream(config)
    small, large = (learning_curve._first_rows(stream, share, 0).experiences["train"] for share in (0.1, 0.3))
    for a, b, n, m in zip(small.rows, large.rows, small.size, large.size, strict=True):
        assert len({*a[:n]}) == n < m == len({*b[:m]}) and {*a} == {*a[:n]} and {*a} <= {*b}
    whole = learning_curve._first_rows(stream, 1.0, 0).experiences["train"]
    np.testing.assert_array_equal(np.sort(whole.rows), np.sort(stream.experiences["train"].rows))


def test_a_point_is_a_run_on_these_rows(config, tmp_path):
    found = learning_curve.follow(config, tmp_path, first=0.5, growth=4.0)
    assert len(found["rows"]) == 2 and found["limit"] is None and all(0 < a < 1 for a in found["accuracy"])
    claim, *lines = map(json.loads, (tmp_path / "curve.jsonl").read_text().splitlines())
    assert claim["first"] == 0.5 and [line["rows"] for line in lines] == found["rows"]
    with pytest.raises(_build.ConfigError, match="holds the curve of another config"):
        learning_curve.follow(config, tmp_path, first=0.4, growth=4.0)
    (tmp_path / "curve.jsonl").write_text("{}\n[]\n")
    with pytest.raises(_build.ConfigError, match="cannot be read"):
        learning_curve.follow(config, tmp_path, first=0.5, growth=4.0)


def test_what_it_refuses(config, tmp_path):
    for wrong in ({"first": 1.0}, {"growth": 1.0}, {"threshold": 0.0}):
        with pytest.raises(_build.ConfigError, match="A curve expects --first between 0 and 1"):
            learning_curve.follow(config, tmp_path, **wrong)
    config.scenario.valid_fraction = 0.0
    with pytest.raises(_build.ConfigError, match="holds none out"):
        learning_curve.follow(config, tmp_path)
