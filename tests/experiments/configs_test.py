"""Every config is a run, of which one of each kind goes two steps, and its header is the command that runs it."""

import re
import runpy
from pathlib import Path

import pytest

from experiments import _build, continual

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / "configs" / name for name in ("continual", "fault", "peft", "streams")]
FILES = sorted(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in folder.glob("*.py"))
COMMAND = re.compile(
    r"^python -m experiments\.continual --config=(\S+?\.py)(?::(\S+))? (?:\\\n    )?--workdir=runs/(\S+) --seeds=5$",
    re.MULTILINE,
)


def header(file):
    """What the docstring of a config says: its commands, as (file, argument, workdir)."""
    return COMMAND.findall(runpy.run_path(str(ROOT / file))["__doc__"])


CASES = [(file, argument) for file in FILES for _, argument, _ in header(file)]


def test_there_are_configs():
    assert len(FILES) >= 7 and {file for file, _ in CASES} == set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_the_header_names_the_file_and_a_workdir_of_its_own(file):
    for path, argument, workdir in header(file):
        config = runpy.run_path(str(ROOT / file))["get_config"](argument)
        assert (path, workdir) == (file, config.name)
        assert config.name == Path(file).stem + (f"_{argument}" if argument else "")
        assert Path(file).stem in config.methods or Path(file).stem not in _build.METHODS


def small(file, argument):
    """A config for two steps of each of few experiences, and how many."""
    config = runpy.run_path(str(ROOT / file))["get_config"](",".join(filter(None, [argument, "runlocal"])))
    config.steps = 2
    if "hidden" in config.model:
        config.model.hidden = (16,) * (1 + ("sharp" in config.methods))  # which replays what the second layer is given
    # A drift needs rows of each of its four concepts for each of its experiences.
    config.scenario.num_experiences = number = 4 if "concepts" in config.scenario else 2
    return config, 1 if config.arrival == "joint" else number


def kind(file, argument):
    config, _ = small(file, argument)
    return Path(file).parent, config.arrival, config.get("online"), config.model.name, config.scenario.name


@pytest.mark.parametrize(("file", "argument"), {kind(*case): case for case in reversed(CASES)}.values())
def test_two_steps(file, argument, tmp_path):
    config, experiences = small(file, argument)
    told = continual.train(config, tmp_path, quiet=True)
    assert ("prequential" in told) == config.get("online", False)
    assert (told.get("other_metrics") is not None) == (config.model.name == "GPT")
    assert told["finished"] and (told["steps"], told["experiences"]) == (2 * experiences, experiences)
    assert all(0 <= value <= 1 for row in told["matrices"][0] for value in row)


@pytest.mark.parametrize(("file", "argument"), CASES)
def test_every_hook_can_be_compiled(file, argument):
    config, experiences = small(file, argument)
    learner = _build.build(config)
    _build.traced(learner)
    assert learner.spec.steps == (2,) * experiences


@pytest.mark.parametrize("file", FILES)
def test_a_wrong_argument_is_refused(file):
    with pytest.raises(ValueError, match="got 'runlokal'"):
        runpy.run_path(str(ROOT / file))["get_config"]("runlokal")
