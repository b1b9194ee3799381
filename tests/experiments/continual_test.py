"""A run that was interrupted, killed or damaged ends in the bits of one that was not, and writes down the same."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.continual import er
from ctrain_jax import core
from experiments import _build, _progress, _provenance, _results, continual

ROOT = Path(__file__).parents[2]
OVERRIDES = {"scenario.num_experiences": 2, "epochs": 80, "model.hidden": (128,)}
# The binary, with chunks short enough that a signal finds the run in the middle of an experience.
BINARY = """
from experiments import _cli, continual

continual._CHUNK_SECONDS = 0.05
continual.define_flags()
_cli.run(continual.main)
"""


class Ended(NamedTuple):
    """What a process left behind."""

    code: int
    out: str
    err: str


class Story(NamedTuple):
    """Runs of one config: one from end to end, one that was stopped and killed, one that was damaged after that."""

    folder: Path
    ends: dict[str, Ended]
    stopped: dict[str, Any]  # result.json after SIGTERM
    killed: list[int]  # steps of the checkpoints after kill -9


def launch(folder, workdir, *arguments):
    flags = [f"--config.{key}={value}" for key, value in OVERRIDES.items()]
    command = [sys.executable, "-c", BINARY, "--config=configs/continual/er.py:runlocal", *flags]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    with open(folder / "out", "w") as out, open(folder / "err", "w") as err:
        arguments = [*command, f"--workdir={folder / workdir}", *arguments]
        return subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=out, stderr=err)


def finish(folder, process):
    code = process.wait()
    return Ended(code, (folder / "out").read_text(), (folder / "err").read_text())


def wait_until(holds, folder, process):
    while not holds():
        assert process.poll() is None, (folder / "err").read_text()
        time.sleep(0.02)


def lines(workdir):
    file = workdir / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]] if file.exists() else []


def steps(workdir):
    """Of the checkpoints, oldest first."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def result(workdir):
    return json.loads((workdir / "result.json").read_text())


def flip(folder):
    """One bit of the largest file."""
    file = max((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    folder = tmp_path_factory.mktemp("story")
    ends = {"whole": finish(folder, launch(folder, "whole", "--quiet"))}
    process = launch(folder, "run")
    wait_until(lambda: lines(folder / "run"), folder, process)
    process.send_signal(signal.SIGTERM)
    ends["stopped"] = finish(folder, process)
    stopped = result(folder / "run")
    process = launch(folder, "run", "--save_seconds=0")
    total = ends["whole"].out.split()[1]
    wait_until(lambda: steps(folder / "run")[-1] > int(total) // 2, folder, process)
    process.kill()
    ends["killed"] = finish(folder, process)
    shutil.copytree(folder / "run", folder / "damaged")
    killed = steps(folder / "run")
    flip(folder / "damaged" / "checkpoints" / str(killed[-1]))
    for workdir in ("run", "damaged"):
        ends[workdir] = finish(folder, launch(folder, workdir))
    return Story(folder, ends, stopped, killed)


def full_config():
    config = er.get_config("runlocal")
    for key, value in OVERRIDES.items():
        config.update_from_flattened_dict({key: value})
    return config


def final_state(workdir, config):
    """The leaves of the last checkpoint."""
    learner = _build.build(config)
    target = jax.eval_shape(jax.vmap(lambda key: learner.init(key)), jnp.stack([jax.random.key(0)]))
    checkpoints = core.open_checkpoints(workdir / "checkpoints")
    restored = checkpoints.restore(target)
    checkpoints.close()
    assert restored is not None and restored.step == sum(learner.spec.steps)
    return [np.asarray(jax.random.key_data(x) if x.dtype == jax.random.key(0).dtype else x)
            for x in jax.tree.leaves(restored.state)]  # fmt: skip


def same_bits(some, others):
    assert len(some) == len(others) > 10
    for one, other in zip(some, others, strict=True):
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes()


def untimed(content):
    of_the_process = ("seconds", "steps_per_second", "examples_per_second", "compile_seconds", "peak_bytes")
    return {k: v for k, v in content.items() if k not in (*of_the_process, "command", "commit")}


def test_a_quiet_run_says_two_lines(story):
    whole = story.ends["whole"]
    total = result(story.folder / "whole")["steps"]
    first, last, rest = whole.out.split("\n")
    assert (whole.code, whole.err, rest) == (0, "", "")
    assert first == f"er: {total} steps, 1 seed, in {story.folder / 'whole'}"
    final = 100 * np.mean(result(story.folder / "whole")["matrices"][0][-1])
    assert last == f"er: done in {result(story.folder / 'whole')['seconds']:.1f} s, final accuracy {final:.1f}"


def test_a_signal_saves_in_the_middle_of_an_experience(story):
    ended, total = story.ends["stopped"], result(story.folder / "whole")["steps"]
    step = story.stopped["steps"]
    assert (ended.code, ended.err) == (143, "SIGTERM: saving, a second one ends at once\n")
    assert f"er: stopped at step {step} of {total}, the same command goes on from there\n" in ended.out
    assert 0 < step < total and step != total // 2 and not story.stopped["finished"]
    assert story.ends["killed"].out.startswith(f"er: resumed at step {step} of {total}, 1 seed, in ")


def test_a_killed_run_goes_on_from_its_last_chunk(story):
    total = result(story.folder / "whole")["steps"]
    assert story.ends["killed"].code == -signal.SIGKILL
    assert story.ends["run"].out.startswith(f"er: resumed at step {story.killed[-1]} of {total}, ")
    assert (story.ends["run"].code, story.ends["run"].err) == (0, "")
    assert total // 2 < story.killed[-1] < total


def test_a_flipped_bit_is_named_and_the_checkpoint_before_is_used(story):
    ended, (before, newest) = story.ends["damaged"], story.killed[-2:]
    total = result(story.folder / "whole")["steps"]
    assert ended.code == 0
    assert ended.err.startswith(
        f"WARNING: checkpoint {newest} in {story.folder / 'damaged' / 'checkpoints'} is damaged"
    )
    assert ended.err.endswith("does not match its checksum\n") and ended.err.count("\n") == 1
    assert ended.out.startswith(f"er: resumed at step {before} of {total}, ")


@pytest.mark.parametrize("workdir", ["run", "damaged"])
def test_the_end_is_the_same_to_the_bit(story, workdir):
    config = full_config()
    same_bits(final_state(story.folder / "whole", config), final_state(story.folder / workdir, config))
    assert untimed(result(story.folder / workdir)) == untimed(result(story.folder / "whole"))


@pytest.mark.parametrize("workdir", ["run", "damaged"])
def test_every_step_is_told_once(story, workdir):
    told = lines(story.folder / workdir)
    places = [(line["step"], line["kind"]) for line in told]
    assert len(set(places)) == len(places) and [step for step, _ in places] == sorted(step for step, _ in places)
    seconds = [line["seconds"] for line in told if line["kind"] == "train"]
    assert seconds == sorted(seconds) and result(story.folder / workdir)["seconds"] >= seconds[-1]
    whole = [line for line in lines(story.folder / "whole") if line["kind"] == "eval"]
    assert [line for line in told if line["kind"] == "eval"] == whole


@pytest.mark.parametrize("workdir", ["whole", "run", "damaged"])
def test_tensorboard_shows_what_metrics_jsonl_says(story, workdir):
    expected = {}
    for line in lines(story.folder / workdir):
        if line["kind"] == "train":
            expected |= {
                (f"train/{name}", line["step"]): np.mean(line[name]) for name in ("loss", "accuracy", "gradient_norm")
            }
        else:
            values = np.mean(line["accuracy"], axis=0)
            expected |= {(f"test/accuracy/experience_{j}", line["step"]): v for j, v in enumerate(values)}
    shown = events(story.folder / workdir / "tensorboard")
    assert shown.keys() == expected.keys()
    np.testing.assert_allclose([shown[k] for k in expected], list(expected.values()), rtol=1e-6)


def events(folder):
    """Scalars by (tag, step), as TensorBoard shows them: a session drops what the ones before said from its step on."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    shown = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            if event.session_log.status == SessionLog.START:
                shown = {key: value for key, value in shown.items() if key[1] < event.step}
            for value in event.summary.value:
                shown[value.tag, event.step] = value.simple_value
    return shown


def test_a_finished_run_is_only_told_again(story, capsys):
    before = {path: path.read_bytes() for path in (story.folder / "run").rglob("*") if path.is_file()}
    told = continual.train(full_config(), story.folder / "run")
    assert told == result(story.folder / "run")
    final = _results.score_text(_results.scores(told)["final_accuracy"])
    assert capsys.readouterr().out == f"er: finished before, final accuracy {final}\n"
    assert {path: path.read_bytes() for path in (story.folder / "run").rglob("*") if path.is_file()} == before


def test_the_report_reads_the_result(story):
    run = _results.load_run(story.folder / "run")
    assert _results.done(run) == 2 and run["skipped_lines"] == 0 and len(run["eval"]) == 2
    assert run["commit"] == _provenance.commit() or run["commit"].endswith("-dirty")
    assert run["config"] == json.loads((story.folder / "run" / "config.json").read_text())["config"]
    assert run["stream"] == "class_incremental(digits, 2)" and run["versions"]["jax"] == jax.__version__
    assert {"run", "whole", "damaged"} == {path.name for path in _results.find_runs(story.folder)}


class Countdown(list):
    """Signals: none at the first looks, one from then on."""

    def __init__(self, looks):
        super().__init__([signal.SIGINT])
        self.looks = looks

    def __bool__(self):
        self.looks -= 1
        return self.looks < 0


@pytest.fixture(scope="module")
def made():
    """A small config and its learner, whose programs are compiled once."""
    config = er.get_config("runlocal")
    config.scenario.num_experiences, config.steps, config.model.hidden, config.er.size = 2, 4, (16,), 20
    return config, _build.build(config)


@pytest.fixture
def config(made, monkeypatch):
    """The small config; its experiences of 4 steps have chunks of 3 and 1."""
    monkeypatch.setattr(_build, "build", lambda config, **options: made[1])
    monkeypatch.setattr(_progress.Pace, "steps", lambda self: 3)
    return made[0].copy_and_resolve_references()


def test_a_stop_at_any_boundary_changes_nothing(config, tmp_path):
    whole = continual.train(config, tmp_path / "whole", 2)
    run = tmp_path / "run"
    stops = [continual.train(config, run, 2, received=Countdown(looks))["steps"] for looks in (0, 1, 1, 0, 1, 1)]
    assert whole["finished"] and stops == [0, 3, 4, 4, 7, 8]
    assert untimed(result(tmp_path / "run")) == untimed(whole)
    assert [line["step"] for line in lines(tmp_path / "run")] == [3, 4, 4, 7, 8, 8]
    same_bits(*(leaves(tmp_path / name, config) for name in ("whole", "run")))


def traces(workdir):
    return [line for line in lines(workdir) if line["kind"] == "trace"]


def test_a_trace_is_that_of_the_compiled_loop_and_changes_no_bit(config, tmp_path, monkeypatch):
    whole = continual.train(config, tmp_path / "whole", 2)
    config.trace_every = 2
    evaluate, asked = core.evaluate, []
    monkeypatch.setattr(core, "evaluate", lambda *args: asked.append(args[3]) or evaluate(*args))
    traced = continual.train(config, tmp_path / "traced", 2)
    # Untrained, and once within each experience, as a learner of that one; ends are tested anyway.
    assert asked == [0, 0, 1]
    same_bits(*(leaves(tmp_path / name, config) for name in ("whole", "traced")))
    assert traced["matrices"] == whole["matrices"] and not traces(tmp_path / "whole")
    told = traces(tmp_path / "traced")
    assert [(line["step"], line["experience"]) for line in told] == [(2, 0), (4, 0), (6, 1), (8, 1)]
    # There a test at the end of an experience comes before `end`, in which er has nothing to do.
    _, other = core.trace_stream(_build.build(config), [0, 1], every=2, rows=10_000)
    np.testing.assert_allclose(np.stack([line["accuracy"] for line in told], 1), other.accuracy, atol=1e-6)
    shown = {key: value for key, value in events(tmp_path / "traced" / "tensorboard").items() if "trace" in key[0]}
    assert shown == {
        (f"trace/accuracy/experience_{j}", line["step"]): pytest.approx(np.mean(line["accuracy"], 0)[j])
        for line in told
        for j in range(2)
    }


def test_a_trace_goes_on_where_its_run_was_stopped(config, tmp_path, monkeypatch):
    config.trace_every = 3
    continual.train(config, tmp_path / "whole", 2)
    expected = [3, 4, 7, 8]
    assert [line["step"] for line in traces(tmp_path / "whole")] == expected
    # A signal finds the second run two steps after a test and one before the next.
    run = tmp_path / "run"
    lengths = iter([2, 3, 3, 3, 3, 3])
    monkeypatch.setattr(_progress.Pace, "steps", lambda self: next(lengths))
    stops = [continual.train(config, run, 2, received=Countdown(looks))["steps"] for looks in (1, 1, 0, 2, 1, 1)]
    assert stops == [2, 3, 3, 7, 8, 8]
    assert traces(run) == traces(tmp_path / "whole")
    same_bits(*(leaves(tmp_path / name, config) for name in ("whole", "run")))


def test_the_commit_of_the_checkout(tmp_path, monkeypatch):
    def git(*arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    def commit():
        _provenance.commit.cache_clear()
        return _provenance.commit()

    file = tmp_path / "experiments" / "continual.py"
    file.parent.mkdir()
    file.write_text("1")
    monkeypatch.setattr(_provenance, "__file__", str(file))
    assert commit() is None
    git("init", "--quiet")
    assert commit() is None
    git("add", ".")
    git("commit", "--quiet", "--message=first")
    head = git("rev-parse", "HEAD")
    (tmp_path / "untracked").touch()
    assert commit() == head and len(head) == 40
    file.write_text("2")
    assert commit() == f"{head}-dirty"
    monkeypatch.setenv("PATH", "")
    assert commit() is None
    monkeypatch.undo()
    # Installed in the folder of an environment that lies in somebody's checkout.
    monkeypatch.setattr(_provenance, "__file__", str(tmp_path / "environment" / "experiments" / "continual.py"))
    (tmp_path / "environment").mkdir()
    assert commit() is None
    _provenance.commit.cache_clear()


def test_a_run_is_loaded_and_predicts_what_its_result_says(config, tmp_path):
    run = continual.train(config, tmp_path, 2)
    for seed, matrix in zip([None, 1], run["matrices"], strict=True):
        learner, state = continual.load(tmp_path, seed)
        test = learner.stream.source.test
        answers = core.predictor(learner, state)(test["inputs"]).logits.argmax(-1)
        for t, accuracy in enumerate(matrix[-1]):
            rows = np.isin(test["labels"], np.flatnonzero(learner.stream.experiences["test"].classes[t]))
            np.testing.assert_allclose(np.mean((answers == test["labels"])[rows]), accuracy, atol=1e-6)


def test_what_cannot_be_loaded_is_one_sentence(config, tmp_path):
    continual.train(config, tmp_path / "run")
    with pytest.raises(_build.ConfigError, match=r"holds a run of the seeds \[0\], got 3"):
        continual.load(tmp_path / "run", 3)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(_build.ConfigError, match="holds no checkpoint yet: let its run save one"):
        continual.load(tmp_path / "run")
    with pytest.raises(_build.ConfigError, match="holds no run .*: give the --workdir of one"):
        continual.load(tmp_path)


def leaves(workdir, config):
    checkpoints = core.open_checkpoints(workdir / "checkpoints")
    restored = checkpoints.restore(core.start(_build.build(config), [0, 1]))
    checkpoints.close()
    assert restored is not None and restored.step == 8
    raw = restored.state._replace(rng=jax.random.key_data(restored.state.rng))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(raw)]


def test_a_signal_in_the_last_chunk_comes_too_late(config, tmp_path):
    assert continual.train(config, tmp_path, received=Countdown(4))["finished"]


def test_checkpoints_come_by_the_clock_and_at_the_end_of_experiences(config, tmp_path):
    def saved(**options):
        continual.train(config, tmp_path / str(options), **options)
        return steps(tmp_path / str(options))

    assert saved(save_seconds=0) == [4, 7, 8]
    assert saved(save_seconds=1e6) == [4, 8]


def test_a_run_with_a_checkpoint_but_no_result_makes_it_again(config, tmp_path):
    whole = continual.train(config, tmp_path)
    (tmp_path / "result.json").write_text('{"finished": tr')
    assert untimed(continual.train(config, tmp_path)) == untimed(whole) == untimed(result(tmp_path))


def test_other_versions_are_told_and_not_refused(config, tmp_path, caplog):
    continual.train(config, tmp_path, received=Countdown(1))
    claim = json.loads((tmp_path / "config.json").read_text())
    claim["versions"] |= {"jax": "0.0.1"}
    (tmp_path / "config.json").write_text(json.dumps(claim))
    assert continual.train(config, tmp_path)["finished"]
    assert caplog.messages == [
        f"{tmp_path} began with other versions (jax 0.0.1 -> {jax.__version__}): its bits may differ from here on"
    ]


def test_when_every_checkpoint_is_damaged_one_sentence_says_so(config, tmp_path, caplog):
    continual.train(config, tmp_path, save_seconds=0, received=Countdown(2))
    files = {step: flip(tmp_path / "checkpoints" / step) for step in ("3", "4")}
    names = {step: file.relative_to(tmp_path / "checkpoints" / step) for step, file in files.items()}
    with pytest.raises(_build.ConfigError) as error:
        continual.train(config, tmp_path)
    assert str(error.value) == (
        f"--workdir: No checkpoint in {tmp_path / 'checkpoints'} is whole (step 4: {names['4']} does not match its "
        f"checksum; step 3: {names['3']} does not match its checksum): start in another directory."
    )
    assert caplog.messages == []


def test_checkpoints_of_changed_code_are_one_sentence(config, made, tmp_path, monkeypatch):
    continual.train(config, tmp_path, received=Countdown(1))
    other = made[1]._replace(init=lambda *args: made[1].init(*args)._replace(model_state={"new": jnp.zeros(2)}))
    monkeypatch.setattr(_build, "build", lambda config, **options: other)
    with pytest.raises(_build.ConfigError, match="does not fit the learner .model_state.new is missing in the checkp"):
        continual.train(config, tmp_path)


def test_one_process_after_the_other_in_a_terminal_tells_the_table_once(config, tmp_path, capsys):
    told = continual.train(config, tmp_path, 2, received=Countdown(1))
    assert capsys.readouterr().out == (
        f"er: 8 steps, 2 seeds, in {tmp_path}\ner: stopped at step 3 of 8, the same command goes on from there\n"
    )
    assert told["matrices"] == [[None, None]] * 2 and told["seeds"] == [0, 1]


def test_the_best_by_rows_held_out_stays_on_the_disk(tmp_path, monkeypatch):
    config = er.get_config("runlocal")
    config.steps, config.scenario.num_experiences, config.scenario.valid_fraction, config.model.hidden = 4, 2, 0.2, (4,)
    scored, evaluate = [], core.evaluate

    def worse_and_worse(learner, state, data, t, **options):
        found = evaluate(learner, state, data, t, **options)
        if options.get("split") == "valid":
            scored.append(int(state.step[0]))
            return jax.tree.map(lambda x: jnp.full_like(x, 1 / scored[-1]), found)
        return found

    monkeypatch.setattr(core, "evaluate", worse_and_worse)
    monkeypatch.setattr(continual, "_CHUNK_SECONDS", 0.0)
    assert continual.train(config, tmp_path, quiet=True, save_steps=1)["finished"]
    assert scored == [4, 8] and steps(tmp_path) == [4, 6, 7, 8]
    learner = _build.build(config)
    checkpoints = core.open_checkpoints(tmp_path / "checkpoints")
    try:
        assert checkpoints.restore_best(core.start(learner, [0])).step == 4
    finally:
        checkpoints.close()
