"""`import ctrain_jax` is light: what only some people need is loaded when they need it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = ("tensorflow_datasets", "tensorflow", "grain", "array_record", "PIL", "sklearn", "matplotlib", "orbax",
         "tensorboardX", "ml_collections", "pandas")  # fmt: skip


def test_nothing_heavy_is_loaded():
    code = (
        "import flax, optax, sys; before = set(sys.modules); import ctrain_jax, ctrain_jax.testing; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; print(*sorted(new))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "ctrain_jax" in loaded and not loaded & set(HEAVY) and done.stderr == ""
