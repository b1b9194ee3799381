"""A directory of checkpoints, whatever became of it: a state to the bit, a reason to pass over, or one sentence."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrain_jax import core
from ctrain_jax.core import _checkpoint, _leaves
from tests.security.wild import EXAMPLES, TEXTS, changed, executed, is_sentence, regrown, touched, watched

# Orbax leaves threads behind where a file is damaged that no seal tells of.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
STEPS = (1, 2)
DEEP = b"[" * 100_000
MANIFEST = "manifest/metadata"


def state(step):
    return {"weights": jnp.arange(6.0) + step, "key": jax.random.key(step), "step": step, "empty": jnp.zeros((0, 2))}


def bits(tree):
    return [
        np.asarray(
            jax.random.key_data(x) if jnp.issubdtype(getattr(x, "dtype", int), jax.dtypes.prng_key) else x
        ).tobytes()
        for x in jax.tree.leaves(tree)
    ]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Two checkpoints; beside their directory a file that nobody may look at."""
    folder = tmp_path_factory.mktemp("good")
    checkpoints = core.open_checkpoints(folder / "checkpoints")
    for step in STEPS:
        checkpoints.save(step, state(step), {"at": step}, score=step / 10)
    checkpoints.close()
    return folder / "checkpoints"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A place for copies, and a secret."""
    work = tmp_path_factory.mktemp("work")
    (work / "secret").mkdir()
    (work / "secret" / "file").write_text("{}")
    return work


def copied(good, work):
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    return shutil.copytree(good, work / "checkpoints")


def answer(directory, forged=False):
    """The step that comes back, None where all of them are refused; everything that is promised is looked at."""
    secret = directory.parent / "secret"
    before = {path: path.read_bytes() for path in directory.parent.rglob("*") if path.is_file()}
    with watched() as seen:
        try:
            checkpoints = core.open_checkpoints(directory)
            try:
                back = checkpoints.restore(state(0))
                best = checkpoints.restore_best(state(0))
            finally:
                checkpoints.close()
        except ValueError as error:
            assert is_sentence(error, 1000), str(error)
            back = None
    assert touched(seen, secret) == []
    assert {path: path.read_bytes() for path in directory.parent.rglob("*") if path.is_file()} == before
    if back is None:
        return None
    for found in (back, best):
        assert found.step in STEPS and bits(found.state) == bits(state(found.step))
        assert forged or found.extra == {"at": found.step}
        assert all(reason and "\n" not in reason for reason in found.damaged.values())
    return back.step


def files(good):
    return sorted(path.relative_to(good).as_posix() for path in good.rglob("*") if path.is_file())


@given(data=st.data())
@settings(EXAMPLES, max_examples=25)
def test_changed_files(good, work, data):
    directory = copied(good, work)
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from(files(good)))
        file = directory / name
        if data.draw(st.booleans()):
            (directory / name.split("/")[0] / "seal.json").unlink(missing_ok=True)
        if file.is_file() and file.stat().st_size:
            content = data.draw(changed(file.read_bytes()) | st.just(DEEP) | st.just(b""))
            file.write_bytes(content)
    assert answer(directory) in (*STEPS, None)


@given(data=st.data())
@settings(EXAMPLES, max_examples=25)
def test_json_of_other_kinds(good, work, data):
    """With a seal that is right, or none, and with the checksum of a manifest that is right."""
    directory = copied(good, work)
    name = data.draw(st.sampled_from(["seal.json", MANIFEST, MANIFEST, "state/_METADATA", "_CHECKPOINT_METADATA"]))
    file = directory / "2" / name
    content = json.loads(file.read_text())
    if name == MANIFEST:
        body = data.draw(regrown(content["body"]))
        content = {"body": body, "checksum": _leaves.checksum(_checkpoint._canonical(body))}
    elif name == "seal.json":
        content = data.draw(regrown(content) | st.dictionaries(TEXTS, st.integers(0, 2**32), max_size=2))
    else:
        content = data.draw(regrown(content))
    file.write_text(json.dumps(content))
    if name != "seal.json":
        (directory / "2" / "seal.json").unlink()
    assert answer(directory, forged=True) in (*STEPS, None)


@pytest.mark.parametrize("file", ["seal.json", MANIFEST, "state/_METADATA", "_CHECKPOINT_METADATA"])
def test_json_without_end(good, work, file):
    directory = copied(good, work)
    (directory / "2" / file).write_bytes(DEEP)
    assert answer(directory) in (1, None)


@pytest.mark.parametrize(
    "name",
    ["../../secret/file", "../1/manifest/metadata", "/etc/passwd", "state/../seal.json", "\x85", "\x00", "a" * 5000],
)
def test_a_seal_names_its_own_files(good, work, name):
    directory = copied(good, work)
    seal = directory / "2" / "seal.json"
    target = seal.parent / name
    checksum = _checkpoint._file_crc(target) if len(name) > 1 and len(name) < 100 else 0
    seal.write_text(json.dumps(json.loads(seal.read_text()) | {name: checksum}))
    assert answer(directory) == 1


KINDS = {
    "link": lambda path, work: path.symlink_to(work / "secret" / "file"),
    "link to a folder": lambda path, work: path.symlink_to(work / "secret"),
    "link to itself": lambda path, work: path.symlink_to(path),
    "device": lambda path, work: path.symlink_to("/dev/zero"),
    "pipe": lambda path, work: os.mkfifo(path),
}


@pytest.mark.parametrize("place", ["", "state", "seal.json", MANIFEST, "state/manifest.ocdbt", "_CHECKPOINT_METADATA"])
@pytest.mark.parametrize("kind", KINDS)
def test_links_pipes_and_devices_are_not_followed(good, work, place, kind):
    """Orbax would read what is behind them, or wait for ever."""
    directory = copied(good, work)
    path = directory / "2" / place
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if place != "seal.json":
        (directory / "2" / "seal.json").unlink(missing_ok=True)
    KINDS[kind](path, work)
    if not place and not path.is_dir():  # a step is a folder
        assert answer(directory) == 1
        return
    with pytest.raises(core.DamagedCheckpoint, match="is a link, a pipe or a device: delete it"):
        core.open_checkpoints(directory)
    assert answer(directory) is None


@pytest.mark.parametrize("name", ["7", "99999999999999999999", "0002", "-2", "2.5", "2x", "\u0662"])
def test_a_checkpoint_of_another_name_is_none(good, work, name):
    directory = copied(good, work)
    (directory / "2").rename(directory / name)
    assert answer(directory) == 1


def test_two_that_changed_their_places_are_refused(good, work):
    directory = copied(good, work)
    for old, new in (("2", "x"), ("1", "2"), ("x", "1")):
        (directory / old).rename(directory / new)
    with pytest.raises(core.DamagedCheckpoint, match=r"step 2: it was saved as step 1; step 1: it was saved as step 2"):
        core.open_checkpoints(directory).restore(state(0))
    assert answer(directory) is None


def test_other_things_in_the_directory_do_no_harm(good, work):
    directory = copied(good, work)
    (directory / "3").write_text("no folder")
    (directory / "4").mkdir()
    shutil.copytree(directory / "2" / "state", directory / "5")
    (directory / "link").symlink_to(work / "secret")
    os.mkfifo(directory / "pipe")
    assert answer(directory) == 2


def test_nothing_of_a_checkpoint_is_executed(good, work):
    directory = copied(good, work)
    for _ in range(2):  # what is imported when it is first needed is there the second time
        with watched() as seen:
            assert answer(directory) == 2
    assert executed(seen) == []


def test_a_checkpoint_names_no_code(good, work):
    """Orbax writes down the classes that read its parts."""
    directory = copied(good, work)
    note = directory / "2" / "_CHECKPOINT_METADATA"
    told = json.loads(note.read_text())
    note.write_text(json.dumps(told | {"item_handlers": dict.fromkeys(told["item_handlers"], "antigravity.Handler")}))
    with watched() as seen:
        answer(directory)
    assert ("import", "antigravity") not in seen and executed(seen) == []
