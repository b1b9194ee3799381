"""What a run costs: seconds to compile, floating-point operations of a step, memory; and where the time goes."""

import functools
import resource
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from ctrain_jax import core

_COMPILING = ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration", "backend_compile_duration")


@functools.cache
def _clock() -> list[float]:
    """Seconds that this process has traced and compiled since it was first asked."""
    spent = [0.0]

    def hear(event: str, seconds: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/") and event.endswith(_COMPILING):
            spent[0] += seconds

    jax.monitoring.register_event_duration_secs_listener(hear)
    return spent


def compile_seconds() -> float:
    """Seconds that this process has traced and compiled since it was first asked, which is 0."""
    return _clock()[0]


def step_flops(learner: core.Learner, data: core.Data, state: core.TrainState) -> float | None:
    """Floating-point operations of one step of one seed, as XLA counts them before it optimises.

    Args:
      learner: from `core.make_learner`.
      data: from `core.to_device`.
      state: of one seed or several.

    Returns:
      The number; None where the backend does not count.
    """
    number = jax.ShapeDtypeStruct((), np.int32)
    of_one = jax.eval_shape(lambda s: jax.tree.map(lambda x: x[0], s), state) if state.step.ndim else state
    found = jax.jit(learner.step).lower(of_one, data, number, number).cost_analysis()
    return None if not found or "flops" not in found else float(found["flops"])


def peak_bytes() -> int:
    """The most memory that was in use: of the first device, where it says so, otherwise of this process."""
    found = jax.local_devices()[0].memory_stats()
    if found and "peak_bytes_in_use" in found:
        return int(found["peak_bytes_in_use"])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Tracer:
    """Writes what the device does in the second and third chunk of a run: the first one is compiled while it runs.

    TensorBoard (with its profile plugin) and Perfetto open what it writes.
    """

    def __init__(self, folder: Path):
        self._folder, self._chunks, self._open = folder, 0, False

    def __enter__(self) -> Self:
        return self

    def tick(self) -> None:
        """A chunk is over."""
        self._chunks += 1
        if self._chunks == 1:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._open = True
        elif self._chunks == 3:
            self._stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._open:
            jax.profiler.stop_trace()
            self._open = False


def use_cache() -> None:
    """Programs compiled by an earlier run are read back, from `$JAX_COMPILATION_CACHE_DIR` or the home folder."""
    if not jax.config.jax_compilation_cache_dir:
        cache = Path.home() / ".cache" / "ctrain_jax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
