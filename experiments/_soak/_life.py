"""One life of a run: a process, from its start to its own end or to the signal that ends it."""

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TMP = ".orbax-checkpoint-tmp"  # in the name of the folder of a checkpoint that is being written
SIGNALS = {
    "kill": signal.SIGKILL,
    "kill_in_save": signal.SIGKILL,
    "term": signal.SIGTERM,
    "interrupt": signal.SIGINT,
}
_START_UPS = 0.2  # the share of kills that find a run starting up
_IN_SAVE = 0.03  # seconds, the longest between the first sight of a save and the kill

Moments = Iterator[float]  # how long to wait before the next look; over when the moment has come


class Life(NamedTuple):
    """A process that is over."""

    code: int  # minus the number of the signal where one ended it
    out: str
    err: str
    struck: bool  # whether the signal was sent before the process ended by itself
    overdue: bool  # whether it had to be ended because it did not end
    started: float | None  # seconds from its start until it computed, where it came so far

    @property
    def resumed(self) -> int | None:
        """The step that its first line names; None where it did not come so far, or was finished before."""
        found = re.match(r"\S+: (?:resumed at step (\d+) of |\d+ steps, )", self.out)
        return None if found is None else int(found[1] or 0)

    @property
    def said(self) -> int | None:
        """The step at which it says that it stopped."""
        found = re.search(r": stopped at step (\d+) of ", self.out)
        return None if found is None else int(found[1])


def live(
    command: Sequence[str],
    run: Path,
    log: Path,
    *,
    cache: Path,
    kind: str | None = None,
    rng: random.Random,
    window: float,
    startup: float,
    limit: float,
) -> Life:
    """Start a run, end it at a random moment, and wait until nothing of it is left.

    Args:
      command: of the run.
      run: its workdir.
      log: where `log.out` and `log.err` receive what it says.
      cache: folder of compiled programs.
      kind: of the end, a key of `SIGNALS`; None lets it come to its own.
      rng: of the moment.
      window: seconds of computing within which the end comes.
      startup: seconds that a start takes, for ends that come within one.
      limit: seconds after which a process is overdue.

    Returns:
      What is known of it.
    """
    out, err = log.with_suffix(".out"), log.with_suffix(".err")
    before, began, started, struck, overdue = _inode(run / "metrics.jsonl"), time.monotonic(), None, False, False
    with out.open("w") as said, err.open("w") as warned:
        # A session of its own: Ctrl-C in the terminal is for the soak.
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        options = {"cwd": ROOT, "env": environment, "start_new_session": True}
        process = subprocess.Popen(command, stdout=said, stderr=warned, **options)

    def computes() -> bool:
        nonlocal started
        if started is None and _computes(run, out, before):
            started = time.monotonic() - began
        return started is not None

    try:
        for pause in _moments(kind, run, rng, computes, window, startup):
            if _over(process, pause):
                break
            if time.monotonic() - began > limit:
                overdue = True
                break
        else:
            struck = kind is not None and process.poll() is None
            if struck:
                process.send_signal(SIGNALS[kind or ""])
        if not overdue:
            overdue = not _over(process, limit)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return Life(process.returncode, out.read_text(), err.read_text(), struck, overdue, started)


def half_folders(run: Path) -> list[str]:
    """Names of folders in which a checkpoint is, or was, being written."""
    try:
        return [entry.name for entry in os.scandir(run / "checkpoints") if TMP in entry.name]
    except FileNotFoundError:
        return []


def _moments(
    kind: str | None, run: Path, rng: random.Random, computes: Callable[[], bool], window: float, startup: float
) -> Moments:
    if kind == "kill" and rng.random() < _START_UPS:
        yield rng.uniform(0, startup)
        return
    while not computes():
        yield 0.01
    if kind == "kill_in_save":
        yield rng.uniform(0, window / 2)
        while not half_folders(run):
            yield 0.0005
        yield rng.uniform(0, _IN_SAVE)
    elif kind is not None:
        yield rng.uniform(0, window)


def _computes(run: Path, out: Path, before: int | None) -> bool:
    """Whether it has told its first chunk: of what it told in an earlier life, it makes a new file first."""
    file = run / "metrics.jsonl"
    if not out.stat().st_size or _inode(file) in (None, before):
        return False
    found = re.search(r"step (\d+) of", out.read_text().split("\n")[0])
    try:
        told = json.loads(file.read_text().splitlines()[-1])["step"]
    except (IndexError, ValueError, KeyError, OSError):
        return False
    return told > (int(found[1]) if found else 0)


def _inode(file: Path) -> int | None:
    try:
        return file.stat().st_ino
    except FileNotFoundError:
        return None


def _over(process: subprocess.Popen, seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
