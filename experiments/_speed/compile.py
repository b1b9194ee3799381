"""Trace and compile time of whole streams as one program: in a new process, then with the compilation cache."""

import statistics
import sys
import tempfile
from collections.abc import Iterator

from experiments._speed._common import Measure, Options, Suite, in_processes
from experiments._speed.overhead import METHODS

# Everything between the imports and the first run of a stream of 5 experiences.
PROGRAM = """
import functools, json, time
import jax, optax, orbax.checkpoint
from ctrain_jax import core, models
from experiments._speed.overhead import METHODS, random_stream

stream = random_stream((28, 28), rows=200, experiences=5)
data, key = core.to_device(stream), jax.random.key(0)
times = [time.perf_counter()]
model = core.from_linen(models.MLP(10, hidden=(400, 400)))
learner = core.make_learner(model, METHODS["{kind}"](), optax.adam(1e-3), stream, batch_size=10)
times.append(time.perf_counter())
lowered = jax.jit(functools.partial(core.run_fused, learner)).lower(data, key)
times.append(time.perf_counter())
lowered.compile()
times.append(time.perf_counter())
print(json.dumps([b - a for a, b in zip(times, times[1:])]))
"""


def run(options: Options) -> Iterator[Measure]:
    """Seconds in a new process, and their ratio with the cache to without."""
    rounds = 1 if options.small else 5
    for kind in list(METHODS)[: 1 if options.small else None]:
        cold, warm = [], []
        command = {kind: [sys.executable, "-c", PROGRAM.replace("{kind}", kind)]}
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                cache = {
                    "JAX_COMPILATION_CACHE_DIR": folder,
                    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
                }
                cold += in_processes(command, 1, **cache)[kind]
                warm += in_processes(command, 1, **cache)[kind]
        parts = ("build", "trace", "compile")
        whole = statistics.median(map(sum, cold))
        detail = {name: statistics.median(part) for name, part in zip(parts, zip(*cold, strict=True), strict=True)}
        yield Measure(f"seconds/{kind}", whole, 4.0, detail=detail)
        again = statistics.median(sum(b) / sum(a) for a, b in zip(cold, warm, strict=True))
        detail = {name: statistics.median(part) for name, part in zip(parts, zip(*warm, strict=True), strict=True)}
        yield Measure(f"with_cache/{kind}", again, 1 / 3, detail=detail)


SUITE = Suite("trace and compile time of a stream of 5 experiences, without and with the compilation cache", run)
