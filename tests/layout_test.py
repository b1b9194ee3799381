"""The layers, and one name in five places."""

import ast
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ctrain_jax
from ctrain_jax import core, fault, optim

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ctrain_jax"
PURE = {"ops", "optim", "losses", "metrics", "analysis"}
MIDDLE = {"core", "streams", "models"}
FILES = sorted(PACKAGE.rglob("*.py"))


def layer(path):
    """The folder of a file below the package; its own name for files at the top."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else parts[0].removesuffix(".py")


def imports(path):
    """Modules of ours that a file imports, and others by their first name."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "ctrain_jax":
                names = [f"ctrain_jax.{alias.name}" for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            (ours.add(rest[0]) if first == "ctrain_jax" and rest else others.add(first))
    return ours, others


def forbidden(own, target):
    """Why a file of one layer may not import another, or None."""
    if target == own or own in ("__init__", "testing", "_version"):
        return None
    if own in PURE:
        return None if own in PURE - {"ops"} and target == "ops" else f"{own} is pure and imports nothing of ours"
    if own == "core":
        return None if target == "ops" else "core imports ops alone"
    if own in MIDDLE:
        return None if target in PURE | {"core"} else f"{own} imports pure functions and core alone"
    return None if target in PURE | MIDDLE else "a family never imports another family"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    ours, others = imports(path)
    wrong = {target: forbidden(layer(path), target) for target in ours}
    assert not {k: v for k, v in wrong.items() if v}
    if layer(path) in PURE:
        assert others & {"flax", "chex", "orbax", "ctrain_jax"} == set()


def test_the_rules_refuse_what_they_should():
    assert forbidden("metrics", "core") and forbidden("core", "streams") and forbidden("continual", "peft")
    assert forbidden("streams", "models") and not forbidden("continual", "ops") and not forbidden("streams", "core")


def test_no_file_is_longer_than_it_may_be():
    long = {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text().splitlines())) > 450}
    assert not long


def families():
    """Packages that hold methods and transforms."""
    names = [m.name for m in pkgutil.iter_modules(ctrain_jax.__path__) if m.ispkg]
    return [n for n in names if n not in PURE | MIDDLE | {"evidence"}]


def factories():
    """(name, function) of every public factory of a family; of `fault`, whose files hold several functions, methods."""
    for family in families():
        module = importlib.import_module(f"ctrain_jax.{family}")
        for name in module.__all__:
            function = getattr(module, name)
            if family != "fault" or inspect.signature(function).return_annotation is core.Method:
                yield name, function


FACTORIES = dict(factories())


@pytest.mark.parametrize("name", FACTORIES)
def test_one_name_five_places(name):
    """The factory, its file, its test, its config (of a method), its evidence."""
    factory = FACTORIES[name]
    path = Path(inspect.getsourcefile(factory))
    assert path.name == f"_{name}.py"
    family = path.relative_to(PACKAGE).parts[0]
    assert (ROOT / "tests" / family / f"{name}_test.py").is_file()
    if inspect.signature(factory).return_annotation is core.Method:
        assert (ROOT / "configs" / family / f"{name}.py").is_file()
    evidence = json.loads((PACKAGE / "evidence" / f"{name}.json").read_text())
    assert evidence["name"] == name and evidence["factory"].endswith(f".{name}")


OPTIM = {name: getattr(optim, name) for name in optim.__all__}
FAULT = {name: thing for name in fault.__all__ if inspect.isfunction(thing := getattr(fault, name))}
BY_FILE = {"optim": OPTIM, "fault": FAULT}
BY_FILE_FILES = sorted(path for folder in BY_FILE for path in (PACKAGE / folder).glob("_[a-z]*.py"))


@pytest.mark.parametrize("path", BY_FILE_FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_file_of_several_functions_has_its_places(path):
    """`_x.py` has x and what belongs to it, a test, and evidence: of a projection that of its method."""
    name, folder = path.stem.removeprefix("_"), path.parent.name
    assert Path(inspect.getsourcefile(BY_FILE[folder][name])) == path
    assert (ROOT / "tests" / folder / f"{name}_test.py").is_file()
    name = name.removeprefix("project_")
    evidence = json.loads((PACKAGE / "evidence" / f"{name}.json").read_text())
    assert evidence["name"] == name and evidence["factory"].endswith(f".{name}")


def test_each_of_several_functions_lives_in_one_of_these_files():
    functions = [function for folder in BY_FILE.values() for function in folder.values()]
    assert {Path(inspect.getsourcefile(function)) for function in functions} == set(BY_FILE_FILES)


PUBLIC = {**FACTORIES, **OPTIM, **FAULT}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_factory_is_annotated_and_documented(name):
    factory = PUBLIC[name]
    signature = inspect.signature(factory)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())
    document = inspect.getdoc(factory)
    for section in (*(["Args:"] if signature.parameters else []), "Returns:", "Raises:", "Example:"):
        assert section in document, section
    assert all(f"{p}:" in document for p in signature.parameters)
    assert "arXiv" in inspect.getmodule(factory).__doc__


def public_folders():
    return [p for p in PACKAGE.glob("*/__init__.py")]


@pytest.mark.parametrize("path", public_folders(), ids=lambda p: p.parent.name)
def test_the_readme_of_a_folder_names_what_is_in_it(path):
    module = importlib.import_module(f"ctrain_jax.{path.parent.name}")
    text = (path.parent / "README.md").read_text()
    assert not [name for name in module.__all__ if f"`{name}`" not in text and f"`{name}(" not in text]
    rows = re.findall(r"^\| `(\w+)\(", text, flags=re.MULTILINE)
    assert len(rows) == len(set(rows)), sorted(name for name in set(rows) if rows.count(name) > 1)


def test_nothing_executes_what_it_loads():
    """Arrays and JSON only: no call of pickle, eval, exec, or numpy with allow_pickle."""
    for path in [*FILES, *(ROOT / "experiments").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "marshal.loads") and "pickle" not in called, f"{path}: {called}"
                assert not any(k.arg == "allow_pickle" for k in node.keywords), path
        assert imports(path)[1].isdisjoint({"pickle", "cloudpickle", "dill", "marshal", "shelve"})


def test_a_second_import_of_a_name_is_the_same_object():
    code = "import ctrain_jax as c; print(c.continual.er is c.continual.replay.er, len(c.__version__) > 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
