"""How tests compile: programs without optimisation give their answers twice as early."""

import os

_OPTIONS = ("use_fusion_emitters=false", "parallel_codegen_split_count=1")
FLAGS = " ".join(f"--xla_cpu_{option}" for option in _OPTIONS)


def on_devices(count):
    """The environment of a process that has so many devices."""
    flags = f"{FLAGS} --xla_force_host_platform_device_count={count}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
