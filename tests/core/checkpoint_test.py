"""Checkpoints come back to the bit, name every kind of damage, and say what does not fit."""

import json
import pickle
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import core


class Inner(NamedTuple):
    kernel: jax.Array
    count: jax.Array


def everything(seed):
    rng = np.random.default_rng(seed)
    return {
        "net": Inner(jnp.asarray(rng.normal(size=(31, 7)), jnp.float32), jnp.int32(seed)),
        "keys": [jax.random.key(seed), jax.random.split(jax.random.key(seed, impl="rbg"), 3)],
        "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
        "bool": jnp.asarray([True, False, True]),
        "uint8": jnp.arange(seed, seed + 4, dtype=jnp.uint8),
        "empty": jnp.zeros((0, 3)),
        "no classes": jnp.zeros((2, 0), jnp.bool_),
        "numpy": rng.normal(size=(2, 3)),
        "numpy scalar": np.float64(rng.normal()),
        "python": (seed, 1.5 + seed, seed > 0),
        "none": None,
        "a/b": jnp.float32(seed),
    }


def bits(tree):
    """Type, dtype, shape and bytes of each leaf; keys by their data."""
    described = []
    for leaf in jax.tree.leaves(tree):
        is_key = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        impl = str(jax.random.key_impl(leaf)) if is_key else None
        described.append((isinstance(leaf, jax.Array) or type(leaf), impl, array.dtype, array.shape, array.tobytes()))
    return described


def saved(folder, steps=(1, 2, 3), state=everything, **options):
    checkpoints = core.open_checkpoints(folder, **options)
    for step in steps:
        checkpoints.save(step, state(step), {"at": step})
    checkpoints.close()


def restored(folder, target):
    checkpoints = core.open_checkpoints(folder)
    try:
        return checkpoints.restore(target)
    finally:
        checkpoints.close()


def files(folder):
    return sorted((f for f in folder.rglob("*") if f.is_file()), key=lambda file: file.stat().st_size)


def flip(file, at=None):
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 4
    file.write_bytes(content)


def test_every_kind_of_leaf_comes_back_to_the_bit(tmp_path):
    folder = tmp_path / "not" / "there"
    saved(folder)
    back = restored(folder, everything(0))
    assert back is not None and (back.step, back.extra, back.damaged) == (3, {"at": 3}, {})
    assert bits(back.state) == bits(everything(3)) != bits(everything(2))
    assert jax.tree.structure(back.state) == jax.tree.structure(everything(3))


def test_a_target_of_shapes_is_enough_and_shardings_are_the_target_s(tmp_path):
    saved(tmp_path, state=lambda step: jax.tree.map(jnp.asarray, everything(step)))
    target = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, everything(0)))
    assert bits(restored(tmp_path, target).state) == bits(jax.tree.map(jnp.asarray, everything(3)))
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    target = jax.tree.map(lambda x: jax.device_put(x, spread), jax.tree.map(jnp.asarray, everything(0)))
    assert {leaf.sharding for leaf in jax.tree.leaves(restored(tmp_path, target).state)} == {spread}


@pytest.mark.parametrize("state", [{}, (), {"a": None}, {"a": jnp.zeros(0)}, jnp.arange(3)], ids=str)
def test_small_trees(tmp_path, state):
    saved(tmp_path, steps=[0], state=lambda step: state)
    back = restored(tmp_path, state)
    assert bits(back.state) == bits(state) and jax.tree.structure(back.state) == jax.tree.structure(state)


def test_an_empty_directory_holds_nothing(tmp_path):
    assert restored(tmp_path / "new", everything(0)) is None


def test_names_that_look_alike_are_told_apart(tmp_path):
    state = {"a.b": jnp.float32(1), "a": {"b": jnp.float32(2)}}
    saved(tmp_path, state=lambda step: state)
    assert bits(restored(tmp_path, state).state) == bits(state)


def test_what_was_given_to_save_may_be_spent_at_once(tmp_path):
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    checkpoints = core.open_checkpoints(tmp_path, keep=20)
    device, host = add(jnp.zeros(500_000)), np.zeros(500_000)
    for step in range(8):
        checkpoints.save(step, {"device": device, "host": host})
        device = add(device)
        host += 1
    checkpoints.close()
    for step in range(8):
        folder = tmp_path / "one" / str(step)
        shutil.copytree(tmp_path / str(step), folder)
        state = restored(folder.parent, {"device": device, "host": host}).state
        assert np.all(np.asarray(state["device"]) == step + 1) and np.all(state["host"] == step)
        shutil.rmtree(folder)


def test_the_newest_are_kept(tmp_path):
    saved(tmp_path, steps=range(5), keep=2)
    checkpoints = core.open_checkpoints(tmp_path, keep=2)
    assert checkpoints.steps() == [3, 4]
    checkpoints.close()
    with pytest.raises(ValueError, match="keep expects at least 1 checkpoint, got 0"):
        core.open_checkpoints(tmp_path, keep=0)


def test_a_step_can_be_saved_again_and_an_older_one_is_refused(tmp_path):
    checkpoints = core.open_checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, everything(step))
    checkpoints.save(2, everything(7), {"again": True})
    with pytest.raises(ValueError, match=r"go up to step 2, got step 1 to save: restore first, or use another"):
        checkpoints.save(1, everything(1))
    back = checkpoints.restore(everything(0))
    checkpoints.close()
    assert (back.step, back.extra) == (2, {"again": True}) and bits(back.state) == bits(everything(7))


def test_extra_is_any_json(tmp_path):
    extra = {"rows": [[0.1, float("inf")]], "10": 1, "9": None, "text": "é"}
    checkpoints = core.open_checkpoints(tmp_path)
    checkpoints.save(1, everything(1), extra)
    assert checkpoints.restore(everything(0)).extra == extra
    checkpoints.save(2, everything(1), {10: (1, 2), 9: 0})
    assert checkpoints.restore(everything(0)).extra == {"10": [1, 2], "9": 0}
    with pytest.raises(TypeError, match="JSON"):
        checkpoints.save(3, everything(1), {"path": Path(".")})
    with pytest.raises(ValueError, match="A checkpoint expects numbers, got str at name: put it in extra"):
        checkpoints.save(3, {"name": "er"})
    assert checkpoints.steps() == [1, 2]
    checkpoints.close()


def truncate(folder):
    file = files(folder)[-1]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def delete(folder):
    files(folder)[-1].unlink()


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def unsealed_and_flipped(folder):
    """Orbax's format has no checksum of the values themselves; the manifest of leaves has."""
    (folder / "seal.json").unlink()
    flip(files(folder)[-1])


def rewritten_extra(folder):
    (folder / "seal.json").unlink()
    manifest = folder / "manifest" / "metadata"
    manifest.write_text(manifest.read_text().replace('"at": 3', '"at": 4'))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda folder: flip(files(folder)[-1]), "does not match its checksum"),
        (truncate, "does not match its checksum"),
        (delete, "is missing"),
        (lambda folder: flip(folder / "manifest" / "metadata"), "manifest/metadata does not match its checksum"),
        (lambda folder: (folder / "state" / "_METADATA").unlink(), "state/_METADATA is missing"),
        (lambda folder: (folder / "seal.json").write_text("{"), "JSONDecodeError"),
        (unsealed_and_flipped, "the leaf .* does not match its checksum"),
        (rewritten_extra, "its manifest does not match its checksum"),
        (empty, "."),
    ],
)
def test_damage_is_named_and_the_one_before_is_used(tmp_path, damage, why, caplog, capfd):
    def big(step):
        values = jnp.asarray(np.random.default_rng(step).normal(size=(400, 100)), jnp.float32)
        return everything(step) | {"big": values}

    saved(tmp_path, state=big)
    damage(tmp_path / "3")
    checkpoints = core.open_checkpoints(tmp_path)
    back = checkpoints.restore(big(0))
    assert back is not None and (back.step, back.extra, list(back.damaged)) == (2, {"at": 2}, [3])
    assert bits(back.state) == bits(big(2))
    assert re.search(why, back.damaged[3])
    assert f"checkpoint 3 in {tmp_path} is damaged and is passed over: {back.damaged[3]}" in caplog.messages
    # The run goes on from step 2 and saves wherever it is; the damaged one is gone then.
    checkpoints.save(3, big(30), {"at": 30})
    checkpoints.save(4, big(4), {"at": 4})
    assert bits(checkpoints.restore(big(0)).state) == bits(big(4))
    checkpoints.close()
    assert "Traceback" not in capfd.readouterr().err


def test_a_save_below_the_damaged_step_is_the_newest_afterwards(tmp_path):
    saved(tmp_path, steps=(10, 20))
    flip(files(tmp_path / "20")[-1])
    checkpoints = core.open_checkpoints(tmp_path)
    assert checkpoints.restore(everything(0)).step == 10
    checkpoints.save(15, everything(15))
    checkpoints.close()
    assert restored(tmp_path, everything(0)).step == 15


def test_any_flipped_bit_in_a_sealed_file_is_found(tmp_path):
    saved(tmp_path, steps=(1, 2))
    names = json.loads((tmp_path / "2" / "seal.json").read_text())
    own = {"_CHECKPOINT_METADATA", "commit_success.txt", "seal.json"}  # Orbax's notes beside the items, and the seal
    assert set(names) | own == {f.relative_to(tmp_path / "2").as_posix() for f in files(tmp_path / "2")}
    for name in sorted(names):
        file = tmp_path / "2" / name
        good = file.read_bytes()
        flip(file, at=len(good) * 2 // 3)
        back = restored(tmp_path, everything(0))
        assert (back.step, back.damaged) == (1, {2: f"{name} does not match its checksum"})
        file.write_bytes(good)
    assert restored(tmp_path, everything(0)).step == 2


def test_when_nothing_is_whole_every_step_is_named(tmp_path):
    saved(tmp_path, steps=(1, 2))
    for step in ("1", "2"):
        delete(tmp_path / step)
    with pytest.raises(core.DamagedCheckpoint) as error:
        restored(tmp_path, everything(0))
    text = str(error.value)
    assert text.startswith(f"No checkpoint in {tmp_path} is whole (step 2: ") and "; step 1: " in text
    assert text.endswith("is missing): start in another directory.")


def test_a_target_that_does_not_fit_is_one_sentence_with_paths(tmp_path):
    saved(tmp_path, steps=[1])
    target = everything(0)
    del target["bool"]
    target["net"] = Inner(jnp.zeros((31, 8)), jnp.float32(0))
    target["keys"][0] = jax.random.key(0, impl="rbg")
    target["new"] = {"leaf": jnp.zeros(2)}
    with pytest.raises(ValueError) as error:
        restored(tmp_path, target)
    assert not isinstance(error.value, core.DamagedCheckpoint)
    assert str(error.value) == (
        "The checkpoint does not fit the learner (new.leaf is missing in the checkpoint; "
        "bool is in the checkpoint only; "
        "keys.0 is threefry2x32[2] in the checkpoint and rbg[4] here; "
        "net.kernel is float32[31, 7] in the checkpoint and float32[31, 8] here; "
        "net.count is int32[] in the checkpoint and float32[] here): "
        "use the config that it was made with, or another directory, or restore with partial=True to keep the leaves "
        "here where they do not fit."
    )
    with pytest.raises(ValueError, match="and 15 more"):
        restored(tmp_path, {str(k): k for k in range(20)})


def test_partial_takes_what_fits_and_names_the_rest(tmp_path):
    saved(tmp_path, steps=[1])
    target = everything(0)
    del target["bool"]
    target["net"] = Inner(jnp.zeros((31, 8)), jnp.int32(0))
    target["keys"][0] = jax.random.key(5, impl="rbg")
    target["new"] = {"leaf": jnp.full(2, 7.0)}
    checkpoints = core.open_checkpoints(tmp_path)
    back = checkpoints.restore(target, partial=True)
    whole = checkpoints.restore(everything(0), partial=True)
    with pytest.raises(ValueError, match=r"new.leaf is missing in .*, and its target is a shape: partial=True expects"):
        checkpoints.restore(target | {"new": {"leaf": jax.ShapeDtypeStruct((2,), "float32")}}, partial=True)
    checkpoints.close()
    expected = everything(1)
    del expected["bool"]
    expected["net"] = Inner(target["net"].kernel, expected["net"].count)
    expected["keys"][0], expected["new"] = target["keys"][0], target["new"]
    assert bits(back.state) == bits(expected)
    assert [line.split(" ")[0] for line in back.unfit] == ["new.leaf", "bool", "keys.0", "net.kernel"]
    assert whole.unfit == () and bits(whole.state) == bits(everything(1))


def scored(folder, scores, keep=2):
    checkpoints = core.open_checkpoints(folder, keep=keep)
    for step, score in scores.items():
        checkpoints.save(step, everything(step), {"at": step}, score=score)
    checkpoints.close()


def test_the_best_stays_and_the_newest_is_never_lost(tmp_path):
    scored(tmp_path, {1: 0.2, 2: 0.9, 3: 0.9, 4: 0.5, 5: None, 6: 0.1})
    checkpoints = core.open_checkpoints(tmp_path, keep=2)
    assert checkpoints.steps() == [3, 5, 6]
    assert checkpoints.restore(everything(0)).step == 6
    assert checkpoints.restore_best(everything(0)).step == 3
    # Another process goes on, and knows the scores of the ones before.
    checkpoints.save(7, everything(7), score=0.3)
    assert checkpoints.steps() == [3, 6, 7]
    checkpoints.save(8, everything(8), score=1)
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7", "8"]
    checkpoints = core.open_checkpoints(tmp_path)
    with pytest.raises(ValueError, match="score expects a finite number, got nan: leave it out"):
        checkpoints.save(9, everything(9), score=float("nan"))
    checkpoints.close()


def test_a_damaged_best_is_named_and_the_next_best_is_used(tmp_path):
    scored(tmp_path, {1: 0.8, 2: 0.9, 3: 0.1}, keep=3)
    delete(tmp_path / "2")
    checkpoints = core.open_checkpoints(tmp_path)
    back = checkpoints.restore_best(everything(0))
    assert (back.step, list(back.damaged)) == (1, [2])
    # Nothing newer than the one that was restored is damaged: it stays.
    assert checkpoints.restore(everything(0)).step == 3
    checkpoints.close()


def test_without_scores_the_best_is_the_newest(tmp_path):
    saved(tmp_path, steps=(1, 2))
    checkpoints = core.open_checkpoints(tmp_path)
    assert checkpoints.restore_best(everything(0)).step == 2
    checkpoints.close()


def test_every_file_may_be_truncated_or_deleted(tmp_path):
    """Either its checkpoint is passed over by name, or the file holds nothing that a state is made of."""
    saved(tmp_path, steps=(1, 2))
    before = {file: file.read_bytes() for file in files(tmp_path / "2")}
    harmless = set()
    for file, content in before.items():
        for half in (None, content[: len(content) // 2]):
            file.unlink() if half is None else file.write_bytes(half)
            back = restored(tmp_path, everything(0))
            if back.step == 2:
                assert bits(back.state) == bits(everything(2)) and back.extra == {"at": 2}
                harmless.add(file.name)
            else:
                assert bits(back.state) == bits(everything(1)) and list(back.damaged) == [2] and back.damaged[2]
            file.write_bytes(content)
    assert harmless <= {"_CHECKPOINT_METADATA", "commit_success.txt", "seal.json"}


def test_foreign_files_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "12x").mkdir()
    saved(tmp_path, steps=(1, 2, 3, 4))
    assert restored(tmp_path, everything(0)).step == 4
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "folder", "12x", "2", "3", "4"}


def test_what_a_killed_save_left_is_cleared_away_by_the_next_save_and_by_no_reader(tmp_path):
    saved(tmp_path, steps=(1, 2))
    left = {"3.orbax-checkpoint-tmp", "deleted"}
    shutil.copytree(tmp_path / "2", tmp_path / "3.orbax-checkpoint-tmp")
    shutil.copytree(tmp_path / "1" / "state", tmp_path / "deleted" / "0" / "state")
    assert restored(tmp_path, everything(0)).step == 2
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2", *left}
    saved(tmp_path, steps=(3,))
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2", "3"}


def test_readers_do_not_disturb_a_run_that_saves(tmp_path):
    checkpoints = core.open_checkpoints(tmp_path)
    big = {"x": jnp.zeros(300_000)}
    for step in range(12):
        checkpoints.save(step, big)
        core.open_checkpoints(tmp_path).close()
        if step:
            assert restored(tmp_path, big).step in (step - 1, step)
    checkpoints.close()
    assert restored(tmp_path, big).step == 11


def test_nothing_that_is_loaded_is_executed(tmp_path):
    """Python tells an audit hook of every object that pickle looks up, and of every piece of code that is run."""
    saved(tmp_path)
    restored(tmp_path, everything(0))  # what is imported when it is first needed is there now
    seen: list[str] = []
    watching = [True]
    events = ("pickle.find_class", "marshal.loads", "exec")
    sys.addaudithook(lambda event, args: seen.append(event) if watching[0] and event in events else None)
    try:
        assert restored(tmp_path, everything(0)) is not None and seen == []
        pickle.loads(pickle.dumps(tmp_path))
        assert seen == ["pickle.find_class"]
    finally:
        watching[0] = False
