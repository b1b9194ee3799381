"""Train a learner on a stream: the main job.

  python -m experiments.continual --config=configs/continual/er.py --workdir=runs/er --seeds=5
  python -m experiments.continual --config=configs/continual/er.py --workdir=runs/er_small --config.er.size=200

  python -m experiments.continual --list
  python -m experiments.continual --config=configs/continual/er.py --dry_run

--list names every method, scenario, source, model, optimizer and config, a line each; --dry_run tells shapes, numbers
of parameters, memory and time of a run without starting it. Any key of a config is a flag: --config.er.size=200; a
wrong one is answered with the nearest. Words after a colon go to the config: er.py:runlocal is small, for a first look.

The workdir receives config.json, metrics.jsonl, result.json, TensorBoard events and checkpoints. Called again with the
same workdir, the run goes on where it was, to the same bits; a finished run prints its table. Ctrl-C and SIGTERM save
within seconds; a second one ends at once. Exit codes: 0 finished, 2 wrong use, 3 numbers that are not finite, 4 a disk
that refuses, 5 another process of the run is gone, 130 and 143 interrupted and saved.

Numbers that are not finite stop the run with the step and the leaf. --nonfinite=skip leaves such steps out;
--nonfinite=rollback goes back to the last checkpoint and on with the rows in another order.

Batches are spread over all devices. Several processes, of one host or many, are one run: --distributed on a TPU pod or
under SLURM, Open MPI or Kubernetes, --coordinator=HOST:PORT --processes=4 --process=0 elsewhere.

--config.trace_every=10 also tests all experiences after every tenth step, to see what happens between their ends; the
weights do not change by that. The tests cost time.

--config.online=True predicts each batch before it is learned, in one pass: the prequential accuracy, for streams that
drift.

--sweep=ewc.lam=1,10,100 runs every value for all seeds as one program and names the best by validation; each becomes a
run of its own in the workdir. Numbers of methods and of the optimizer can be swept. It saves nothing before its end.

Look at one run or many with: python -m experiments.report --workdir=runs
"""

import contextlib
import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from absl import flags

from ctrain_jax import core
from experiments import (
    _build,
    _catalog,
    _cli,
    _cost,
    _dry_run,
    _hosts,
    _nonfinite,
    _outcome,
    _progress,
    _provenance,
    _results,
    _sweep,
    _workdir,
)

_CHUNK_SECONDS = 1.0


def train(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    num_seeds: int = 1,
    *,
    save_seconds: float = 60.0,
    save_steps: int | None = None,
    nonfinite: str = "stop",
    mesh: jax.sharding.Mesh | None = None,
    rules: Sequence[Any] = (),
    quiet: bool = False,
    profile: bool = False,
    received: Sequence[int] = (),
) -> dict[str, Any]:
    """Run a config, or what is left of it, and write everything down.

    Args:
      config: see `configs/common.py`.
      workdir: the folder of the run.
      num_seeds: seeds `config.seed, config.seed + 1, ...`, in one program.
      save_seconds: most seconds between two checkpoints.
      save_steps: also a checkpoint after every so many steps of the run.
      nonfinite: what becomes of numbers that are not finite: "stop" ends the run, "skip" leaves out the steps that
        make them, "rollback" goes back to the last checkpoint and on with the rows in another order.
      mesh: devices, as in `core.make_learner`.
      rules: which leaves of the state are spread over them, as in `core.make_learner`.
      quiet: tell the start and the end only.
      profile: write a trace of the second and third chunk into `workdir/profile`.
      received: numbers of signals; when it is no longer empty, the run saves after its chunk and stops.

    Returns:
      What `result.json` holds; `finished` says whether the run came to its end.

    Raises:
      ConfigError: something wrong in the config, a workdir that holds a run of another one or is in use, or one whose
        checkpoints are all damaged.
      Fault: numbers that are not finite, or a disk that refuses.
    """
    if "://" in str(workdir):
        raise _build.ConfigError(
            f"--workdir: {workdir} is no folder: mount the bucket, and give the path where it is mounted."
        )
    workdir, compiling = Path(workdir), _cost.compile_seconds()
    # On one device there is nothing to spread, and the rules of a larger machine do no harm.
    rules = () if mesh is None else rules
    learner = _build.build(config, mesh=mesh, skip_nonfinite=nonfinite == "skip", rules=rules)
    seeds = [config.seed + k for k in range(num_seeds)]
    claim = {
        "config": _provenance.plain(config),
        "seeds": seeds,
        "versions": _provenance.versions(),
        "commit": _provenance.commit(),
    }
    if _workdir.is_claimed(workdir, claim) and (result := _workdir.finished(workdir)):
        if _hosts.is_first():
            bar = _progress.Bar(config.name, result["steps"], result["steps"])
            bar.say(f"finished before, {_results.final(result)}")
        return result
    state = _build.refused("--shard" if rules else "config", core.start, learner, seeds)
    # Of several hosts each reads its own rows.
    spread = jax.process_count() > 1
    data = _build.refused("config", core.to_device, learner.stream, learner.mesh, spread=spread)
    if learner.mesh is not None:
        shapes = jax.eval_shape(learner.init, jax.random.key(0))
        _build.refused("--devices", jax.eval_shape, learner.step, shapes, data, np.int32(0), np.int32(0))
    _build.refused("--workdir", workdir.mkdir, parents=True, exist_ok=True)
    total, stamp = sum(learner.spec.steps), _workdir.claim_hash(claim)
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(_workdir.on_disk(workdir))
        cleanup.enter_context(_build.in_memory())
        if _hosts.is_first():
            cleanup.enter_context(_workdir.locked(workdir))
            if not (workdir / "config.json").exists():
                _workdir.write(workdir / "config.json", claim)
        checkpoints = _build.refused("--workdir", core.open_checkpoints, workdir / "checkpoints")
        cleanup.callback(checkpoints.close)

        def newest(like: core.TrainState) -> core.Restored | None:
            restored = _build.refused("--workdir", checkpoints.restore, like)
            if restored is not None and restored.extra.get("claim", stamp) != stamp:
                raise _build.ConfigError(f"{workdir} holds checkpoints of another config: use another --workdir.")
            return restored

        restored = newest(state)
        if restored is None:
            history = _outcome.begun(_results.lists(core.evaluate(learner, state, data, 0)), stamp)
        else:
            state, history = restored.state, restored.extra
        compiling -= history["compile_seconds"]
        done = _steps_done(state)
        silent = _hosts.Silence()
        bar = _progress.Bar(config.name, total, done, quiet=quiet) if _hosts.is_first() else silent
        where = f"resumed at step {done} of {total}" if restored else f"{total} steps"
        bar.say(f"{where}, {len(seeds)} seed{'s' * (len(seeds) > 1)}, in {workdir}")
        log = _progress.Log(workdir, done) if _hosts.is_first() else silent
        cleanup.callback(lambda: log.close())
        pace = _progress.Pace(_CHUNK_SECONDS)
        every, inside = config.trace_every, core.position(learner, state)[1]

        def chunk_steps() -> int:
            (steps,) = _hosts.agreed(pace.steps())
            steps = min(steps, every - inside % every) if every else steps
            return min(steps, save_steps - done % save_steps) if save_steps else steps

        def norm_of_next(ts: core.TrainState, data: core.Data, t: jax.Array, i: jax.Array) -> jax.Array:
            return optax.tree.norm(learner.gradient(ts, data, t, i)[1])

        # Once a chunk: in every step it would cost up to a quarter of the time of a small model.
        gradient_norm = jax.jit(core.mapped(norm_of_next, (0, None, None, None)))
        events = core.iterate(learner, data, state, chunk_steps=chunk_steps)
        began, saved = time.monotonic() - history["seconds"], time.monotonic()
        stop, attempts, idle = bool(received), 0, 0
        tracer = cleanup.enter_context(_cost.Tracer(workdir / "profile")) if profile else None
        cleanup.enter_context(_hosts.together(workdir))
        while not stop and (event := next(events, None)) is not None:
            state, record, before = event.state, _results.lists(event.record), done
            done, inside = _steps_done(state), 0 if event.metrics is not None else event.step
            pace.tick(done - before)
            broken = core.broken(state, event.record)
            idle = idle + done - before if max(record.get("skipped", [0])) == done - before else 0
            if broken.any() or idle >= _nonfinite.MOST_SKIPPED:
                restored = newest(state)
                state = core.start(learner, seeds) if restored is None else restored.state
                found = core.locate(learner, data, state, done)
                attempts += 1
                if nonfinite != "rollback" or attempts > _nonfinite.MOST_ROLLBACKS:
                    raise _cli.Fault(_cli.BROKEN_NUMBERS, _nonfinite.told(found, seeds, nonfinite, _steps_done(state)))
                fresh = _outcome.begun(history["baseline"], stamp)
                undone = history | {key: fresh[key] for key in _outcome.BY_STEPS}
                history = undone if restored is None else restored.extra
                state = _nonfinite.in_another_order(state, broken, attempts)
                done, inside = _steps_done(state), core.position(learner, state)[1]
                bar.say(f"rolled back to step {done}: {_nonfinite.where(found, seeds)}")
                log.close()
                log = _progress.Log(workdir, done) if _hosts.is_first() else silent
                events = core.iterate(learner, data, state, chunk_steps=chunk_steps)
                continue
            history["skipped"] += int(np.sum(record.get("skipped", 0)))
            _outcome.add_online(history, record, done - before)
            if event.metrics is not None:
                history["rows"].append(_results.lists(event.metrics))
            history["seconds"] = time.monotonic() - began
            history["compile_seconds"] = _cost.compile_seconds() - compiling
            if tracer is not None:
                tracer.tick()
            norm = gradient_norm(state, data, np.int32(event.experience), np.int32(event.step))
            told = record | {"gradient_norm": np.asarray(norm, float).tolist()}
            log.train(done, event.experience, told, history["seconds"])
            if event.metrics is not None:
                log.eval(done, event.experience, history["rows"][-1])
            if every and inside % every == 0:
                tested = core.evaluate(learner, state, data, event.experience) if inside else event.metrics
                log.trace(done, event.experience, _results.lists(tested))
            bar.update(done, event.experience, record)
            due = event.metrics is not None or bool(save_steps and done % save_steps == 0)
            # Looked at once: a signal that comes after this line is seen after the next chunk.
            _, stop, late = _hosts.agreed(0, bool(received), time.monotonic() - saved >= save_seconds)
            if stop or due or late:
                log.flush()
                history["rollbacks"], attempts = history["rollbacks"] + attempts, 0
                checkpoints.save(done, state, history, _score(learner, data, event))
                saved = time.monotonic()
                if done < total and _hosts.is_first():
                    _workdir.write(workdir / "result.json", _outcome.result(config, learner, seeds, history, done))
    # Only now is everything on the disk, and a run may be called finished.
    result = _outcome.result(config, learner, seeds, history, done)
    if result["finished"]:
        result |= _cost.of_run(learner)
    if _hosts.is_first():
        with _workdir.on_disk(workdir):
            _workdir.write(workdir / "result.json", result)
    if result["finished"]:
        bar.say(f"done in {history['seconds']:.1f} s, {_results.final(result)}")
    else:
        bar.say(f"stopped at step {done} of {total}, the same command goes on from there")
    return result


def load(workdir: str | Path, seed: int | None = None) -> tuple[core.Learner, core.TrainState]:
    """A learner and what it has learned, from the folder of its run.

    Args:
      workdir: the folder, of a finished run or an interrupted one.
      seed: of the run; its first one by default.

    Returns:
      The learner, and its state of that seed: `core.predictor(*load(workdir))` is a function of inputs.

    Raises:
      ConfigError: a folder without a run or without a whole checkpoint, a seed that the run does not have, or data that
        is not there.
    """
    workdir = Path(workdir)
    try:
        claim = json.loads((workdir / "config.json").read_text())
        config, seeds = ml_collections.ConfigDict(claim["config"]), claim["seeds"]
        if not seeds or not all(type(seed) is int and 0 <= seed < 2**33 for seed in seeds):
            raise ValueError(f"its seeds are {seeds!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _build.ConfigError(f"{workdir} holds no run ({error}): give the --workdir of one.") from error
    if seed is not None and seed not in seeds:
        raise _build.ConfigError(f"{workdir} holds a run of the seeds {seeds}, got {seed}.")
    if not (workdir / "checkpoints").is_dir():
        raise _build.ConfigError(f"{workdir} holds no checkpoint yet: let its run save one.")
    learner = _build.build(config)
    checkpoints = _build.refused(str(workdir), core.open_checkpoints, workdir / "checkpoints")
    try:
        like = _build.refused(str(workdir), core.start, learner, seeds)
        restored = _build.refused(str(workdir), checkpoints.restore, like)
    finally:
        checkpoints.close()
    if restored is None:
        raise _build.ConfigError(f"{workdir} holds no checkpoint yet: let its run save one.")
    place = 0 if seed is None else seeds.index(seed)
    return learner, jax.tree.map(lambda x: x[place], restored.state)


def define_flags() -> None:
    """The flags of the binary; not when it is imported, as flags of all binaries share their names."""
    _cli.define_config()
    flags.DEFINE_string("workdir", None, "Folder of the run; made where it is missing, resumed where it exists.")
    flags.DEFINE_integer("seeds", 1, "How many seeds to run, from config.seed on.", lower_bound=1)
    flags.DEFINE_float("save_seconds", 60.0, "Most seconds between two checkpoints.", lower_bound=0.0)
    flags.DEFINE_integer("save_steps", None, "Also a checkpoint after every so many steps.", lower_bound=1)
    flags.DEFINE_enum(
        "nonfinite",
        "stop",
        ("stop", "skip", "rollback"),
        "What becomes of a loss or a state that is not finite: the run stops; or the step is left out; or the run goes "
        "back to its last checkpoint and on with the rows in another order.",
    )
    _hosts.define_flags()
    flags.DEFINE_multi_string(
        "sweep", [], "A key and its values, as in --sweep=ewc.lam=1,10,100; repeatable: every combination is run."
    )
    flags.DEFINE_bool("list", False, "Print what a config can name, and end.")
    flags.DEFINE_bool("dry_run", False, "Print what the run would be and cost, and end; needs no --workdir.")
    flags.DEFINE_bool("profile", False, "Write a trace of two chunks into WORKDIR/profile, for Perfetto, TensorBoard.")
    flags.DEFINE_bool("quiet", False, "One line when the run starts and one when it ends, no table.")


def main(argv: Sequence[str]) -> int:
    """The binary."""
    given = flags.FLAGS
    if len(argv) > 1:
        _cli.fail(f"unknown argument {argv[1]!r}: flags start with two dashes (see --help).")
    if given.list:
        print(_catalog.catalog())
        return 0
    if (given.dry_run or given.sweep) and (given.distributed or given.coordinator):
        _cli.fail("--sweep and --dry_run run in one process: leave out --distributed and --coordinator.")
    try:
        if given.config is not None and given.dry_run:
            print(_dry_run.describe(given.config, given.seeds))
            return 0
        if given.config is not None and given.workdir is not None and given.sweep:
            _cost.use_cache()
            print(_sweep.table(_sweep.run(given.config, given.workdir, given.seeds, given.sweep)))
            return 0
    except _build.ConfigError as error:
        _cli.fail(str(error))
    if given.config is None or given.workdir is None:
        _cli.fail(
            "--config=FILE and --workdir=DIR are needed, as in --config=configs/continual/er.py --workdir=runs/er."
        )
    _cost.use_cache()
    _hosts.connect(given)
    options = {name: given[name].value for name in ("save_seconds", "save_steps", "nonfinite", "quiet", "profile")}
    with _cli.signals() as received:
        try:
            options |= {"mesh": _hosts.mesh(given.devices), "rules": _hosts.rules(given.shard)}
            result = train(given.config, given.workdir, given.seeds, received=received, **options)
        except _build.ConfigError as error:
            _cli.fail(str(error))
        except _cli.Fault as error:
            _cli.fail(str(error), error.code)
    if not given.quiet and _hosts.is_first():
        print(_results.summary_table([result]))
    # A process that was not asked stops because another one was.
    return 0 if result["finished"] else 128 + (received or [signal.SIGTERM])[0]


def _score(learner: core.Learner, data: core.Data, event: core.Event) -> float | None:
    """Of a checkpoint, by which the best is kept: the mean metric on rows held out, at the end of an experience."""
    if event.metrics is None or "valid" not in data.experiences:
        return None
    found = _results.lists(core.evaluate(learner, event.state, data, event.experience, split="valid"))
    return float(np.mean(next(iter(found.values()))))


def _steps_done(state: core.TrainState) -> int:
    return int(np.ravel(np.asarray(state.step))[0])


if __name__ == "__main__":
    define_flags()
    _cli.run(main)
