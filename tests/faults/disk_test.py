"""A disk that refuses, a folder that is gone or in use: one sentence, and every checkpoint before is whole."""

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import time

import pytest

from ctrain_jax import core
from ctrain_jax.core import _checkpoint
from experiments import _build, _cli, _progress, _workdir, continual
from tests.faults import small

# A save that is given up leaves a callback of Orbax to an event loop that is closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def train(monkeypatch):
    monkeypatch.setattr(_progress.Pace, "steps", lambda self: 3)
    monkeypatch.setattr(_build, "build", BUILD)
    return lambda workdir, **options: continual.train(small.config(), workdir, 1, save_seconds=0, quiet=True, **options)


BUILD = small.builder()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_progress.Pace, "steps", lambda self: 3)
        patch.setattr(_build, "build", BUILD)
        return continual.train(small.config(), tmp_path_factory.mktemp("whole"), 1, quiet=True)


def refuse(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def ends_with_a_sentence(run, *words):
    with pytest.raises(_cli.Fault) as error:
        run()
    assert error.value.code == _cli.DISK == 4
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text
    assert text.endswith("see to the disk, then the same command goes on from the newest one.")


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (_checkpoint, "_seal"),  # in the thread that saves
        (_progress.Log, "train"),
        (_progress.Log, "flush"),
        (_workdir, "write"),
    ],
)
def test_no_space_is_one_sentence_and_the_run_goes_on_afterwards(train, whole, tmp_path, monkeypatch, target, name):
    workdir = tmp_path / "run"
    calls = []

    def later(real):
        def call(*args, **options):
            calls.append(1)
            # The second time: there is a checkpoint before it.
            return refuse() if len(calls) == 2 else real(*args, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(target, name, later(getattr(target, name)))
        ends_with_a_sentence(lambda: train(workdir), str(workdir), "No space left on device")
    assert train(workdir)["matrices"] == whole["matrices"]


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of its own; its size can be changed."""
    folder.mkdir()

    def mount(options):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)

    try:
        done = mount(f"size={size}")
    except OSError as error:
        pytest.skip(f"mounting does not work here: {error}")
    if done.returncode:
        pytest.skip(f"mounting does not work here: {done.stderr.decode().strip()}")
    try:
        yield lambda options: mount(f"remount,{options}").check_returncode()
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full(train, whole, tmp_path):
    with small_disk(tmp_path / "disk", "100k") as change:
        # A checkpoint or a file beside it: which finds the disk full first is up to a thread, and so are the words.
        ends_with_a_sentence(lambda: train(tmp_path / "disk" / "run"), str(tmp_path / "disk" / "run"))
        change("size=64m")
        assert train(tmp_path / "disk" / "run")["matrices"] == whole["matrices"]


def test_a_disk_that_becomes_read_only(train, whole, tmp_path):
    with small_disk(tmp_path / "disk", "64m") as change:
        train(tmp_path / "disk" / "run", received=Once(2))
        change("ro")
        ends_with_a_sentence(lambda: train(tmp_path / "disk" / "run"), "Read-only file system")
        with pytest.raises(_build.ConfigError, match="--workdir: .*Read-only file system"):
            train(tmp_path / "disk" / "other")
        change("rw")
        assert train(tmp_path / "disk" / "run")["matrices"] == whole["matrices"]


class Once(list):
    """Signals: none at the first looks, one from then on."""

    def __init__(self, looks):
        super().__init__([2])
        self.looks = looks

    def __bool__(self):
        self.looks -= 1
        return self.looks < 0


def test_a_folder_that_vanishes(train, whole, tmp_path):
    class Vanishes(list):
        looks = 0

        def __bool__(self):
            self.looks += 1
            if self.looks == 3:
                shutil.rmtree(tmp_path / "run")
            return False

    ends_with_a_sentence(lambda: train(tmp_path / "run", received=Vanishes()), str(tmp_path / "run"))
    assert train(tmp_path / "run")["matrices"] == whole["matrices"]


def test_a_folder_belongs_to_one_run_at_a_time(train, tmp_path):
    tmp_path.joinpath("run").mkdir()
    with _workdir.locked(tmp_path / "run"):
        with pytest.raises(_build.ConfigError) as error:
            train(tmp_path / "run")
        assert str(error.value) == (
            f"{tmp_path / 'run'} is in use by process {os.getpid()} on {socket.gethostname()}: wait for it, or use "
            "another --workdir."
        )
        assert {path.name for path in (tmp_path / "run").iterdir()} == {"lock"}
    assert train(tmp_path / "run")["finished"]


def test_checkpoints_of_another_config_are_refused_without_its_config(train, tmp_path):
    train(tmp_path / "run", received=Once(2))
    (tmp_path / "run" / "config.json").unlink()
    config = small.config()
    config.seed = 5
    with pytest.raises(_build.ConfigError, match="holds checkpoints of another config: use another --workdir"):
        continual.train(config, tmp_path / "run", 1, quiet=True)


def test_a_clock_that_is_set_changes_nothing(train, whole, tmp_path, monkeypatch):
    real, offset = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])

    class SetBack(Once):
        def __bool__(self):
            offset[0] -= 1e5
            return super().__bool__()

    first = train(tmp_path / "run", received=SetBack(3))
    assert not first["finished"]
    # Not in the middle of a save: Orbax would take it for one that hangs, and the run would end with a sentence.
    offset[0] = 1e7
    told = train(tmp_path / "run")
    assert told["matrices"] == whole["matrices"] and 0 <= told["seconds"] < 1e4
    steps = [line["step"] for line in small.lines(tmp_path / "run") if line["kind"] == "train"]
    assert steps == [3, 4, 7, 8]


def test_checkpoints_by_steps_and_the_best(train, tmp_path, monkeypatch):
    saves = []
    opened = core.open_checkpoints

    def watched(*args, **options):
        made = opened(*args, **options)
        return made._replace(save=lambda step, *rest: (saves.append(step), made.save(step, *rest)))

    monkeypatch.setattr(core, "open_checkpoints", watched)
    continual.train(small.config(), tmp_path / "run", 1, save_steps=2, quiet=True)
    assert saves == [2, 4, 6, 8]
