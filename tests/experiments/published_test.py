"""Published tables: every recipe builds, and a cell is met on both sides of its number."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs.published import Published
from ctrain_jax import core, streams
from experiments import _cells, published
from experiments._build import build, build_stream

ROOT = Path(__file__).parents[2]
RECIPES = {name: importlib.import_module(f"configs.published.{name}") for name in published.TABLES}
CELLS = [(table, cell) for table, recipe in RECIPES.items() for cell in recipe.PUBLISHED]
FILES = sorted(published.FOLDER.glob("*.json"))


def test_every_recipe_is_a_table():
    files = {path.stem for path in (ROOT / "configs" / "published").glob("*.py")} - {"__init__"}
    assert files == set(published.TABLES) and len(CELLS) >= 36


@pytest.mark.parametrize("table, cell", CELLS)
def test_every_cell_builds(table, cell):
    config = RECIPES[table].get_config(f"{cell},runlocal")
    learner = build(config, stream=build_stream(config, streams.digits()))
    whole = RECIPES[table].get_config(cell)
    assert whole.source.dataset == ("cifar10" if "cifar10" in table else "mnist")
    assert learner.spec.batch_size == whole.batch_size
    for arg in ("", f"{cell},runlokal", f"{cell},runlocal,2"):
        with pytest.raises(ValueError, match="The config takes one of"):
            RECIPES[table].get_config(arg)


@pytest.mark.parametrize("table", RECIPES)
def test_the_header_names_the_commands_that_run_it(table):
    header = RECIPES[table].__doc__
    found = re.search(r"--config=configs/published/(\w+)\.py:(\S+) --workdir=runs/(\S+) --seeds=[35]", header)
    assert found and found[1] == table and found[2] in RECIPES[table].PUBLISHED
    assert found[3] == RECIPES[table].get_config(found[2]).name
    assert f"--table={table}" in header


def test_a_cell_is_measured_on_streams_of_each_seed_and_met_on_both_sides():
    config = RECIPES["split_mnist"].get_config("class,none,runlocal")
    config.steps, config.model.hidden = 2, (8,)
    source = streams.digits()
    cell = published.measure(config, source, Published(50.0, "nowhere"), range(3))
    assert cell["met"] is False and len(cell["of_seeds"]) == 3 and cell["forgetting"] > 0
    assert cell["accuracy"] == pytest.approx(np.mean(cell["of_seeds"]), abs=1e-3)
    assert cell["sd"] == pytest.approx(np.std(cell["of_seeds"], ddof=1), abs=1e-3)
    tolerance = min(max(2 * cell["sd"], 2), 4)
    assert cell["tolerance"] == pytest.approx(tolerance)
    for shift, met in ((0.99, True), (-0.99, True), (1.01, False), (-1.01, False)):
        other = published.judge(cell["accuracy"], cell["sd"], cell["accuracy"] + shift * tolerance)
        assert other == (pytest.approx(tolerance), met)
    assert published.judge(50, 0.1, 52.1) == (2.0, False) and published.judge(50, 10, 54.1) == (4.0, False)
    assert "FAIL" in published.line("x", cell)
    # The last seed by itself: its own classes, its own program.
    config.scenario.seed = 2
    alone = core.run_stream(build(config, stream=build_stream(config, source)), seed=2)
    assert 100 * float(alone.accuracy[-1].mean()) == pytest.approx(cell["of_seeds"][2], abs=0.02)
    nothing = published.measure(config, source, None, range(3))
    assert nothing["met"] is None and "nothing was published" in published.line("x", nothing)


def test_seeds_have_pairs_of_their_own():
    config = RECIPES["split_mnist"].get_config("class,none,runlocal")
    orders = []
    for seed in range(2):
        config.scenario.seed = seed
        orders.append(build(config, stream=build_stream(config, streams.digits())).stream.experiences["train"].classes)
    assert np.any(orders[0] != orders[1])


def test_cells_are_stored_one_by_one_in_the_order_of_the_recipe(tmp_path):
    path, order = tmp_path / "t.json", ["a", "b", "c"]
    for name in ("c", "a"):
        _cells.store(path, {"table": "t"}, name, {"accuracy": name}, order)
    assert list(_cells.stored(path)) == ["a", "c"] and json.loads(path.read_text())["table"] == "t"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_stored_is_what_the_recipe_asks_for(path):
    whole = json.loads(path.read_text())
    recipe = RECIPES[whole["table"]].PUBLISHED
    assert whole["table"] == path.stem and set(whole["cells"]) <= set(recipe)
    for name, cell in whole["cells"].items():
        if recipe[name] is not None:
            assert (cell["published"], cell["source"]) == tuple(recipe[name])
            judged = published.judge(cell["accuracy"], cell["sd"], cell["published"])
            assert (cell["tolerance"], cell["met"]) == (pytest.approx(judged[0]), judged[1])


def test_the_page_is_that_of_the_files():
    assert published.README.read_text() == published.report(), "run python -m experiments.published --report"


def test_wrong_use_is_one_sentence(tmp_path):
    for flags, sentence in (
        ([], "expected --table"),
        (["--table=split_mnist", "--only=task,gem"], "no cell of split_mnist starts with 'task,gem'"),
        (["--table=split_mnist", "--only=task,none", f"--data_dir={tmp_path}"], "'mnist' is not prepared under"),
    ):
        command = [sys.executable, "-m", "experiments.published", f"--out={tmp_path}", *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr
