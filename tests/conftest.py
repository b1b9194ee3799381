"""Settings of every test."""

import os

import jax

# Compiling is most of what tests do; programs compiled without optimisation give their answers twice as early. The
# optimised ones run in the tests that start a process of their own, which does not inherit this.
jax.config.update("jax_disable_most_optimizations", True)
given = os.environ.get("XLA_FLAGS")
os.environ["XLA_FLAGS"] = f"{given or ''} --xla_cpu_use_fusion_emitters=false"
jax.devices()
if given is None:
    del os.environ["XLA_FLAGS"]
else:
    os.environ["XLA_FLAGS"] = given
