"""Train a learner on a stream: the main job.

  python -m experiments.continual --config=configs/continual/er.py --workdir=runs/er --seeds=5
  python -m experiments.continual --config=configs/continual/er.py --workdir=runs/er_small --config.er.size=200

The workdir receives config.json, metrics.jsonl, result.json, TensorBoard events and checkpoints. Called again with the
same workdir, the run goes on where it was, to the same bits; a finished run prints its table. Ctrl-C and SIGTERM save
within seconds; a second one ends at once. Exit codes: 0 finished, 2 wrong use, 130 and 143 interrupted and saved.

Look at one run or many with: python -m experiments.report --workdir=runs
"""

import contextlib
import json
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

import ctrain_jax
from ctrain_jax import core
from ctrain_jax.core import open_checkpoints
from experiments import _build, _cli, _progress, _results

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, and keys to change: --config.epochs=2.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made where it is missing, resumed where it exists.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "How many seeds to run, from config.seed on.", lower_bound=1)
_SAVE_SECONDS = flags.DEFINE_float("save_seconds", 60.0, "Most seconds between two checkpoints.", lower_bound=0.0)
_CHUNK_SECONDS = 1.0


def train(
    config: ml_collections.ConfigDict, workdir: Path, num_seeds: int = 1, *, save_seconds: float = 60.0
) -> dict[str, Any]:
    """Run a config, or what is left of it, and write everything down.

    Args:
      config: see `configs/common.py`.
      workdir: the folder of the run.
      num_seeds: seeds `config.seed, config.seed + 1, ...`, in one program.
      save_seconds: most seconds between two checkpoints.

    Returns:
      What `result.json` holds; `finished` is False after a signal.

    Raises:
      ConfigError: something wrong in the config, or a workdir that holds a run of another one.
    """
    learner = _build.build(config)
    workdir.mkdir(parents=True, exist_ok=True)
    seeds = [config.seed + k for k in range(num_seeds)]
    _claim(workdir, {"config": _plain(config), "seeds": seeds})
    checkpoints = open_checkpoints(workdir / "checkpoints")
    data = core.to_device(learner.stream)
    state = core.start(learner, seeds)

    restored = checkpoints.restore(state)
    if restored is None:
        baseline = _lists(core.evaluate(learner, state, data, 0))
        history = {"baseline": baseline, "rows": [], "seconds": 0.0}
    else:
        state, history = restored.state, restored.extra
        for step, why in restored.damaged.items():
            print(f"checkpoint {step} is damaged ({why}); the one before is used")
        print(f"resumed at step {restored.step} from {workdir}")
    done = _steps_done(state)
    log = _progress.Log(workdir, done)
    bar = _progress.Bar(config.name, sum(learner.spec.steps), done)
    began, saved = time.monotonic() - history["seconds"], time.monotonic()
    pace = _progress.Pace(_CHUNK_SECONDS)
    stopped = None
    with _signals() as received:
        for event in core.iterate(learner, data, state, chunk_steps=pace.steps):
            state, record = event.state, _lists(event.record)
            done = _steps_done(state)
            history["seconds"] = time.monotonic() - began
            pace.tick(done)
            log.train(done, event.experience, record, history["seconds"])
            if event.metrics is not None:
                history["rows"].append(_lists(event.metrics))
                log.eval(done, event.experience, history["rows"][-1])
            bar.update(done, event.experience, record)
            if event.metrics is not None or received or time.monotonic() - saved > save_seconds:
                checkpoints.save(done, state, history)
                saved = time.monotonic()
            if received:
                stopped = received[0]
                break
    checkpoints.close()
    log.close()
    result = _result(config, learner, seeds, history, done)
    _write(workdir / "result.json", result)
    bar.close(f"stopped by {signal.Signals(stopped).name}, saved at step {done}" if stopped else "done")
    return {**result, "signal": stopped}


def main(argv: Sequence[str]) -> int:
    """The binary."""
    if len(argv) > 1:
        _cli.fail(f"unknown argument {argv[1]!r}: flags start with two dashes (see --help)")
    if _CONFIG.value is None or _WORKDIR.value is None:
        _cli.fail(
            "--config=FILE and --workdir=DIR are needed, for example --config=configs/continual/er.py (see --help)"
        )
    _use_cache()
    try:
        result = train(_CONFIG.value, Path(_WORKDIR.value), _SEEDS.value, save_seconds=_SAVE_SECONDS.value)
    except (_build.ConfigError, core.DamagedCheckpoint) as error:
        _cli.fail(str(error))
    print(_results.summary_table([result]))
    return 0 if result["signal"] is None else 128 + result["signal"]


def _result(
    config: ml_collections.ConfigDict, learner: core.Learner, seeds: list[int], history: dict[str, Any], done: int
) -> dict[str, Any]:
    name = next(iter(history["baseline"]))
    total = learner.spec.num_experiences
    finished = len(history["rows"]) == total
    matrices = [[None] * total for _ in seeds]
    for t, row in enumerate(history["rows"]):
        for s, values in enumerate(row[name]):
            matrices[s][t] = values
    source = learner.stream.source.name
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "name": config.name,
        "stream": f"{learner.stream.name}({source}, {total})",
        "method": " + ".join(config.methods) or "naive",
        "model": config.model.name,
        "metric": name,
        "seeds": seeds,
        "matrices": matrices,
        "baseline": history["baseline"][name],
        "seconds": history["seconds"],
        "steps": done,
        "steps_per_second": done * len(seeds) / max(history["seconds"], 1e-9),
        "finished": finished,
        "experiences": total,
        "config": _plain(config),
        "versions": {"python": sys.version.split()[0], "ctrain_jax": ctrain_jax.__version__}
        | {package: version(package) for package in packages},
        "command": "python -m experiments.continual " + shlex.join(sys.argv[1:]),
        "device": jax.devices()[0].device_kind,
    }


def _claim(workdir: Path, wanted: dict[str, Any]) -> None:
    """Write the config of the run, or refuse a workdir that holds another one."""
    path = workdir / "config.json"
    wanted = json.loads(json.dumps(wanted))
    if not path.exists():
        _write(path, wanted)
        return
    there = _flat(json.loads(path.read_text()))
    here = _flat(wanted)
    differ = [
        f"{k} {there.get(k)!r} -> {here.get(k)!r}" for k in sorted({*there, *here}) if there.get(k) != here.get(k)
    ]
    if differ:
        raise _build.ConfigError(
            f"{workdir} holds a run of another config ({', '.join(differ)}): use another --workdir, or the same config."
        )


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {k: v for key, sub in tree.items() for k, v in _flat(sub, f"{path}.{key}" if path else key).items()}


def _plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    return json.loads(json.dumps(config.to_dict()))


def _lists(record: Any) -> Any:
    return {name: np.asarray(value).astype(float).tolist() for name, value in record.items()}


def _steps_done(state: core.TrainState) -> int:
    return int(np.ravel(np.asarray(state.step))[0])


def _write(path: Path, content: Any) -> None:
    """In one piece: a reader never sees half a file."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1))
    part.replace(path)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that arrived; the first asks for a save, the second ends the program at once."""
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)
        print(f"\n{signal.Signals(number).name}: saving, a second one ends at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _use_cache() -> None:
    """Programs compiled by an earlier run are read back."""
    cache = Path.home() / ".cache" / "ctrain_jax" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


if __name__ == "__main__":
    _cli.run(main)
