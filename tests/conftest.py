"""Settings of every test."""

import gc
import os

import jax
import pytest

# Compiling is most of what tests do; programs compiled without optimisation give their answers twice as early. The
# optimised ones run in the tests that start a process of their own, which does not inherit this.
jax.config.update("jax_disable_most_optimizations", True)
FLAGS = ("use_fusion_emitters=false", "parallel_codegen_split_count=1", "opt_preset=CPU_OPT_PRESET_FAST_COMPILE")
given = os.environ.get("XLA_FLAGS")
os.environ["XLA_FLAGS"] = " ".join([given or "", *(f"--xla_cpu_{flag}" for flag in FLAGS)])
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
