"""A wheel, built and installed elsewhere, is whole: its code, its data, its licences, its notes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what `pip install` of the wheel leaves."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "ctrain_jax", source / "ctrain_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = ["build", "--wheel", "--no-isolation", "--outdir", str(folder / "wheels"), str(source)]
    _python("-m", *build)
    (wheel,) = (folder / "wheels").glob("*.whl")
    _python("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder / "there"), str(wheel))
    return folder / "there"


def _python(*arguments, **options):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_file_of_the_package_is_there(installed):
    def files(folder):
        found = {path.relative_to(folder).as_posix() for path in (folder / "ctrain_jax").rglob("*") if path.is_file()}
        return {name for name in found if "__pycache__" not in name}

    assert files(installed) == files(ROOT)


def test_it_learns_from_its_own_data(installed, tmp_path):
    code = """
import ctrain_jax, optax
from ctrain_jax import continual, core, models, streams

print(ctrain_jax.__file__)
stream = streams.class_incremental(streams.fashion_mnist(), 5)
model = core.from_linen(models.MLP(hidden=(8,), num_classes=10))
learner = core.make_learner(model, continual.er(20), optax.adam(1e-3), stream, steps=2)
result = core.run_stream(learner)
print(result.accuracy.shape, int(result.state.step))
"""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    where, what = _python("-c", code, cwd=tmp_path, env=environment).splitlines()
    assert where == str(installed / "ctrain_jax" / "__init__.py") and what == "(5, 5) 10"
