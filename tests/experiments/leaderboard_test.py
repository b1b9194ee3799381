"""The leaderboard: boards that build, cells that are stored one by one, and a page made from them alone."""

import csv
import json
import re

import pytest

from configs.continual import er as own_er
from ctrain_jax import core, streams
from experiments import _build, _cells, _cost, leaderboard

CHEAP = ("er", "icarl", "joint", "gem", "naive", "ewc:online")


@pytest.mark.parametrize("board", leaderboard.BOARDS)
def test_every_method_of_a_board_has_a_config_of_its_terms(board):
    module = leaderboard.module(board)
    assert f"--config=configs/leaderboard/{board}.py:er" in module.__doc__ and f"--board={board}" in module.__doc__
    configs = {method: module.get_config(method) for method in module.METHODS}
    shared = ("source", "model", "optimizer", "batch_size")
    first = configs["er"]
    for method, config in configs.items():
        assert all(config[key] == first[key] for key in shared), method
        assert config.scenario.name == first.scenario.name
    for method in set(CHEAP) & set(module.METHODS):
        _build.build(module.get_config(f"{method},runlocal"))
    for arg in ("", "nothing", "er,runlokal"):
        with pytest.raises(ValueError, match="The config takes one of"):
            module.get_config(arg)


def test_methods_have_as_much_memory():
    module = leaderboard.module("split_fashion_mnist")
    get = module.get_config
    assert (
        get("er").er.size == get("agem").agem.size == 10 * get("icarl").icarl.size == 5 * get("gem").gem.per_experience
    )
    assert get("er").er.policy == own_er.get_config().er.policy
    assert leaderboard.module("split_cifar100").get_config("icarl").icarl.size == 20


def test_a_cell_is_one_run_a_seed_each_on_its_own_stream():
    config = leaderboard.module("split_fashion_mnist").get_config("er,runlocal")
    config.steps, config.model.hidden = 3, (8,)
    cell = _cells.run(config, streams.digits(), range(2))
    assert len(cell["of_seeds"]) == 2 and cell["of_seeds"][0] != cell["of_seeds"][1]
    config.scenario.seed = 1
    alone = core.run_stream(_build.build(config), seed=1)
    assert 100 * float(alone.accuracy[-1].mean()) == pytest.approx(cell["of_seeds"][1], abs=0.02)
    assert cell["steps"] == 15 and cell["examples"] == 15 * 32
    assert cell["method_bytes"] >= 500 * 8 and cell["state_bytes"] > cell["method_bytes"]
    digest = leaderboard.config_hash(leaderboard.module("scole").get_config("er"))
    cells = {"er": cell | {"config_hash": digest}, "naive": cell | {"config_hash": "another"}}
    assert [leaderboard.is_stale("scole", m, cells) for m in ("er", "naive", "nmc")] == [False, True, True]
    assert "er" in leaderboard.line("scole", "er", cell)


def test_examples_are_rows_that_arrive():
    config = leaderboard.module("split_fashion_mnist").get_config("naive,runlocal")
    config.epochs = 2
    learner = _build.build(config)
    assert _cost.of_run(learner)["examples"] == 2 * len(streams.digits().train["labels"])


def test_what_is_stored_is_what_the_boards_ask_for():
    for board in leaderboard.BOARDS:
        cells = leaderboard.cells_of(board)
        for method, cell in cells.items():
            assert not leaderboard.is_stale(board, method, cells), (board, method)
            assert len(cell["of_seeds"]) >= leaderboard.module(board).SEEDS


def test_the_page_and_the_file_are_those_of_what_is_stored():
    assert leaderboard.README.read_text() == leaderboard.page(), "run python -m experiments.leaderboard --report"
    with leaderboard.CSV.open() as file:
        rows = list(csv.DictReader(file))
    stored = {(b, m): c for b in (*leaderboard.BOARDS, *leaderboard.TABLES) for m, c in leaderboard.cells_of(b).items()}
    assert len(rows) == len(stored)
    for row in rows:
        assert float(row["accuracy"]) == stored[row["board"], row["method"]]["accuracy"]
    for target in re.findall(r"\]\(([^)]+)\)", leaderboard.page()):
        assert (leaderboard.FOLDER / target).exists(), target


def test_the_best_is_compared_with_the_others_seed_by_seed():
    one = {"forgetting": None, "average_incremental": None, "seconds": 1.0, "half_width": 1.0}
    cells = {
        "naive": one | {"accuracy": 20.0, "of_seeds": [19.0, 20.0, 21.0]},
        "er": one | {"accuracy": 70.0, "of_seeds": [69.0, 70.0, 71.5]},
        "joint": one | {"accuracy": 90.0, "of_seeds": [90.0, 90.0, 90.0]},
    }
    lines = leaderboard._table("split_mnist", json.loads(json.dumps(cells))).splitlines()
    assert [line.split("`")[1] for line in lines[2:]] == ["joint", "er", "naive"]
    assert "| 50.2 ± 0.7 | < 0.001 |" in lines[4] and "| – | – |" in lines[2] and "| – | – |" in lines[3]
