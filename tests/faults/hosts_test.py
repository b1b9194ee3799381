"""Several processes are one run: the same result, checkpoints for any number of them, and an end when one dies."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from experiments import _hosts, continual
from tests.quick import on_devices

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--config=configs/continual/er.py:runlocal",
    "--config.scenario.num_experiences=2",
    "--config.epochs=4",
    "--config.model.hidden=(36,)",
    "--heartbeat_seconds=10",
]
# The binary, with chunks short enough that a signal finds the run in the middle of an experience.
BINARY = """
from experiments import _cli, continual

continual._CHUNK_SECONDS = 0.05
continual.define_flags()
_cli.run(continual.main)
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class Run:
    """The processes of a run, over so many devices each."""

    def __init__(self, folder, workdir, processes, *more, devices=1):
        self.folder, self.workdir = folder, folder / workdir
        with socket.socket() as found:
            found.bind(("localhost", 0))
            port = found.getsockname()[1]
        environment = on_devices(devices) | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
        self.processes: list[Any] = []
        for k in range(processes):
            who = [f"--coordinator=localhost:{port}", f"--processes={processes}", f"--process={k}"]
            command = [sys.executable, "-c", BINARY, *FLAGS, f"--workdir={self.workdir}", *more]
            command += who if processes > 1 else []
            with open(folder / f"{k}.out", "w") as out, open(folder / f"{k}.err", "w") as err:
                self.processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err))

    def end(self):
        """Waits for all."""
        codes = [process.wait(timeout=300) for process in self.processes]
        texts = [
            ((self.folder / f"{k}.out").read_text(), (self.folder / f"{k}.err").read_text()) for k in range(len(codes))
        ]
        return [Ended(code, *text) for code, text in zip(codes, texts, strict=True)]

    def wait_for(self, holds):
        while not holds():
            for k, process in enumerate(self.processes):
                assert process.poll() is None, (self.folder / f"{k}.err").read_text()
            time.sleep(0.05)

    def steps(self):
        """Of the checkpoints."""
        folder = self.workdir / "checkpoints"
        return [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []

    def result(self):
        return json.loads((self.workdir / "result.json").read_text())


class Story(NamedTuple):
    """What became of the runs."""

    ends: dict[str, list[Ended]]
    results: dict[str, dict[str, Any]]
    stopped: dict[str, Any]  # result.json of two processes after SIGTERM
    spread: dict[str, int]  # leaves of their checkpoint that were saved in parts, and in how many
    last: int  # step of the newest checkpoint that a killed process left


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    ends = {}
    whole = Run(folder, "whole", 1, devices=4)
    ends["whole"] = whole.end()
    run = Run(folder, "run", 2, "--shard=^params.*kernel", devices=2)
    run.wait_for(lambda: (run.workdir / "metrics.jsonl").exists() and (run.workdir / "metrics.jsonl").stat().st_size)
    run.processes[1].send_signal(signal.SIGTERM)
    ends["stopped"], stopped = run.end(), run.result()
    kept = json.loads((run.workdir / "checkpoints" / str(stopped["steps"]) / "manifest" / "metadata").read_text())
    spread = {name: len(what["shards"]) for name, what in kept["body"]["leaves"].items() if "shards" in what}
    run = Run(folder, "run", 3, "--shard=dense.*kernel:1")
    ends["three"] = run.end()
    lost = Run(folder, "lost", 2, "--save_seconds=0")
    lost.wait_for(lambda: len(lost.steps()) > 1)
    lost.processes[1].kill()
    ends["lost"], last = lost.end(), max(lost.steps())
    lost = Run(folder, "lost", 1)
    ends["alone"] = lost.end()
    results = {"whole": whole.result(), "run": run.result(), "lost": lost.result()}
    return Story(ends, results, stopped, spread, last)


def test_each_number_of_processes_ends_as_one(story):
    ends, results = story.ends, story.results
    assert [end.code for name in ("whole", "three", "alone") for end in ends[name]] == [0] * 5
    for name in ("run", "lost"):
        np.testing.assert_allclose(results[name]["matrices"], results["whole"]["matrices"], atol=0.02)
        assert results[name]["finished"] and results[name]["steps"] == results["whole"]["steps"]


def test_one_process_writes_and_speaks(story):
    ends = story.ends
    assert "er: done in" in ends["three"][0].out
    for end in ends["three"][1:]:
        assert "er" not in re.sub(r"\[Gloo\].*\n", "", end.out) and end.err == ""


def test_a_signal_to_one_stops_all_and_three_go_on_where_two_were(story):
    ends, results, stopped = story.ends, story.results, story.stopped
    assert [end.code for end in ends["stopped"]] == [143, 143]
    assert 0 < stopped["steps"] < results["whole"]["steps"] and not stopped["finished"]
    assert f"er: resumed at step {stopped['steps']} of {results['whole']['steps']}, 1 seed" in ends["three"][0].out


def test_each_process_saves_its_own_parts(story):
    """Two kernels over two processes of two devices; restored over three, by their other axis."""
    assert sorted(story.spread) == ["params.dense_0.kernel", "params.head.kernel"] and set(story.spread.values()) == {4}


def test_a_process_that_dies_ends_the_others_with_a_sentence(story):
    ends = story.ends
    first, second = ends["lost"]
    assert second.code == -signal.SIGKILL and first.code == 5
    assert "error: another process of this run is gone (" in first.err and "Traceback" not in first.err
    assert first.err.rstrip().endswith(": start all of them again, the run goes on from its newest checkpoint in "
                                       f"{first.err.rstrip().rsplit(' ', 1)[1]}")  # fmt: skip
    assert f"er: resumed at step {story.last} of " in ends["alone"][0].out


def test_processes_agree_on_what_the_first_does_and_on_what_one_wishes(monkeypatch):
    assert _hosts.agreed(7, True, False) == (7, 1, 0)
    everyone = np.array([[7, 0, 0, 1], [9, 0, 1, 0]], np.int32)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("jax.experimental.multihost_utils.process_allgather", lambda own: everyone)
    assert _hosts.agreed(7, False, False, True) == (7, 0, 1, 1)


def raised_from(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (jax.errors.JaxRuntimeError("INTERNAL: heartbeat"), True),
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"), True),
        (raised_from(OSError("step 4 could not be written"), ValueError("UNKNOWN: Gloo AllGather failed")), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: memory"), False),
        (ValueError("a config"), False),
        (OSError("disk full"), False),
    ],
)
def test_what_ends_a_process_as_the_loss_of_another(monkeypatch, capfd, tmp_path, error, ends):
    """However the message of JAX that was not answered comes: as it is, or from within a save."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(os, "_exit", lambda code: sys.exit(code))
    with pytest.raises(SystemExit if ends else type(error)) as found, _hosts.together(tmp_path):
        raise error
    assert not ends or found.value.code == 5
    assert capfd.readouterr().err.startswith("error: another process of this run is gone (") == ends


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--processes=2"], "--processes and --process go with --coordinator=HOST:PORT; --distributed needs neither."),
        (["--coordinator=localhost:1"], "--coordinator expects --processes and --process as well, as in --processes=4"),
        (["--coordinator=localhost:1", "--processes=2", "--process=2"], "--process expects one of 0 to 1, got 2."),
        (["--devices=3"], "--devices: there are 1, got 3."),
        (["--shard=("], "--shard expects a regular expression, got '(': missing ), unterminated subpattern"),
    ],
)
def test_flags_that_do_not_fit_are_one_sentence(tmp_path, arguments, sentence):
    command = [sys.executable, "-m", "experiments.continual", *FLAGS, f"--workdir={tmp_path / 'run'}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith(f"error: {sentence}")
    assert not (tmp_path / "run").exists()
    assert continual.__doc__ is not None and "--coordinator" in continual.__doc__
