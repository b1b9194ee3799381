"""The speed binary: what it compares is the same, what it says is what it measured, and its tables are its files."""

import json
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from ctrain_jax import core, models
from experiments import _cost, _speed, speed
from experiments._speed import _by_hand, _common, _tables, device, overhead

ROOT = Path(__file__).parents[2]


class Normed(nn.Module):
    """Small, with statistics that every forward pass moves."""

    @nn.compact
    def __call__(self, inputs, train=False):
        hidden = nn.Dense(8, use_bias=False)(inputs.reshape(len(inputs), -1))
        hidden = nn.relu(nn.BatchNorm(use_running_average=not train)(hidden))
        return models.MLP(10, hidden=(8,))(hidden)


@pytest.mark.parametrize("kind", _by_hand.KINDS)
def test_the_loop_by_hand_ends_in_our_weights(kind):
    """The comparison is of the same mathematics: weights, statistics, memory, loss and accuracy."""
    assert set(overhead.METHODS) == set(_by_hand.KINDS)
    ours, by_hand, read = overhead.programs(kind, overhead.Size(Normed(), (4, 4), 10, 7))
    before = read(ours.prepare())
    state, record = ours.run(ours.prepare())
    hand, loss, accuracy = by_hand.run(by_hand.prepare())
    after = read(state)
    for own, other in zip(jax.tree.leaves(after[:4]), jax.tree.leaves(hand[:4]), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose((record["loss"], record["accuracy"]), (loss, accuracy), rtol=1e-5)
    assert not np.allclose(before.params["Dense_0"]["kernel"], after.params["Dense_0"]["kernel"], atol=1e-4)
    if kind in ("er", "derpp"):
        assert not np.array_equal(before.memory[0], after.memory[0])


@pytest.mark.parametrize("name", ["gpt", "vit"])
def test_flops_that_are_counted_are_those_of_the_formula(name):
    net = device.SMALL[name]
    stream, problem = device.stream_of(net)
    model = core.from_linen(net.build(np.float32))
    learner = core.make_learner(
        model, core.identity(), optax.adamw(1e-3), stream, problem=problem, batch_size=net.batch, steps=1
    )
    state = core.start(learner, 0)
    counted = _cost.step_flops(learner, core.to_device(stream), state)
    assert counted == pytest.approx(device.transformer_flops(net, state.params), rel=0.06)


def test_a_bound_is_a_highest_or_a_lowest_value():
    most, least = _common.Measure("a", 1.04, 1.05), _common.Measure("b", 2.4, 2.5, at_least=True)
    assert most.holds and not least.holds and _common.Measure("c", 1e9).holds
    assert not _common.Measure("a", 1.06, 1.05).holds and _common.Measure("b", 2.5, 2.5, at_least=True).holds
    lines = [measure.line() for measure in (most, least, _common.Measure("c", 7.0))]
    assert lines == ["a 1.04 <=1.05 PASS", "b 2.4 >=2.5 FAIL", "c 7"]


def test_programs_run_in_turns_and_each_comes_first_as_often():
    ran = []
    programs = {
        name: _common.Program(lambda ready, name=name: ran.append((name, ready)), lambda name=name: name)
        for name in "abc"
    }
    times = _common.in_turns(programs, 3)
    assert all(name == ready for name, ready in ran)
    assert "".join(name for name, _ in ran) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3, "c": 3}
    found = _common.ratio([2.0, 3.0, 40.0], [1.0, 1.0, 10.0])
    assert found["ratio"] == 3.0 and found["quartiles"] == [2.0, 4.0] and found["rounds"] == 3


def test_a_process_says_json_in_its_last_line():
    commands = {name: [sys.executable, "-c", f"print('noise'); print('[{name}]')"] for name in ("1", "2")}
    assert _common.in_processes(commands, 2) == {"1": [[1], [1]], "2": [[2], [2]]}
    with pytest.raises(RuntimeError, match=r"(?s)bad ended with 1: .*ZeroDivisionError"):
        _common.in_processes({"bad": [sys.executable, "-c", "1 / 0"]}, 1)


@pytest.fixture
def stored(tmp_path):
    measures = [
        _common.Measure("fast/er", 1.02, 1.1, detail={"quartiles": [1.0, 1.03], "rounds": 31}),
        _common.Measure("slow/er", 1.5, 1.1),
        _common.Measure("times/er", 5.0, 2.5, at_least=True),
        _common.Measure("bytes/er", 8004.0),
    ]
    speed.store(tmp_path, "made_up", measures)
    return tmp_path


def test_what_is_stored_is_what_was_measured(stored):
    (path,) = stored.glob("*.json")
    content = json.loads(path.read_text())
    assert path.name == "made_up.cpu.json" and content["command"] == "python -m experiments.speed --suite=made_up"
    assert [m["holds"] for m in content["measures"]] == [True, False, True, True]
    assert content["versions"]["jax"] == jax.__version__ and content["measures"][0]["detail"]["rounds"] == 31
    assert "slow/er" in path.with_suffix(".svg").read_text()


def test_the_tables_say_what_is_stored(stored):
    short, whole = _tables.pages(stored).values()
    assert "| `made_up` | cpu | 2 of 3 | `slow/er` 1.5 (at most 1.1) |" in short
    assert "| `fast/er` | 1.02 | at most 1.1 | yes | quartiles 1 to 1.03, rounds 31 |" in whole
    assert "| `slow/er` | 1.5 | at most 1.1 | **no** | – |" in whole
    assert "| `times/er` | 5 | at least 2.5 | yes | – |" in whole and "| `bytes/er` | 8,004 | – | – | – |" in whole


def test_the_pages_are_those_of_the_stored_files():
    for page, text in _tables.pages(speed.FOLDER).items():
        assert page.read_text() == text, "python -m experiments.speed --report writes them again"


def test_the_binary_lists_its_suites_and_refuses_what_is_none():
    def run(*arguments):
        command = [sys.executable, "-m", "experiments.speed", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    listed = run("--list")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(_speed.suites())
    for arguments, said in (
        (["--suite=overhed"], "there is no suite 'overhed': did you mean 'overhead'?"),
        ([], "expected --suite: choose from compile, convolution"),
        (["--suite=growth", "--small"], "--small says nothing about speed: give --out=DIR"),
        (["growth"], "unexpected argument 'growth'"),
    ):
        refused = run(*arguments)
        assert refused.returncode == 2 and said in refused.stderr


def test_a_broken_bound_is_exit_code_1(tmp_path, monkeypatch, capsys):
    from absl import flags

    values = [0.5, 2.0]
    suite = _common.Suite("", lambda options: iter([_common.Measure("it", values.pop(0), 1.0)]))
    monkeypatch.setattr(_speed, "suites", lambda: {"made_up": suite})
    given = {"suite": "made_up", "list": False, "report": False, "small": False, "data_dir": None, "out": str(tmp_path)}
    monkeypatch.setattr(flags, "FLAGS", type("Given", (), given))
    assert speed.main(["speed"]) == 0 and capsys.readouterr().out == "it 0.5 <=1 PASS\n"
    assert speed.main(["speed"]) == 1 and capsys.readouterr().out == "it 2 <=1 FAIL\n"
