"""What a run would be: shapes, parameters, memory and time, before it is started."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from ctrain_jax import core
from experiments import _build, _cost

_LEAST_SECONDS = 1.0  # of the steps that are timed


def describe(config: ml_collections.ConfigDict, num_seeds: int) -> str:
    """Builds the learner of a config, compiles its step and times it for about a second; writes nothing.

    Args:
      config: see `configs/common.py`.
      num_seeds: seeds of the run.

    Returns:
      Lines for a terminal.

    Raises:
      ConfigError: something wrong in the config.
    """
    learner = _build.build(config)
    seeds = [config.seed + k for k in range(num_seeds)]
    state = _build.refused("config", core.start, learner, seeds)
    one = jax.eval_shape(lambda s: jax.tree.map(lambda x: x[0], s), state)
    data = core.to_device(learner.stream)
    compile_seconds, memory, step_seconds = _measure(learner, state, data)

    spec, stream = learner.spec, learner.stream
    train, test = stream.experiences["train"].size, stream.experiences["test"].size
    total, device = sum(spec.steps), jax.devices()[0]
    rows = [
        ("run", f"{config.name}, {_count(num_seeds, 'seed')} in one program, on {device.device_kind}"),
        ("stream", f"{stream.name} of {stream.source.name}: {_count(spec.num_experiences, 'experience')}, "
                   f"{_count(spec.num_classes, 'class', 'classes')}, heads {spec.heads!r}"),
        ("rows", f"{_range(train)} an experience to train on, {_range(test)} to test on"),
        *(("batch" if k == 0 else "", f"{name} {_shape(leaf)}")
          for k, (name, leaf) in enumerate(spec.batch.items())),
        ("model", f"{config.model.name}: {_size(one.params):,} trained parameters"),
        *(("", f"{name} {_size(part):,}") for name, part in _parts(one.params)),
        ("answers", f"logits {_shape(spec.outputs.logits)}"
                    + ("" if spec.outputs.features is None else f", features {_shape(spec.outputs.features)}")),
        ("methods", " + ".join(config.methods) or "none (naive)"),
        ("steps", f"{total:,} ({', '.join(f'{n:,}' for n in dict.fromkeys(spec.steps))} an experience)"),
        ("state", f"{_bytes(one)} a seed: parameters {_bytes(one.params)}, optimizer {_bytes(one.opt_state)}"
                  + "".join(f", {name} {_bytes(part)}" for name, part in one.method_state.items())),
        ("data", f"{_bytes(data)} on the device"),
        ("program", f"{_amount(memory)} of intermediate results, compiled in {compile_seconds:.1f} s"
                    if memory is not None else f"compiled in {compile_seconds:.1f} s"),
        ("time", f"{_duration(step_seconds * total)} to train ({1e3 * step_seconds:.2f} ms a step for all seeds, "
                 "measured just now); tests, edges of experiences and checkpoints come on top"),
    ]  # fmt: skip
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {text}".rstrip() for name, text in rows)


def _measure(learner: core.Learner, state: core.TrainState, data: core.Data) -> tuple[float, int | None, float]:
    """Seconds to compile steps of the first experience; bytes of their intermediate results; seconds for a step."""
    run = jax.jit(core.mapped(learner.chunk, (0, None, None, None, None)))
    state = jax.jit(core.mapped(learner.begin, (0, None, None)))(state, data, np.int32(0))
    start = time.monotonic()
    program = run.lower(state, data, np.int32(0), np.int32(0), np.int32(1)).compile()
    compiled = time.monotonic() - start
    analysis = program.memory_analysis()
    length, seconds = 1, 0.0
    while seconds < _LEAST_SECONDS and length <= learner.spec.steps[0]:
        start = time.monotonic()
        jax.block_until_ready(program(state, data, np.int32(0), np.int32(0), np.int32(length)))
        seconds, timed = time.monotonic() - start, length
        length = max(length + 1, int(length * min(10.0, 1.5 * _LEAST_SECONDS / max(seconds, 1e-9))))
    return compiled, None if analysis is None else analysis.temp_size_in_bytes, seconds / timed


def _parts(params: Any) -> Sequence[tuple[str, Any]]:
    return list(params.items()) if isinstance(params, dict) else []


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _bytes(tree: Any) -> str:
    return _amount(_cost.tree_bytes(tree))


def _amount(num: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if num < 1024:
            return f"{num:.0f} {unit}" if unit == "B" or num >= 100 else f"{num:.1f} {unit}"
        num /= 1024
    return f"{num:.1f} GiB"


def _shape(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _range(sizes: np.ndarray) -> str:
    low, high = int(np.min(sizes)), int(np.max(sizes))
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _duration(seconds: float) -> str:
    for unit in ("s", "min"):
        if seconds < 60:
            return f"{seconds:.1f} {unit}"
        seconds /= 60
    return f"{seconds:.1f} h"


def _count(num: int, noun: str, plural: str | None = None) -> str:
    return f"{num} {noun if num == 1 else plural or noun + 's'}"
