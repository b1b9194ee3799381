"""What leaves a run answers as the learner does in it."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import continual, core, models, peft, streams, testing
from tests.short import short_learner


def images(heads):
    """A stream of uint8 images with a mean and std, and three experiences of two classes."""
    rng = np.random.default_rng(0)
    raw, labels = rng.integers(0, 256, (90, 4, 4), np.uint8), np.arange(90) % 6
    source = streams.arrays(raw, labels, raw, labels, mean=0.4, std=0.3)
    build = streams.task_incremental if heads == "task" else streams.class_incremental
    options = {"heads": "seen"} if heads == "seen" else {}
    return build(source, 3, **options)


def trained(method, stream, experiences=2, model=None):
    learner = short_learner(method, stream=stream, steps=3, model=model or core.from_linen(models.MLP(6, hidden=(8,))))
    data, state = core.to_device(stream), core.start(learner)
    for t in range(experiences):
        state = core.run_experience(learner, state, data, t)
    return learner, data, state


def accuracy(predict, stream, t, task):
    rows = stream.experiences["test"].rows[t, : stream.experiences["test"].size[t]]
    answers = predict(stream.source.test["inputs"][rows], *((np.full(len(rows), t, np.int32),) if task else ()))
    return np.mean(np.argmax(answers.logits, -1) == stream.source.test["labels"][rows])


@pytest.mark.parametrize("heads", ["all", "seen", "task"])
def test_a_predictor_scores_what_the_evaluation_scores_and_an_exported_program_answers_the_same(heads, tmp_path):
    stream = images(heads)
    learner, data, state = trained(continual.nmc() if heads == "seen" else continual.ewc(1.0), stream)
    expected = core.evaluate(learner, state, data, 1)["accuracy"]
    predict = core.predictor(learner, state)
    core.export_program(tmp_path / "program", learner, state)
    program = core.load_program(tmp_path / "program")
    for t in range(3):
        for answer in (predict, program):
            np.testing.assert_allclose(accuracy(answer, stream, t, heads == "task"), expected[t], atol=1e-6)
    some = stream.source.test["inputs"][:7]
    task = () if heads != "task" else (np.ones(7, np.int32),)
    np.testing.assert_allclose(predict(some, *task).logits, program(some, *task).logits, rtol=1e-5, atol=1e-5)
    assert program(some, *task).features.shape == (7, 8)


def test_heads_rule_out_logits_of_classes_and_no_answers_of_another_kind():
    model = core.from_linen(models.TwoTower(6, hidden=(8,)))
    learner, _, state = trained(continual.ctp(queue=8), images("task"), experiences=0, model=model)
    raw = learner.stream.source.test["inputs"][:2]
    expected = model.apply(core.Variables(state.params, {}), jnp.asarray((raw / 255 - 0.4) / 0.3, jnp.float32))[0]
    np.testing.assert_allclose(core.predictor(learner, state)(raw, 0).logits, expected.logits, rtol=1e-5, atol=1e-6)


def test_an_exported_program_runs_without_this_library(tmp_path):
    stream = images("all")
    learner, _, state = trained(continual.er(20), stream)
    core.export_program(tmp_path / "program", learner, state, batch_size=5)
    inputs = stream.source.test["inputs"][:5]
    np.save(tmp_path / "inputs.npy", inputs)
    code = """
        import sys, jax, numpy as np
        program = jax.export.deserialize(bytearray(open(sys.argv[1] + "/program", "rb").read()))
        np.save(sys.argv[1] + "/logits.npy", program.call(np.load(sys.argv[1] + "/inputs.npy"))[0])
        assert "ctrain_jax" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], check=True, cwd=tmp_path)
    logits = core.predictor(learner, state)(inputs).logits
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), logits, rtol=1e-5, atol=1e-5)
    assert (tmp_path / "program").stat().st_size < 30_000, "the data of the stream stays out of the program"


@pytest.mark.parametrize("transform", [None, peft.lora(2)])
def test_tensors_come_back_bit_for_bit_and_start_a_run(transform, tmp_path):
    model = testing.standard_model() if transform is None else transform(core.from_linen(models.MLP(6, hidden=(8,))))
    learner, _, state = trained(core.identity(), testing.standard_stream(), model=model)
    core.save_tensors(tmp_path / "tensors", state)
    back = core.load_tensors(tmp_path / "tensors")
    kept = core.Variables(state.params, state.model_state, state.frozen)
    assert jax.tree.structure(back) == jax.tree.structure(kept)
    jax.tree.map(np.testing.assert_array_equal, back, kept)
    started = core.start(learner, variables=back)
    jax.tree.map(np.testing.assert_array_equal, started.params, kept.params)


def test_a_transposed_array_comes_back_as_it_was(tmp_path):
    kernel, scalar = np.arange(6.0, dtype=np.float32).reshape(2, 3).T, np.float32(3)
    core.save_tensors(tmp_path / "tensors", core.Variables({"kernel": kernel, "scalar": scalar}))
    back = core.load_tensors(tmp_path / "tensors").params
    np.testing.assert_array_equal(back["kernel"], kernel)
    assert back["scalar"].shape == ()


def test_what_is_refused(tmp_path):
    learner, data, state = trained(core.identity(), images("task"))
    predict, plain = core.predictor(learner, state), core.predictor(*trained(core.identity(), images("all"))[::2])
    inputs = learner.stream.source.test["inputs"][:2]
    several = core.start(learner, range(2))
    (tmp_path / "text").write_text("{}")
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(2)}, tmp_path / "foreign")
    for call, match in (
        (lambda: predict(inputs), "asks with the task of a row: pass task, 0 to 2"),
        (lambda: predict(inputs, 3), "task expects numbers of experiences, 0 to 2, got 3 to 3"),
        (lambda: plain(inputs, 0), "asks without the task of a row: leave task out"),
        (lambda: core.predictor(learner, several), "expected the state of one seed, got 2 of them"),
        (lambda: core.save_tensors(tmp_path / "x", several), "expected the state of one seed"),
        (lambda: core.save_tensors(tmp_path / "x", core.Variables([jnp.ones(2)])), r"got \['params'\]\[0\]"),
        (lambda: core.load_program(tmp_path / "text"), "holds no program of jax.export"),
        (lambda: core.load_tensors(tmp_path / "text"), "is damaged or no safetensors file"),
        (lambda: core.load_tensors(tmp_path / "foreign"), "was not written by save_tensors"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_between_experiences_the_last_one_learned_counts():
    stream = images("seen")
    for over in (1, 2):
        learner, _, state = trained(core.identity(), stream, experiences=over)
        logits = core.predictor(learner, state)(stream.source.test["inputs"][:4]).logits
        np.testing.assert_array_equal((logits > -1e30).sum(-1), 2 * over)
