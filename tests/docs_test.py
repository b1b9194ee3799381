"""The pages of the site: their code runs, their links and includes lead somewhere, and no public name is left out."""

import importlib
import inspect
import json
import pkgutil
import re
import types

import numpy as np
import pytest

import ctrain_jax
from configs.continual import er
from ctrain_jax import continual, peft
from experiments.continual import train
from tests.conformance.rows import METHODS
from tests.shown import ROOT, blocks, run

DOCS = ROOT / "docs"
# Commands of LaTeX that the site was seen to draw; it stops at some others (`dots`). Build the site, then add yours.
DRAWN = set(
    """
    Big Delta Omega Sigma alpha arg bar begin beta big cdot cos cosh cup delta ell end epsilon eta exp frac gamma ge hat
    in int kappa lVert lambda langle ldots le left leftarrow lfloor log mathrm max min mu nabla ne odot omega
    operatorname overline partial phi pi pm prod propto qquad quad rVert rangle rfloor rho right setminus sigma sim sin
    sqrt sum tanh tau text tfrac theta tilde times top underline xi
    """.split()
)
MATHEMATICS = re.compile(r":math:`([^`]*)`|\.\. math::(.*?)(?:\n\s*\n|\"\"\")", re.DOTALL)
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)


def test_the_code_of_start_runs(tmp_path, monkeypatch, capsys):
    measures, load, files = blocks("docs/start.md")
    # The result is that of the twenty lines, which tests/readme_test.py runs.
    _, printed = run(measures, capsys, {"result": types.SimpleNamespace(accuracy=np.eye(5))})
    assert [round(float(number), 3) for number in printed.split()] == [0.2, 0.457, 1.0]
    monkeypatch.chdir(tmp_path)
    config = er.get_config("runlocal")
    config.steps = 2
    train(config, "runs/er", quiet=True)
    capsys.readouterr()
    scope, printed = run(load, capsys)
    assert np.shape(printed.strip("[]\n").split()) == (5,)
    scope, printed = run(files, capsys, scope)
    assert printed == "(5, 10)\n" and scope["again"].accuracy.shape == (5, 5)


def test_the_sections_of_a_report_are_told():
    sections = re.findall(r'": \("([A-Z][^"]+)", ', (ROOT / "experiments" / "report.py").read_text())
    told = (DOCS / "start.md").read_text().split("| section |")[1].split("\n\n")[0]
    assert sections and sections == re.findall(r"^\| ([A-Z][\w ]+) \|", told, flags=re.M)


def test_the_code_of_write_a_method_runs(capsys):
    scope, printed = None, []
    for code in blocks("docs/write_a_method.md"):
        scope, text = run(code, capsys, scope)
        printed += text.splitlines()
        # What a print is said to print, it prints.
        assert text.splitlines() == re.findall(r"print\(.*\)  # (.*)", code)
    assert printed == ["(5, 5)"]
    assert scope["near_average"](0.1).needs == ()


def test_the_code_of_evaluate_runs(capsys):
    tuned, compared = blocks("docs/evaluate.md")
    scope, printed = run(tuned, capsys)
    (naive, er), lines = scope["found"], printed.splitlines()
    assert [line.split()[0] for line in lines] == ["naive", "er"] and naive.evaluation.mean() < er.evaluation.mean()
    _, printed = run(compared, capsys, scope)
    assert re.fullmatch(r"er - naive: \d+\.\d ± \d+\.\d, p = 0\.\d{3}\n", printed)


def test_the_code_of_the_questions_runs(capsys):
    fisher, fresh = blocks("docs/faq.md")
    assert run(fisher, capsys)[1].strip() == re.search(r"  # (.*)", fisher)[1]
    scope, _ = run(fresh, capsys)
    assert scope["fresh_optimizer"].name == "fresh_optimizer"


def anchors(path):
    """What a link may name in a page: its headings, as GitHub and MyST write them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_links_and_includes_lead_somewhere(path):
    text = path.read_text()
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        page = path.parent / target if target else path
        assert page.is_file() and (not anchor or anchor in anchors(page)), f"{target}#{anchor}"
    for name, options in re.findall(r"```{include} (\S+)\n((?::.*\n)*)```", text):
        # What is included must be there, between marks that are there once.
        included = (path.parent / name).read_text()
        marks = re.findall(r':(?:start-after|end-before): "(.*)"', options)
        assert not [mark for mark in marks if mark not in included]
        assert marks == sorted(marks, key=included.index)
        assert all(included.count(f"{mark}\n") == 1 or included.count(f"\n{mark}") == 1 for mark in marks), marks
    for name in re.findall(r"^:file: (.*)$", text, flags=re.M):
        assert (path.parent / name).is_file(), name


def test_every_page_has_its_place():
    def listed(path):
        (tree,) = re.findall(r"```{toctree}\n:hidden:\n\n(.*?)```", path.read_text(), flags=re.S)
        return {path.parent / f"{name}.md" for name in tree.split()}

    index = DOCS / "api" / "index.md"
    assert listed(DOCS / "index.md") | listed(index) | {DOCS / "index.md", DOCS / "README.md"} == set(PAGES)


PACKAGES = [module.name for module in pkgutil.iter_modules(ctrain_jax.__path__) if not module.name.startswith("_")]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_has_its_place(name):
    """`automodule` takes from `__all__` the classes and functions with a docstring; the others are named."""
    module = importlib.import_module(f"ctrain_jax.{name}")
    page = (DOCS / "api" / f"{name}.md").read_text()
    assert f".. automodule:: ctrain_jax.{name}\n   :members:\n" in page
    assert f"({name}.md)" in (DOCS / "api" / "index.md").read_text()
    for public in getattr(module, "__all__", ()):
        thing = getattr(module, public)
        found = (inspect.isclass(thing) or inspect.isfunction(thing)) and inspect.getdoc(thing)
        assert found or f".. autodata:: ctrain_jax.{name}.{public}\n" in page, public


CHOOSE = (DOCS / "how_to_choose.md").read_text()


def table(heading):
    """{first cell: the others} of a table."""
    lines = CHOOSE.split(f"\n| {heading} |")[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_the_site_can_draw_the_mathematics_of_docstrings():
    files = sorted((ROOT / "ctrain_jax").rglob("*.py"))
    written = {
        str(file.relative_to(ROOT)): " ".join(map(" ".join, MATHEMATICS.findall(file.read_text()))) for file in files
    }
    found = {name: set(re.findall(r"\\([a-zA-Z]+)", text)) - DRAWN for name, text in written.items()}
    assert sum(map(len, written.values())) > 10_000
    assert not {name: commands for name, commands in found.items() if commands}


def test_how_to_choose_has_every_method_with_what_it_needs():
    methods = table("method")
    transforms = set(table("transform"))
    assert set(methods) | transforms == {*continual.__all__, *peft.__all__} and not set(methods) & transforms
    for name, (_, needs, looks_back, _) in methods.items():
        method = METHODS[name][0]()
        own = {part.name: part for part in method.parts or ()}.get(name, method)
        assert needs.replace("nothing", "").split(", ") == (list(own.needs) or [""]), name
        assert looks_back in ("yes", "no")
    free = re.search(r"which it is \(`.*?`\)\.(.*)do not ask", CHOOSE, flags=re.S)[1]
    assert re.findall(r"`(\w+)`", free) == [name for name in methods if "boundaries" not in methods[name][1]]


def test_numbers_of_how_to_choose_are_those_of_the_evidence():
    files = [json.loads(path.read_text()) for path in (ROOT / "ctrain_jax" / "evidence").glob("*.json")]
    told = " ".join(claim["text"] for file in files for claim in file["claims"])
    numbers = re.findall(r"`(\w+)` (\d+\.\d)", CHOOSE)
    assert len(numbers) > 20
    for name, number in numbers:
        assert f"{name} {number}" in told or f"{name.split('_')[0]} {number}" in told, (name, number)
