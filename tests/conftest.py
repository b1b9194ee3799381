"""Settings of every test."""

import gc
import os

import jax
import pytest

from tests.quick import FLAGS

# Compiling is most of what tests do. Programs with optimisation run in the tests that start a process of their own,
# which does not inherit this.
jax.config.update("jax_disable_most_optimizations", True)
given = os.environ.get("XLA_FLAGS")
os.environ["XLA_FLAGS"] = f"{given or ''} {FLAGS}"
jax.devices()
if given is None:
    del os.environ["XLA_FLAGS"]
else:
    os.environ["XLA_FLAGS"] = given

# Tracing makes many small objects that live on; looking for cycles among them was 8 percent of the time.
gc.freeze()
gc.set_threshold(100_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def programs(tmp_path_factory):
    """Many tests compile the same program."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
