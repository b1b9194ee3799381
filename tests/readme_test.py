"""Nothing shown goes unrun."""

import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import testing
from tests.shown import ROOT, blocks, run

NNX = """
from flax import nnx


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(64, 64, rngs=rngs), nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.first(x)))
"""


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_the_twenty_lines_learn(kind, capsys):
    (code,) = blocks("README.md")
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    assert not re.search(r"\b_\w", code.replace("__call__", ""))
    if kind == "nnx":
        code = re.sub(r"class Net.*?\n\n\n", NNX.strip() + "\n\n\n", code, flags=re.S)
        code = code.replace("core.from_linen(Net())", "core.from_nnx(lambda rngs: Net(rngs=rngs))")
        assert "nnx.Module" in code
    scope, printed = run(code, capsys)
    accuracy = np.asarray(scope["result"].accuracy)
    assert accuracy.shape == (5, 5) and len(printed.splitlines()) == 5
    # The first experience is still known after the last one; naive training forgets it altogether.
    assert accuracy[-1, 0] > 0.5 and accuracy[-1].mean() > 0.7


def test_the_skeleton_of_the_map_passes_conformance(capsys):
    (code,) = blocks("ctrain_jax/README.md")
    scope, _ = run(code, capsys)
    testing.check_method(scope["anchor"](0.1))
    with pytest.raises(ValueError, match="lam must be 0 or above"):
        scope["anchor"](-1.0)
    assert scope["anchor"](jnp.float32(0.1)).name == "anchor"


def test_every_command_and_path_that_is_shown_exists():
    text = (ROOT / "README.md").read_text() + (ROOT / "ctrain_jax/README.md").read_text()
    for module in set(re.findall(r"python -m (experiments\.\w+)", text)):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module
    for path in set(re.findall(r"`((?:ctrain_jax|configs|experiments|tests)/[\w/.]+)`", text)):
        assert (ROOT / path).exists() or "anchor" in path, path
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`?make (\w+)", text)):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


@pytest.mark.parametrize("name", ["continual", "report", "data", "evidence"])
def test_help_of_each_binary_teaches(name):
    command = [sys.executable, "-m", f"experiments.{name}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert f"python -m experiments.{name}" in done.stdout and "Traceback" not in done.stderr
