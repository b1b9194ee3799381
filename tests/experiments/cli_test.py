"""Every wrong use is one sentence and exit code 2, and leaves nothing behind; signals are heard whatever runs."""

import importlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctrain_jax import core
from experiments import _build, _cli
from tests.forks import run_cases
from tests.layout_test import FACTORIES

ROOT = Path(__file__).parents[2]
ER = "--config=configs/continual/er.py:runlocal"
EWC = "--config=configs/continual/ewc.py:runlocal"
NEW = "--workdir=new"

WRONG = {
    "nothing": (
        [],
        "--config=FILE and --workdir=DIR are needed, as in --config=configs/continual/er.py --workdir=runs/er.",
    ),
    "no workdir": (
        [ER],
        "--config=FILE and --workdir=DIR are needed, as in --config=configs/continual/er.py --workdir=runs/er.",
    ),
    "no config": (
        [NEW],
        "--config=FILE and --workdir=DIR are needed, as in --config=configs/continual/er.py --workdir=runs/er.",
    ),
    "unknown flag": (
        [ER, NEW, "--workdirs=2"],
        "Unknown command line flag 'workdirs'. Did you mean: workdir ? (see --help).",
    ),
    "unknown argument": ([ER, NEW, "er"], "unknown argument 'er': flags start with two dashes (see --help)."),
    "no seeds": ([ER, NEW, "--seeds=0"], "flag --seeds=0: 0 is not a positive integer (see --help)."),
    "no such file": (
        ["--config=configs/continual/ewcc.py", NEW],
        "the config file configs/continual/ewcc.py does not exist: did you mean 'configs/continual/ewc.py'?",
    ),
    "no get_config": (
        ["--config=configs/common.py", NEW],
        "the config file configs/common.py has no function get_config(arg).",
    ),
    "wrong argument of a config": (
        ["--config=configs/continual/er.py:runlokal", NEW],
        "configs/continual/er.py:runlokal: The config takes no argument or 'runlocal', got 'runlokal'.",
    ),
    "wrong key": ([ER, NEW, "--config.epoch=2"], "'epoch' is not a known key of config: did you mean 'epochs'?"),
    "wrong key of a method": (
        [ER, NEW, "--config.er.sise=2"],
        "'sise' is not a known key of config.er: did you mean 'size'?",
    ),
    "wrong section": (
        [ER, NEW, "--config.optimiser.learning_rate=0.1"],
        "'optimiser' is not a known key of config: did you mean 'optimizer'?",
    ),
    "key of a number": ([ER, NEW, "--config.er.size.rows=2"], "config.er.size is 500 and has no key 'rows'."),
    "wrong type": ([ER, NEW, "--config.epochs=two"], "config.epochs expects a value of type int, got 'two'."),
    "wrong type of an empty key": (
        [ER, NEW, "--config.steps=two"],
        "config.steps expects a value of type int, got 'two'.",
    ),
    "wrong type of a section": ([ER, NEW, "--config.er=2"], "config.er expects a value of type ConfigDict, got '2'."),
    "no epochs": ([ER, NEW, "--config.epochs=0"], "config: epochs expects a whole number of at least 1, got 0."),
    "no batch": (
        [ER, NEW, "--config.batch_size=-1"],
        "config: batch_size expects a whole number of at least 1, got -1.",
    ),
    "unknown method": ([ER, NEW, "--config.methods=erp"], "'erp' is not a known method: did you mean 'er'?"),
    "method without its section": (
        [ER, NEW, "--config.methods=ewc"],
        "config.ewc expects a value for lam: set config.ewc.lam.",
    ),
    "section without effect": (
        [ER, NEW, "--config.methods=nmc"],
        "config.er has no effect: add 'er' to config.methods, got ('nmc',).",
    ),
    "unknown source": (
        [ER, NEW, "--config.source.name=mnist"],
        "'mnist' is not a known source: did you mean 'fashion_mnist'?",
    ),
    "unknown scenario": (
        [ER, NEW, "--config.scenario.name=class_incremenal"],
        "'class_incremenal' is not a known scenario: did you mean 'class_incremental'?",
    ),
    "unknown model": ([ER, NEW, "--config.model.name=MLPs"], "'MLPs' is not a known model: did you mean 'MLP'?"),
    "key of another model": ([ER, NEW, "--config.model.name=ResNet18"], None),
    "unknown optimizer": (
        [ER, NEW, "--config.optimizer.name=xyz"],
        "'xyz' is not a known optimizer: choose from adagrad, adam, adamw, diffgrad, lamb, lion, nadam, radam, "
        "rmsprop, sgd.",
    ),
    "wrong key of an optimizer": (
        [ER, NEW, "--config.optimizer.learning_rat=1"],
        "'learning_rat' is not a known key of config.optimizer: did you mean 'learning_rate'?",
    ),
    "unknown arrival": (
        [ER, NEW, "--config.arrival=joined"],
        "'joined' is not a known value of config.arrival: did you mean 'joint'?",
    ),
    "too many experiences": (
        [ER, NEW, "--config.scenario.num_experiences=11"],
        "config.scenario: class_incremental: num_experiences must lie between 1 and the number of classes, 10, got 11; "
        "an experience needs a class of its own.",
    ),
    "no memory": ([ER, NEW, "--config.er.size=0"], None),
    "unknown policy": ([ER, NEW, "--config.er.policy=rings"], None),
    "negative lam": ([EWC, NEW, "--config.ewc.lam=-1"], None),
    "data set that is not there": (
        [ER, NEW, "--config.source.name=tfds", "--config.source.dataset=cifar10", "--config.source.data_dir=empty"],
        "config.source: tfds: 'cifar10' is not prepared under empty; run `python -m experiments.data --name=cifar10 "
        "--data_dir=empty` in a checkout.",
    ),
    "data set without a name": (
        [ER, NEW, "--config.source.name=tfds"],
        "config.source expects a value for dataset: set config.source.dataset.",
    ),
    "key of a source": (
        [ER, NEW, "--config.source.data_dir=here"],
        "'data_dir' is not a known key of config.source: leave it out.",
    ),
    "workdir of another config": (
        [ER, "--workdir=other", "--config.er.size=7", "--seeds=2"],
        "other holds a run of another config (config.er.size 500 -> 7, seeds [0] -> [0, 1]): use another --workdir, "
        "or the same config.",
    ),
    "workdir in a bucket": (
        [ER, "--workdir=gs://bucket/er"],
        "--workdir: gs://bucket/er is no folder: mount the bucket, and give the path where it is mounted.",
    ),
    "a sweep of several processes": (
        [ER, NEW, "--sweep=er.size=1,2", "--distributed"],
        "--sweep and --dry_run run in one process: leave out --distributed and --coordinator.",
    ),
    "workdir that is a file": ([ER, "--workdir=file"], "--workdir: [Errno 17] File exists: 'file'"),
    "workdir with a damaged config": (
        [ER, "--workdir=damaged"],
        "damaged/config.json cannot be read (Expecting property name enclosed in double quotes: line 1 column 2 "
        "(char 1)): use another --workdir.",
    ),
}
# Sentences of the library, told with the key that they are about; their words have tests of their own.
BEGINNINGS = {
    "no memory": "config.er: ",
    "unknown policy": "config.er: ",
    "negative lam": "config.ewc: lam must ",
    "key of another model": "'hidden' is not a known key of config.model: choose from ",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where every case has been run once."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "file").write_text("")
    for name, content in (("other", None), ("damaged", "{]")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(content or json.dumps(_claim()))
    run_cases(folder, "continual", dict(enumerate(case for case, _ in WRONG.values())))
    return folder


def _claim():
    from configs.continual import er

    return {"config": er.get_config("runlocal").to_dict(), "seeds": [0]}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_one_sentence(folder, name):
    k = list(WRONG).index(name)
    sentence = WRONG[name][1]
    out, err, code = ((folder / f"{k}.{kind}").read_text() for kind in ("out", "err", "code"))
    assert (code, out) == ("2", "")
    if sentence is None:
        assert err.startswith(f"error: {BEGINNINGS[name]}") and err.count("\n") == 1
    else:
        assert err == f"error: {sentence}\n"


def test_wrong_use_leaves_no_workdir(folder):
    assert not (folder / "new").exists()
    assert [path.name for path in (folder / "other").iterdir()] == ["config.json"]


def test_help_shows_a_command_and_every_flag():
    command = [sys.executable, "-m", "experiments.continual", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m experiments.continual --config=configs/continual/er.py --workdir=runs/er --seeds=5" in done.stdout
    for flag in ("--config", "--workdir", "--seeds", "--save_seconds", "--[no]quiet", "--[no]list", "--[no]dry_run"):
        assert f"\n  {flag}: " in done.stdout


BINARIES = ["continual", "data", "evidence", "leaderboard", "learning_curve", "published", "report", "search", "soak"]


@pytest.mark.parametrize("binary", BINARIES)
def test_every_binary_says_its_exit_codes(binary):
    said = importlib.import_module(f"experiments.{binary}").__doc__
    assert re.search(r"Exit codes:\s0 .*\b2\swrong\suse", said, re.DOTALL)


def run_here(*arguments):
    command = [sys.executable, "-W", "ignore", "-m", "experiments.continual", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_list_names_everything_that_a_config_can_name():
    sections = {
        head: dict(line.split(maxsplit=1) for line in lines)
        for head, *lines in (part.splitlines() for part in run_here("--list").split("\n\n"))
    }
    assert set(sections["config.methods"]) == {
        name for name, factory in FACTORIES.items() if inspect.signature(factory).return_annotation is core.Method
    } - {"lora", "prefix"}
    assert set(sections["config.scenario.name"]) == set(_build.SCENARIOS)
    assert set(sections["config.model.name"]) == set(_build.MODELS)
    assert set(sections["config.source.name"]) == set(_build.SOURCES)
    assert set(sections["config.optimizer.name"]) == set(vars(_build.OPTIMIZERS))
    files = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/*/*.py")}
    assert set(sections["--config"]) == {path for path in files if not path.endswith("__init__.py")}
    for lines in sections.values():
        assert all(len(line) > 15 and ":math:" not in line for line in lines.values())


def test_a_dry_run_tells_what_a_run_would_be_and_writes_nothing(tmp_path):
    workdir = tmp_path / "run"
    out = run_here(ER, f"--workdir={workdir}", "--dry_run", "--seeds=2", "--config.model.hidden=(16,8)")
    said, name = {}, ""
    for line in out.splitlines():
        name = line[:8].strip() or name
        said.setdefault(name, []).append(line[9:].strip())
    assert not workdir.exists()
    assert said["run"][0].startswith("er, 2 seeds in one program, on ")
    assert "inputs float32[32, 8, 8]" in said["batch"] and "labels int32[32]" in said["batch"]
    # 64 x 16 + 16, 16 x 8 + 8, 8 x 10 + 10
    assert said["model"] == ["MLP: 1,266 trained parameters", "dense_0 1,040", "dense_1 136", "head 90"]
    assert said["answers"] == ["logits float32[32, 10], features float32[32, 8]"]
    # 500 rows of two int32, and a count
    assert said["state"][0].endswith("er 3.9 KiB") and "parameters 4.9 KiB" in said["state"][0]
    assert " ms a step for all seeds, measured just now" in said["time"][0]


def test_the_nearest_name():
    assert _cli.nearest("erp", ["ewc", "er"]) == "did you mean 'er'?"
    assert _cli.nearest("zzz", ["b", "a"]) == "choose from a, b."
    assert _cli.nearest("zzz", []) == "leave it out."


BUSY = """
import hashlib, os, signal, sys
from experiments import _cli

with _cli.signals() as received:
    print("ready", flush=True)
    # Like a program that is compiled: C code that returns to Python after many seconds.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000_000)
    print("over")
"""


@pytest.mark.parametrize(("first", "second"), [("SIGINT", "SIGTERM"), ("SIGTERM", "SIGINT")])
def test_two_signals_end_the_program_at_once_whatever_runs(first, second):
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.Signals[first])
    assert process.stderr.readline() == f"{first}: saving, a second one ends at once\n"
    process.send_signal(signal.Signals[second])
    out, err = process.communicate()
    assert (process.returncode, out, err) == (128 + signal.Signals[second], "", "")


def test_signals_are_collected_and_handed_back(capsys):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with _cli.signals() as received:
        assert received == []
        os.kill(os.getpid(), signal.SIGTERM)
        while not received:
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # by whoever stops the group, within a second: the same request
        time.sleep(0.2)
        assert received == [signal.SIGTERM]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert capsys.readouterr().err == "SIGTERM: saving, a second one ends at once\n"


def test_an_interrupted_binary_says_so_in_a_word():
    program = "from experiments import _cli\ndef main(argv): raise KeyboardInterrupt\n_cli.run(main)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
