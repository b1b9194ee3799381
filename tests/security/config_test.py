"""A config, whatever its values are, becomes a learner or one sentence; and no name in it leads out of a folder."""

import copy
import inspect
import json

import jax
import ml_collections
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from configs.continual import er
from ctrain_jax import continual, core, models, streams
from experiments import _build, _results, _sweep, _workdir
from experiments.continual import load, train
from tests.security.wild import EXAMPLES, TEXTS, is_sentence, regrown, touched, trees, watched

PLAIN = er.get_config("runlocal").to_dict()
PLAIN["model"]["hidden"], PLAIN["steps"], PLAIN["scenario"]["num_experiences"] = (4,), 1, 2
KINDS = {
    "scenario": (_build.SCENARIOS, streams),
    "model": (_build.MODELS, models),
    "optimizer": (tuple(vars(_build.OPTIMIZERS)), _build.OPTIMIZERS),
    "source": (_build.SOURCES, streams),
}


def options(factory):
    """Some arguments of a factory, and one that it may not have."""
    names = [name for name in inspect.signature(factory).parameters if name not in ("source", "parent", "name")]
    return st.dictionaries(st.sampled_from(names or ["none"]) | TEXTS, trees(), max_size=2)


@st.composite
def configs(draw):
    """The plain config with a few values that are wrong, most of the time."""
    config = copy.deepcopy(PLAIN)
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from(["top", "method", *KINDS]))
        if kind == "top":
            config[draw(st.sampled_from(sorted(PLAIN)) | TEXTS)] = draw(trees())
        elif kind == "method":
            name = draw(st.sampled_from(continual.__all__))
            config.pop(config["methods"][0] if isinstance(config["methods"], tuple) and config["methods"] else "", None)
            config |= {"methods": (name,), name: draw(options(getattr(continual, name)))}
        else:
            names, package = KINDS[kind]
            name = draw(st.sampled_from(names))
            config[kind] = {"name": name} | draw(options(getattr(package, name)))
    return config


def told(call):
    """The sentence of a ConfigError, None where there is none."""
    try:
        call()
    except _build.ConfigError as error:
        assert is_sentence(error), str(error)
        return str(error)
    return None


@pytest.fixture(autouse=True)
def no_data(monkeypatch, tmp_path):
    """The digits are read once, and no data set is prepared anywhere."""
    source = streams.digits()
    monkeypatch.setattr(streams, "digits", lambda: source)
    monkeypatch.setattr(streams, "fashion_mnist", lambda: source)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))


@given(config=configs())
@settings(EXAMPLES, max_examples=80)
def test_a_config_is_a_learner_or_a_sentence(config):
    try:
        config = ml_collections.ConfigDict(config)
    except (ValueError, TypeError, AttributeError, KeyError):
        reject()
    learners = []
    assert told(lambda: learners.append(_build.build(config))) or isinstance(learners[0], core.Learner)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "hidden", (10**12,)),
        ("er", "size", 10**12),
        ("er", "batch_size", 10**12),
        ("scenario", "num_experiences", 10**12),
        (None, "batch_size", 10**12),
        (None, "epochs", 2**31),
        (None, "steps", 2**30),
        (None, "seed", 2**40),
        (None, "seed", "zero"),
        (None, "name", "er\n"),
        (None, "name", {"a": 1}),
        ("optimizer", "learning_rate", "fast"),
        ("optimizer", "b1", None),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(tmp_path, section, key, value):
    """Sizes that nobody has are answered without an attempt to get them."""
    config = copy.deepcopy(PLAIN)
    if key == "num_experiences":
        config["scenario"]["name"] = "permuted"
    config["steps"], config["epochs"] = (None, 1) if key == "epochs" else (1, 1)
    (config if section is None else config[section])[key] = value
    sentence = told(lambda: train(ml_collections.ConfigDict(config), tmp_path / "run"))
    assert sentence is not None and sentence.startswith("config") and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "model", [{"name": "ViT", "patch": 2, "depth": 10**6}, {"name": "ViT", "patch": 2, "width": 2**33}]
)
def test_a_transformer_that_nobody_can_trace_is_refused(model):
    assert "expects" in told(lambda: _build.build(ml_collections.ConfigDict(PLAIN | {"model": model})))


def test_a_device_without_memory_is_one_sentence(tmp_path, monkeypatch):
    def full(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 901943144400 bytes.")

    for name in ("start", "evaluate"):
        with monkeypatch.context() as patch:
            patch.setattr(core, name, full)
            assert "Out of memory" in told(lambda: train(ml_collections.ConfigDict(PLAIN), tmp_path / "run"))


PIECES = ["..", ".", "/", "//", "~", "shapes", "secret", "1.0.0", ":", "*", "**", "\x00", "\ud800", "a" * 300, "\n"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder of data sets, and beside it one that nobody may look at."""
    home = tmp_path_factory.mktemp("home")
    for folder in ("data/shapes/1.0.0", "secret/1.0.0", "shapes/1.0.0"):
        (home / folder).mkdir(parents=True)
        (home / folder / "dataset_info.json").write_text("{}")
    return home


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=7), absolute=st.booleans())
@settings(EXAMPLES, max_examples=100)
def test_the_name_of_a_data_set_stays_in_its_folder(home, pieces, absolute):
    name = (str(home / "secret") if absolute else "") + "".join(pieces)
    source = {"name": "tfds", "dataset": name, "data_dir": str(home / "data")}
    with watched() as seen:
        assert told(lambda: _build.build_source(ml_collections.ConfigDict({"source": source}))) is not None
    assert [path for path in touched(seen, home) if not path.startswith(str(home / "data"))] == []


@pytest.mark.parametrize("name", ["../secret", "shapes:../../secret/1.0.0", "/etc", "shapes/../../secret"])
def test_a_name_that_is_a_path_is_told(home, name):
    with pytest.raises(ValueError, match="tfds: name must be 'name', 'name/config' or 'name:version', got"):
        streams.tfds(name, home / "data")


def test_the_name_of_a_run_is_no_part_of_a_path(tmp_path):
    """A sweep writes a folder for each of its runs."""
    changes = {
        "name": "er ../../out /etc/out",
        "methods": (),
        "scenario": {"name": "class_incremental", "num_experiences": 1},
    }
    config = ml_collections.ConfigDict(PLAIN | changes)
    del config.er
    config.scenario.valid_fraction = 0.1
    _sweep.run(config, tmp_path / "a" / "b", 1, ["optimizer.learning_rate=0.1,0.2"])
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {f"a/b/optimizer.learning_rate={value}/result.json" for value in ("0.1", "0.2")}


def test_a_link_in_the_checkpoints_of_a_run_is_told(tmp_path):
    config = ml_collections.ConfigDict(PLAIN)
    train(config, tmp_path, quiet=True)
    (tmp_path / "result.json").unlink()
    (tmp_path / "checkpoints" / "2" / "state" / "link").symlink_to(tmp_path)
    for call in (lambda: train(config, tmp_path, quiet=True), lambda: load(tmp_path)):
        assert "is a link, a pipe or a device: delete it" in (told(call) or "")


CLAIM = {"config": json.loads(json.dumps(PLAIN)), "seeds": [0], "versions": {"jax": "1"}, "commit": None}
RESULT = {"name": "er", "finished": True, "steps": 2, "metric": "accuracy", "matrices": [[[1.0]]], "seeds": [0]}


@given(claim=regrown(CLAIM), result=regrown(RESULT))
@settings(EXAMPLES, max_examples=50)
def test_the_notes_of_a_run_are_read_or_told(home, claim, result):
    assert "holds" in read_notes(home, json.dumps(claim), json.dumps(result))


def test_notes_without_end_are_told(home):
    assert "holds no run" in read_notes(home, "[" * 100_000, "[" * 100_000)


def read_notes(folder, claim, result):
    """What `load` says of a folder without a checkpoint; a claim is told, and a result is shown or none."""
    (folder / "config.json").write_text(claim)
    (folder / "result.json").write_text(result)
    told(lambda: _workdir.is_claimed(folder, CLAIM))
    if (found := _workdir.finished(folder)) is not None:
        assert _results.summary_table([found]) and "steps" in found and "metric" in found
    return told(lambda: load(folder))
