"""Settings of every test."""

import jax

# Compiling is most of what tests do; programs compiled without optimisation give their answers twice as early. The
# optimised ones run in the tests that start a process of their own.
jax.config.update("jax_disable_most_optimizations", True)
