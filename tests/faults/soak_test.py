"""Runs survive what the soak does to them, and the soak sees it where one does not."""

import json
import os
import random
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from absl import flags

from configs.continual import er
from ctrain_jax import core
from experiments import _build, soak
from experiments._soak import _damage, _judge, _life, _page, _story

# The binary, with chunks so short that a life of less than a second saves more than once.
BINARY = """
from experiments import _cli, continual

continual._CHUNK_SECONDS = 0.05
continual.define_flags()
_cli.run(continual.main)
"""
OVERRIDES = {"source.name": "fashion_mnist", "scenario.num_experiences": 2, "epochs": 16, "model.hidden": (16,)}
SMALL = _story.Recipe(
    "er",
    ("--config=configs/continual/er.py:runlocal", *(f"--config.{key}={value}" for key, value in OVERRIDES.items())),
    (sys.executable, "-c", BINARY),
    window=0.5,
    limit=120.0,
)


class Suffered(NamedTuple):
    story: _story.Story
    told: _story.Told
    folder: Path


@pytest.fixture(scope="module")
def suffered(tmp_path_factory):
    """Twelve kills and eight other faults, of one recipe."""
    folder = tmp_path_factory.mktemp("soak") / "er"
    rng = random.Random(0)
    story = _story.Story(SMALL, folder, rng, print)
    return Suffered(story, story.tell(_story.plan(12, rng)), folder)


def test_twenty_faults_end_in_the_same_bits(suffered):
    counted = _page.counts(suffered.told.faults)
    assert suffered.told.failures == []
    assert _page.last_line(counted) == "kills 12 survived 12 lost 0 mismatched 0"
    assert set(counted) == set(_story.KINDS) and sum(row["tried"] for row in counted.values()) >= 20
    assert all(row["tried"] == row["survived"] for row in counted.values())
    # Most of the signals found a run that had gone on from a checkpoint, and computed.
    assert len([fault for fault in suffered.told.faults if re.match(r"from step [1-9]", fault.note)]) > 7


def test_a_seed_names_the_faults():
    plans = [_story.plan(12, random.Random(seed)) for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2] and len(plans[0]) == 20
    numbers = {kind: plans[0].count(kind) for kind in _story.KINDS}
    assert (numbers.pop("kill"), numbers.pop("kill_in_save")) == (8, 4)
    assert set(numbers.values()) == {1, 2} and sum(numbers.values()) == 8


@pytest.fixture
def again(suffered, tmp_path, monkeypatch):
    """A story that goes on with a copy of a finished run."""
    shutil.copytree(suffered.folder / "run1", tmp_path / "copy")
    monkeypatch.setattr(suffered.story, "told", _story.Told(SMALL))
    return suffered.story, _story.Run(tmp_path / "copy")


def code(monkeypatch, tmp_path, told):
    """Of the binary, when that is what came of it, and its last line."""
    given = {"kills": 1, "workdir": str(tmp_path / "new"), "seed": 0, "report": False}
    monkeypatch.setattr(flags, "FLAGS", type("Given", (), given))
    monkeypatch.setattr(soak, "soak", lambda *arguments: [told])
    return soak.main(["soak"])


def test_a_checkpoint_that_is_taken_behind_its_back_is_lost(again, tmp_path, monkeypatch, capsys):
    story, run = again
    (run.path / "result.json").unlink()
    *_, before, newest = run.whole()
    run.suffer("kill")
    live = story._live

    def robbed(run, kind):
        shutil.rmtree(run.path / "checkpoints" / str(newest))
        return live(run, kind)

    monkeypatch.setattr(story, "_live", robbed)
    assert not story.next_life(run, [])
    # The bits of its end are right, and what was lost stays lost.
    story.end(run)
    (sentence,) = story.told.failures
    assert sentence.startswith(f"er copy resumed at step {before} and not at {newest}: see ")
    assert code(monkeypatch, tmp_path, story.told) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "kills 1 survived 0 lost 1 mismatched 0"


def test_a_leaf_that_was_changed_is_other_bits(again, tmp_path, monkeypatch, capsys):
    story, run = again
    config = er.get_config("runlocal")
    for key, value in OVERRIDES.items():
        config.update_from_flattened_dict({key: value})
    checkpoints = core.open_checkpoints(run.path / "checkpoints")
    found = checkpoints.restore(core.start(_build.build(config), [0]))
    leaves, tree = jax.tree.flatten(found.state.params)
    leaves[0] = np.nextafter(np.asarray(leaves[0]), np.float32(9))
    checkpoints.save(found.step, found.state._replace(params=jax.tree.unflatten(tree, leaves)), found.extra)
    checkpoints.close()
    run.suffer("kill")
    run.suffer("flip").outcome = "lost"
    story.end(run)
    assert [fault.outcome for fault in story.told.faults] == ["mismatched", "lost"]
    assert "ended in other bits: .params" in story.told.failures[0]
    assert code(monkeypatch, tmp_path, story.told) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "kills 1 survived 0 lost 1 mismatched 1"


def test_every_number_of_the_result_counts(suffered, again):
    run = again[1].path
    whole, result = suffered.folder / "whole", _judge.result(run)
    expected = _judge.leaves(whole)
    assert _judge.differences(whole, run, expected) == []
    result["matrices"][0][1][0] += 1e-15
    (run / "result.json").write_text(json.dumps(result | {"seconds": 0}))
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*lines, lines[-1]]))
    assert _judge.differences(whole, run, expected) == ["matrices of result.json", "the tests of metrics.jsonl"]
    shutil.rmtree(run / "checkpoints")
    assert "its checkpoints (" in _judge.differences(whole, run, expected)[-1]


RESUMED = "er: resumed at step 20 of 90, 1 seed, in run\n"
STOPPED = RESUMED + "er: stopped at step 30 of 90, the same command goes on from there\n"


def life(code, out=RESUMED, err="", struck=True, overdue=False):
    return _life.Life(code, out, err, struck, overdue, 1.0)


@pytest.mark.parametrize(
    ("kind", "lived", "finished", "said"),
    [
        ("kill", life(-9), False, ("", "")),
        ("kill", life(-9, ""), False, (None, "")),
        ("kill", life(-9, "er: finished before"), True, ("", "")),
        ("kill", life(0, struck=False), True, ("", "")),
        ("kill", life(0, struck=False), False, ("failed", "ended without a finished result")),
        ("kill", life(1, struck=False), False, ("failed", "ended with 1 and not with 0")),
        ("kill", life(-9, err="Traceback (most"), False, ("failed", "left a traceback")),
        ("term", life(143, STOPPED), False, ("", "")),
        ("term", life(143), False, ("failed", "did not say at which step it stopped")),
        ("term", life(130, STOPPED), False, ("failed", "ended with 130 and not with 143")),
        ("term", life(-15), True, ("", "")),
        ("interrupt", life(130, STOPPED), False, ("", "")),
        ("interrupt", life(-2), False, ("failed", "ended with -2 and not with 130")),
        (None, life(-11, struck=False), True, ("failed", "ended with -11 and not with 0")),
        (None, life(-9, struck=False, overdue=True), False, ("failed", "did not end")),
        ("kill", life(-9, RESUMED.replace("20", "10")), False, ("lost", "resumed at step 10 and not at 20")),
        ("kill", life(-9, "er: 90 steps, 1 seed, in run\n"), False, ("lost", "resumed at step 0 and not at 20")),
        # A damaged one may be used where it holds what it should, a step that was never saved may not.
        ("kill", life(-9, RESUMED.replace("20", "30")), False, ("", "")),
        ("kill", life(-9, RESUMED.replace("20", "25")), False,
         ("failed", "resumed at step 25, of which there was no checkpoint")),
    ],
)  # fmt: skip
def test_a_life_is_judged(kind, lived, finished, said):
    assert _judge.verdict(lived, kind, finished, 20, [10, 20, 30]) == said


@pytest.fixture
def folder(tmp_path):
    """Like a run with two checkpoints of three files."""
    for step in (9, 10):
        for name in ("a", "b/c", "b/d"):
            file = tmp_path / "checkpoints" / str(step) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(bytes(range(100)))
    (tmp_path / "checkpoints" / "deleted").mkdir()
    return tmp_path


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", _damage.KINDS)
def test_damage_hits_one_file_of_the_newest_checkpoint(kind, folder):
    before, run = contents(folder), _story.Run(folder)
    assert run.floor() == 10 and run.can_suffer(kind)
    run.damage(kind, random.Random(1))
    after = contents(folder)
    changed = [name for name in before if after.get(name) != before[name]]
    if kind == "tmp":
        assert changed == [] and 0 < len(after) - len(before) < 3 and run.floor() == 10
        assert {name.split("/")[1] for name in after.keys() - before.keys()} == {"11.orbax-checkpoint-tmp"}
        return
    assert len(changed) == 1 and changed[0].startswith("checkpoints/10/")
    old, new = before[changed[0]], after.get(changed[0])
    if kind == "flip":
        (one,) = [a ^ b for a, b in zip(old, new, strict=True) if a != b]
        assert one.bit_count() == 1
    else:
        assert new is None if kind == "delete" else old.startswith(new) and len(new) < len(old)
    # The one before is all that is left to go on from, and is left alone.
    assert run.floor() == 9 and run.whole() == [9] and not run.can_suffer(kind) and run.can_suffer("tmp")
    (fault,) = run.pending
    assert (fault.kind, fault.used) == (kind, False) and fault.note.startswith("checkpoint 10: ")


def test_a_step_that_is_saved_again_is_whole_again(folder):
    run = _story.Run(folder)
    run.damage("flip", random.Random(0))
    assert run.floor() == 9
    shutil.rmtree(folder / "checkpoints" / "10")
    (folder / "checkpoints" / "10").mkdir()
    os.utime(folder / "checkpoints" / "10", ns=(1, 1))
    assert run.floor() == 10 and run.whole() == [9, 10]


def test_a_damaged_checkpoint_that_was_used_is_told_and_must_be_used_again(folder):
    run = _story.Run(folder)
    run.damage("flip", random.Random(0))
    run.resumed(10)
    assert run.faults[0].used and run.floor() == 10


def test_what_a_run_said_or_had_is_not_forgotten(folder):
    run = _story.Run(folder)
    assert run.floor(said=12) == 12 and run.floor() == 12
    shutil.rmtree(folder / "checkpoints")
    assert run.floor() == 12


# Ends, or tells of a step and goes on until it is ended. Its flags: what it does alone, what it does when it suffers.
FAKE = """
import json, pathlib, sys, time

run = pathlib.Path(sys.argv[-1 - ("--save_seconds=0" in sys.argv)].split("=")[1])
run.mkdir(exist_ok=True)
does = sys.argv[1 + ("--save_seconds=0" in sys.argv)]
print("fake: 9 steps, 1 seed, in", run, flush=True)
if does == "end":
    (run / "result.json").write_text(json.dumps({"finished": True, "steps": 9}))
elif does == "crash":
    sys.exit(3)
else:
    (run / "part").write_text(json.dumps({"step": 1}))
    (run / "part").rename(run / "metrics.jsonl")
    time.sleep(60)
"""


def fake(folder, alone, suffering, kinds, monkeypatch, limit=30.0):
    monkeypatch.setattr(_judge, "leaves", lambda run: {})
    recipe = _story.Recipe("fake", (alone, suffering), (sys.executable, "-c", FAKE), window=0.01, limit=limit)
    return _story.Story(recipe, folder / "fake", random.Random(0), print).tell(kinds)


def test_a_run_that_comes_no_further_has_failed(tmp_path, monkeypatch):
    told = fake(tmp_path, "end", "wait", ["kill"] * 99, monkeypatch)
    assert told.lives == 1 + 10 and [fault.outcome for fault in told.faults] == ["failed"] * 10
    assert "fake run1 came no further in 10 lives" in told.failures[0]


def test_a_run_that_ends_by_itself_has_failed(tmp_path, monkeypatch, capsys):
    told = fake(tmp_path, "end", "crash", ["kill"], monkeypatch)
    assert told.lives == 1 + 10 and told.faults == [] and len(told.failures) == 10 + 1
    name, _, log = told.failures[0].partition(": see ")
    assert name == "fake run1 ended with 3 and not with 0" and Path(log).read_text() == ""
    assert code(monkeypatch, tmp_path, told) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "kills 0 survived 0 lost 0 mismatched 0"


def test_a_run_that_does_not_end_is_ended(tmp_path, monkeypatch):
    told = fake(tmp_path, "wait", "wait", ["kill"], monkeypatch, limit=0.5)
    assert told.lives == 1 and "fake whole did not end" in told.failures[0]


def test_nothing_wrong_is_exit_code_0_and_leaves_a_list_of_faults(tmp_path, monkeypatch, capsys):
    told = _story.Told(SMALL, [_story.Fault("kill_in_save", "run1", 3, "from step 7 on", "survived")], [], 4, 1, 9)
    assert code(monkeypatch, tmp_path, told) == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert table == [
        "fault         tried  survived  lost  mismatched  failed",
        "kill_in_save  1      1         0     0           0",
    ]
    assert last == "kills 1 survived 1 lost 0 mismatched 0"
    stored = json.loads((tmp_path / "new" / "soak.json").read_text())
    assert stored["faults"][0]["note"] == "from step 7 on" and stored["recipes"]["er"]["lives"] == 4
    with pytest.raises(SystemExit) as refused:
        code(monkeypatch, tmp_path, told)
    assert refused.value.code == 2 and "--workdir expects an empty folder" in capsys.readouterr().err


def test_the_page_is_that_of_the_stored_file():
    assert _page.PAGE.read_text() == _page.text(), "python -m experiments.soak --report writes it again"


def test_the_recipes_are_those_of_the_stored_file():
    recipes = json.loads(_page.STORED.read_text())["recipes"]
    assert {recipe.name: " ".join(recipe.flags) for recipe in soak.RECIPES} == {
        name: recipe["flags"] for name, recipe in recipes.items()
    }
