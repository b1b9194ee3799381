"""What make_learner refuses, before anything is traced."""

import jax
import optax
import pytest

from ctrain_jax import continual, core, models, streams, testing


def make(**changes):
    options = {
        "model": testing.standard_model(),
        "method": core.identity(),
        "optimizer": optax.sgd(0.1),
        "stream": testing.standard_stream(),
        "batch_size": 8,
    } | changes
    return core.make_learner(
        options.pop("model"), options.pop("method"), options.pop("optimizer"), options.pop("stream"), **options
    )


def featureless():
    def init(rng, inputs):
        return core.Variables({"w": jax.numpy.zeros((12, 6))})

    return core.Model(init, lambda v, x, **options: (core.Outputs(x @ v.params["w"]), ()))


def one_device():
    return jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))


WRONG = [
    ({"batch_size": 0}, ValueError, "batch_size expects a whole number of at least 1, got 0"),
    ({"epochs": -1}, ValueError, "epochs expects a whole number of at least 1, got -1"),
    ({"steps": 0}, ValueError, "steps expects a whole number of at least 1, got 0"),
    ({"batch_size": 2.5}, ValueError, "got 2.5"),
    ({"model": models.MLP(6)}, TypeError, "expects a Model, got MLP: wrap a flax module with core.from_linen"),
    ({"stream": streams.digits}, TypeError, "expects a Stream, got function: build one with streams.class_incremental"),
    ({"method": continual.er}, TypeError, "call the factory"),
    (
        {"model": core.from_linen(models.MLP(5, hidden=(4,)))},
        ValueError,
        "The model answers 5 classes and the stream has 6: give the model num_classes=6",
    ),
    ({"model": featureless(), "method": continual.nmc()}, ValueError, "nmc needs features, which the model does not"),
    (
        {"method": core.Method("expert", needs=("task",))},
        ValueError,
        "expert needs the task of a row when predicting, which standard does not give",
    ),
    (
        {"method": core.Method("oracle", needs=("future",))},
        ValueError,
        "oracle needs future: choose from task, boundaries",
    ),
    ({"mesh": one_device()}, ValueError, "The mesh expects an axis named 'data', got .'rows',."),
]


@pytest.mark.parametrize("changes, error, sentence", WRONG, ids=[str(k) for k in range(len(WRONG))])
def test_a_wrong_use_is_one_sentence(changes, error, sentence):
    with pytest.raises(error, match=sentence):
        make(**changes)


def test_a_loss_that_is_no_value_for_each_row_is_refused():
    problem = core.Problem(lambda outputs, batch: outputs.logits.mean(), core.classification().metrics)
    learner = make(problem=problem)
    with pytest.raises(
        ValueError, match="problem.loss returns a value for each row, expected shape .8,., got ..: leave"
    ):
        core.run_stream(learner, 0)


def test_the_spec_is_complete_before_anything_is_traced():
    spec = make(epochs=3).spec
    assert (spec.num_experiences, spec.num_classes, spec.max_rows, spec.batch_size) == (3, 6, 66, 8)
    assert spec.steps == (21, 15, 27)
    assert (spec.labels, spec.task_known, spec.heads) == (True, False, "all")
    assert spec.batch["inputs"].shape == (8, 12) and spec.outputs.features.shape == (8, 16)
    assert set(spec.record) == {"row", "experience"}
    assert make(steps=4).spec.steps == (4, 4, 4)
