"""Notebooks run from top to bottom in small size and end in a figure; the two forms of each are one text."""

from pathlib import Path

import jupytext
import matplotlib
import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
SMALL = {
    "01_quick_start": "SEEDS, EPOCHS = 2, 1",
    "02_write_a_method": "SEEDS, EPOCHS, STRENGTHS = 2, 1, (0.0, 1.0)",
    "03_transforms_in_your_own_loop": "STEPS, WIDTH = 20, 8",
}


def test_every_notebook_has_a_small_size():
    assert [path.stem for path in SCRIPTS] == sorted(SMALL)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_pair_is_one_text_without_outputs(path):
    script, notebook = jupytext.read(path), jupytext.read(path.with_suffix(".ipynb"))
    for one, other in zip(script.cells, notebook.cells, strict=True):
        assert (one.cell_type, one.source) == (other.cell_type, other.source), "run make notebooks"
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
    assert notebook.metadata.kernelspec["name"] == "python3" and "colab" in notebook.metadata
    install = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert install.startswith("# In Colab:") and notebook.cells[0].source.startswith("# ")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_it_runs_in_small_size_and_ends_in_a_figure(path, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.close("all")
    cells = [cell for cell in jupytext.read(path).cells if cell.cell_type == "code"]
    (parameters,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    small, scope = {}, {"__name__": "__main__"}
    exec(parameters.source, small)
    assert {name for name in small if name.isupper()} == set(SMALL[path.stem].split(" = ")[0].split(", "))
    parameters.source = SMALL[path.stem]
    for k, cell in enumerate(cells):
        exec(compile(cell.source, f"{path.name}, cell {k}", "exec"), scope)
    assert cells[-1].source.endswith("plt.show()")
    (number,) = plt.get_fignums()
    axes = plt.figure(number).axes
    assert len(axes) >= 2 and all(axis.lines or axis.images for axis in axes)
    plt.close("all")
