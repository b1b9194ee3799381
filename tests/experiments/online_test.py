"""Prequential accuracy: what it is, how it is kept, where it is shown; and streams of drifts, text and corruptions."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.continual import er, naive
from configs.streams import drifting, text
from ctrain_jax import core, streams
from ctrain_jax.core._data import batch_positions
from experiments import _build, _outcome, _results, _sources, _sweep, continual, report
from tests.reported import Page, evaluation, train, write_run


def drift():
    """Two concepts, 4 experiences of 5 steps, the last of them padded."""
    config = drifting.get_config("runlocal")
    config.source.num_rows, config.batch_size, config.optimizer.learning_rate = 94, 10, 0.05
    config.scenario.update(num_experiences=4, concepts={"concept": (0, 3)})
    config.model.hidden = (4,)
    return config


class Countdown(list):
    """Signals of which one arrives after some looks."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    def __bool__(self):
        self.looks -= 1
        return self.looks < 0


def test_it_is_the_mean_accuracy_of_predictions_before_each_step(tmp_path, monkeypatch):
    monkeypatch.setattr(continual, "_CHUNK_SECONDS", 0.02)
    config = drift()
    made = _build.build(config)
    monkeypatch.setattr(_build, "build", lambda *_, **__: made)  # and compiled once
    stopped = continual.train(config, tmp_path, quiet=True, received=Countdown(3))
    assert not stopped["finished"] and 0 < stopped["steps"] < 20
    told = continual.train(config, tmp_path, quiet=True)
    assert told["finished"] and told["steps"] == 20 and told["tests"]

    # The same step by step: a learner that knows nothing of being online, and the source's own arrays.
    monkeypatch.undo()
    config.online = False
    learner = _build.build(config)
    data, source, state = core.to_device(learner.stream), learner.stream.source, learner.init(jax.random.key(0))
    predict = jax.jit(lambda ts, t, x: learner.predict(ts, data, t, {"inputs": x}).logits)
    step, rows, right = jax.jit(learner.step), learner.stream.experiences["train"].rows, []
    for t in range(4):
        key = core.tag(jax.random.fold_in(jax.random.key(0), t), "order")
        size = learner.stream.experiences["train"].size[t]
        for i in range(5):
            places, weights = batch_positions(key, jnp.int32(i), jnp.int32(size), 10)
            own = rows[t][np.asarray(places)[np.asarray(weights) > 0]]
            answers = predict(state, jnp.int32(t), source.train["inputs"][own] - source.mean).argmax(-1)
            right.append((np.asarray(answers) == source.train["labels"][own]).mean())
            state, _ = step(state, data, jnp.int32(t), jnp.int32(i))
    assert told["prequential"]["accuracy"][0] == pytest.approx(np.mean(right), abs=1e-6)
    assert 0.4 < np.mean(right) < 1
    run = _results.load_run(tmp_path)
    logged = [record for record in run["train"] if "online_accuracy" in record]
    assert len(logged) == len(run["train"]) >= 4


def test_chunks_of_any_length_add_up_and_steps_left_out_count_for_nothing():
    means = np.random.default_rng(0).random((8, 2))
    skipped = np.zeros((8, 2))
    skipped[2, 1] = skipped[6, 0] = 1
    history = _outcome.begun({"accuracy": [[0.5], [0.5]]}, "stamp")
    for part in (slice(0, 3), slice(3, 8)):
        kept = 1 - skipped[part]
        mean = (kept * means[part]).sum(0) / kept.sum(0)
        record = {"online_accuracy": mean.tolist(), "skipped": skipped[part].sum(0).tolist(), "accuracy": [0, 0]}
        _outcome.add_online(history, record, len(kept))
    expected = [np.delete(means[:, 0], 6).mean(), np.delete(means[:, 1], 2).mean()]
    np.testing.assert_allclose(np.array(history["online"]["accuracy"]) / history["predicted"], expected)
    assert set(history["online"]) == {"accuracy"} and json.loads(json.dumps(history)) == history
    unasked = _outcome.begun({"accuracy": [[0.5]]}, "stamp")
    _outcome.add_online(unasked, {"accuracy": [0.3]}, 5)
    assert unasked["online"] == {} and unasked["predicted"] == [0]


def test_tests_of_concepts_are_not_those_of_experiences():
    sea = [streams.sea(k, 40) for k in (0, 1)]
    matching = _outcome.tests_match
    assert matching(streams.drifting(sea, 2)) and not matching(streams.drifting(sea, 2, order=(1, 0)))
    assert not matching(streams.drifting(sea, 4))
    split = streams.class_incremental(streams.digits(), 5)
    for stream in (split, streams.joint(split), streams.cumulative(split), streams.si_blurry(streams.digits(), 3)):
        assert matching(stream)
    assert not _results.is_square({"matrices": [[[0.5, 0.5], [0.5, 0.5]]], "tests": "of concepts"})


def test_the_summary_and_the_report_show_it_where_it_is(tmp_path):
    lines = [train(5, [0.3]), train(10, [0.2]), evaluation(10, 0)]
    for line, value in zip(lines, (0.25, 0.75), strict=False):
        line["online_accuracy"] = [value, value]
    fields = {"prequential": {"accuracy": [0.4, 0.6]}, "other_metrics": {"nats": [[[2.0, 3.0]] * 3] * 2}}
    folders = [write_run(tmp_path / "with", lines, **fields), write_run(tmp_path / "without", name="plain")]
    runs = [_results.load_run(folder) for folder in folders]
    head, *rows = [line.split("  ") for line in _results.summary_table(runs).splitlines()]
    assert [cell.strip() for cell in head if cell][4:] == ["prequential", "final nats", "seconds"]
    cells = {row[0]: [cell.strip() for cell in row if cell.strip()] for row in rows}
    assert cells["er"][4].startswith("50.0 ± ") and cells["er"][5].startswith("2.500 ± ")
    assert cells["plain"][4:6] == ["–", "–"]
    assert "prequential" not in _results.summary_table(runs[1:]) and "nats" not in _results.summary_table(runs[1:])
    page = Page(report.write_report(folders, tmp_path / "report.html").read_text())
    assert "Prequential accuracy" in page.text()
    assert page.row("prequential accuracy")[1].startswith("50.0") and page.row("final nats")[1].startswith("2.500")
    page = Page(report.write_report(folders[1:], tmp_path / "report.html").read_text())
    assert "Prequential" not in page.text()


@pytest.mark.parametrize(
    "fields",
    [
        {"prequential": [0.5]},
        {"prequential": {"accuracy": "high"}},
        {"prequential": {"accuracy": 0.5}},
        {"prequential": {"<b>": [0.5]}},
        {"other_metrics": {"nats": [0.5]}},
        {"other_metrics": {"nats": [[[1e40]]]}},
    ],
)
def test_what_a_page_cannot_show_is_refused(tmp_path, fields):
    with pytest.raises(ValueError, match=f"something else in {next(iter(fields))}"):
        _results.load_run(write_run(tmp_path / "run", **fields))


def refusal(config):
    with pytest.raises(_build.ConfigError) as error:
        _build.build(config)
    return str(error.value)


def put(section, key, value):
    """In the place of what stood there, of whatever type."""
    with section.ignore_type():
        if key in section:
            del section[key]
        section[key] = value


def test_online_is_of_one_pass():
    config = drift()
    config.epochs = 2
    assert refusal(config).startswith("config.online predicts each row before it is learned, which is so in the first")
    config.epochs, config.steps = 1, 6
    assert refusal(config).startswith("config.online predicts each row before it is learned")
    config.steps = 5
    _build.build(config)
    put(config, "online", "yes")
    assert refusal(config) == "config.online expects True or False, got 'yes'."
    put(config, "online", True)
    with pytest.raises(_build.ConfigError, match="A sweep keeps no prequential accuracy: leave out config.online."):
        _sweep.run(config, "new", 1, ["optimizer.learning_rate=1,2"])


def test_concepts_are_values_of_keys_of_the_source():
    config = drift()
    stream = _build.build_stream(config)
    expected = streams.drifting([streams.sea(0, 94), streams.sea(3, 94)], 4)
    np.testing.assert_array_equal(stream.source.train["labels"], expected.source.train["labels"])
    np.testing.assert_array_equal(stream.experiences["train"].rows, expected.experiences["train"].rows)
    config.source = {"name": "hyperplane", "num_rows": 60}
    put(config.scenario, "concepts", {"degrees": (0, 90), "noise": (0.0, 0.5)})
    assert _build.build_stream(config).source.train["inputs"].shape == (120, 10)
    for wrong in (None, {}, {"degrees": 3}, {"degrees": (1, 2), "noise": (0.1,)}, (0, 3)):
        put(config.scenario, "concepts", wrong)
        assert refusal(config).startswith("config.scenario.concepts expects keys of config.source and for each a tuple")
    put(config.scenario, "concepts", {"degree": (0, 90)})
    assert refusal(config) == "'degree' is not a known key of config.source: did you mean 'degrees'?"


def test_corruptions_hide_labels_that_a_config_may_give():
    config = naive.get_config("runlocal")
    config.scenario = {"name": "corrupted", "corruptions": ("contrast",)}
    assert refusal(config) == (
        "config: digits_corrupted hides labels, and none of the methods () learns without: draw it with "
        "experiments.data, or give labels to the learner by config.scenario.labels=True."
    )
    config.scenario.labels = True
    assert _build.build(config).spec.labels
    put(config.scenario, "labels", "yes")
    assert refusal(config) == "config.scenario.labels expects True or False, got 'yes'."
    config.scenario = {"name": "class_incremental", "num_experiences": 2, "labels": True}
    assert refusal(config).startswith("'labels' is not a known key of config.scenario")


def test_tokens_are_asked_for_the_next_one_and_only_by_a_model_of_text():
    config = text.get_config("runlocal")
    learner = _build.build(config)
    assert learner.spec.outputs.logits.shape == (16, 64, 256)
    config.methods = ("ewc",)
    del config.er
    config.ewc = {"lam": 1.0}
    assert refusal(config).startswith("config.methods ('ewc',) on text_domain_incremental: forward must return logits")
    del config.ewc
    config.methods, config.model = (), {"name": "MLP"}
    said = "config.model GPT answers which token comes next, and no other model reads tokens, got "
    assert refusal(config) == f"{said}MLP for the source text: use GPT with the source text."
    config = er.get_config("runlocal")
    config.model = {"name": "GPT"}
    assert refusal(config) == f"{said}GPT for the source digits: use GPT with the source text."


def test_numbers_as_targets_are_refused_where_accuracy_is_told():
    config = naive.get_config("runlocal")
    stream = streams.permuted(streams.series(np.arange(40.0), 4), 2)
    with pytest.raises(_build.ConfigError, match="series asks for numbers, and a run is told in accuracy"):
        _build.build(config, stream=stream)


def test_text_of_a_book(tmp_path):
    folder = tmp_path / "debian_reference"
    folder.mkdir()
    for language in ("de", "en", "ja"):
        (folder / f"{language}.txt").write_text(f"{language} to be or not to be " * 30)
    home = {"documents": "debian_reference", "data_dir": str(tmp_path)}
    source = _sources.text(**home, languages=("en", "de"), length=8)
    assert source.num_classes == 2 and bytes(source.train["inputs"][0].tolist()) == b"en to be"
    assert _sources.text(**home, length=8).num_classes == 3
    config = types.SimpleNamespace(source={"name": "text", **home, "vocabulary": 260})
    config.source = type("Section", (dict,), {"name": "text"})(config.source)
    decode = _build.decoder(config)
    pairs = _sources.text(**home, vocabulary=260, length=8)
    assert decode is not None and decode(pairs.train["inputs"][0]).startswith(b"de to be")
    for wrong, says in (
        ({**home, "languages": ("de", "fr")}, "languages must be a sequence of some of de, en, ja"),
        ({"documents": "bible"}, "documents must be 'python' or 'debian_reference', got 'bible'"),
        ({"languages": ("de",)}, "are of documents='debian_reference': leave them out"),
    ):
        with pytest.raises(ValueError, match=says):
            _sources.text(**wrong)
    with pytest.raises(FileNotFoundError, match="run `python -m experiments.data --name=debian_reference --data_dir="):
        _sources.text("debian_reference", data_dir=str(tmp_path / "nowhere"))
