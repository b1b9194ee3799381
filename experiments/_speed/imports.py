"""What `import ctrain_jax` costs more than what it stands on."""

import sys
from collections.abc import Iterator

from experiments._speed._common import Measure, Options, Suite, in_processes, ratio

PROGRAM = "import time; began = time.perf_counter(); import {names}; print(time.perf_counter() - began)"
IMPORTS = {"ours": "ctrain_jax", "below": "jax, flax, optax"}


def run(options: Options) -> Iterator[Measure]:
    """The ratio of the seconds of two imports, each in a process of its own."""
    programs = {name: [sys.executable, "-c", PROGRAM.replace("{names}", names)] for name, names in IMPORTS.items()}
    in_processes(programs, 1)
    times = in_processes(programs, 2 if options.small else 15)
    found = ratio(times["ours"], times["below"])
    yield Measure("import_ctrain_jax", found["ratio"], 1.5, detail=found)


SUITE = Suite("import ctrain_jax against import jax, flax, optax", run)
