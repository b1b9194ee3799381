"""What a run costs: seconds to compile, floating-point operations of a step, memory; and where the time goes."""

import functools
import resource
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax import core, metrics

CACHE = Path.home() / ".cache" / "ctrain_jax"
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
    return metrics.flops_of(learner.step, of_one, data, number, number)


def of_run(learner: core.Learner) -> dict[str, Any]:
    """What a whole run of one seed takes, known before it starts.

    Args:
      learner: from `core.make_learner`.

    Returns:
      `steps`; `examples`, rows that arrive, each time it is seen, without those that a method replays;
      `flops_per_step`, see `step_flops`; `state_bytes` of all that a checkpoint holds, and `method_bytes` of the part
      that methods keep (memories of row numbers, teachers, importances).
    """
    sizes, batch_size = learner.stream.experiences["train"].size, learner.spec.batch_size
    examples = 0
    for size, steps in zip(np.asarray(sizes).tolist(), learner.spec.steps, strict=True):
        epochs, rest = divmod(steps, -(-size // batch_size))
        examples += epochs * size + min(rest * batch_size, size)
    data = jax.eval_shape(lambda: core.to_device(learner.stream))
    state = jax.eval_shape(learner.init, jax.random.key(0))
    return {
        "steps": sum(learner.spec.steps),
        "examples": examples,
        "flops_per_step": step_flops(learner, data, state),
        "state_bytes": tree_bytes(state),
        "method_bytes": tree_bytes(state.method_state),
    }


def tree_bytes(tree: Any) -> int:
    """Bytes of the arrays of a tree, or of what `jax.eval_shape` says of it."""

    def of(leaf: Any) -> int:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        return leaf.size * leaf.dtype.itemsize

    return sum(map(of, jax.tree.leaves(tree)))


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
        jax.config.update("jax_compilation_cache_dir", str(CACHE / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
