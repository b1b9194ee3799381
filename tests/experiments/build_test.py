"""What a config says reaches the factory that it names; what it cannot say is in cli_test.py."""

import jax
import numpy as np
import optax
import pytest

from configs.continual import er, ewc
from ctrain_jax import continual, core, models, streams
from experiments import _build


@pytest.mark.parametrize(
    ("package", "names"),
    [
        (_build.OPTIMIZERS, vars(_build.OPTIMIZERS)),
        (streams, (*_build.SCENARIOS, *_build.SOURCES)),
        (models, _build.MODELS),
        (continual, continual.__all__),
    ],
    ids=["optimizers", "streams", "models", "methods"],
)
def test_every_name_is_there(package, names):
    assert all(callable(getattr(package, name)) for name in names)


def test_every_key_of_a_config_is_known():
    assert set(er.get_config()) == {*_build.TOP, "er"}


def test_values_reach_their_factories():
    config = er.get_config("runlocal")
    config.batch_size, config.epochs = 7, 3
    config.scenario.num_experiences, config.scenario.class_order = 2, list(range(9, -1, -1))
    config.model.hidden = [5, 4]
    config.er.size = 13
    learner = _build.build(config)
    assert learner.spec.batch_size == 7 and learner.spec.num_experiences == 2
    sizes = learner.stream.experiences["train"].size
    assert learner.spec.steps == tuple(-(-int(size) // 7) * 3 for size in sizes)
    assert np.flatnonzero(learner.stream.experiences["train"].classes[0]).tolist() == [5, 6, 7, 8, 9]
    state = jax.eval_shape(learner.init, jax.random.key(0))
    assert sorted(leaf.shape for leaf in jax.tree.leaves(state.params)) == [(4,), (4, 10), (5,), (5, 4), (10,), (64, 5)]
    assert {leaf.shape[0] for leaf in jax.tree.leaves(state.method_state["er"]) if leaf.ndim} == {13}


def test_optimizers_are_those_of_optax_and_ours(monkeypatch):
    made = []
    monkeypatch.setattr(core, "make_learner", lambda model, method, tx, *rest, **options: made.append(tx))
    config = er.get_config("runlocal")
    for name in ("adam", "diffgrad"):
        config.optimizer = {"name": name, "learning_rate": 0.5}
        _build.build(config)
    states = [tx.init(np.ones(2, np.float32)) for tx in made]
    assert isinstance(states[0][0], optax.ScaleByAdamState) and states[1][0].previous.shape == (2,)
    updates = [tx.update(np.ones(2, np.float32), state)[0] for tx, state in zip(made, states, strict=True)]
    np.testing.assert_allclose(updates[1] / updates[0], 1 / (1 + np.exp(-1.0)), rtol=1e-6)


def test_methods_are_chained_in_their_order(monkeypatch):
    chain, names = core.chain, []
    monkeypatch.setattr(core, "chain", lambda *parts: names.extend(part.name for part in parts) or chain(*parts))
    config = er.get_config("runlocal")
    config.methods = ("ewc", "er")
    config.ewc = {"lam": 1.0}
    learner = _build.build(config)
    assert names == ["ewc", "er"]
    assert set(jax.eval_shape(learner.init, jax.random.key(0)).method_state) == {"ewc", "er"}


@pytest.mark.parametrize(
    ("arrival", "experiences", "tests"), [("joint", 1, 5), ("cumulative", 5, 5), ("power_law", 5, 5)]
)
def test_arrivals(arrival, experiences, tests):
    config = er.get_config("runlocal")
    config.arrival = arrival
    learner = _build.build(config)
    assert learner.spec.num_experiences == experiences and len(learner.stream.experiences["test"].size) == tests


def test_what_arrives_again_has_a_section():
    config = er.get_config("runlocal")
    config.power_law = {"fraction": 0.5}
    with pytest.raises(_build.ConfigError, match="config.power_law has no effect: set config.arrival to 'power_law'"):
        _build.build(config)
    config.arrival = "power_law"
    sizes = _build.build(config).stream.experiences["train"].size
    assert sizes.tolist() == [288, 288 + 144, 291 + 146, 288 + 144, 282 + 141]


@pytest.mark.parametrize(
    ("scenario", "tests"),
    [
        ({"name": "few_shot_class_incremental", "num_experiences": 3, "base_classes": 6}, 3),
        ({"name": "generalized_class_incremental", "num_experiences": 3, "num_rows": 100}, 1),
        ({"name": "scole", "num_experiences": 3, "classes_per_experience": 4}, 1),
        ({"name": "si_blurry", "num_experiences": 3}, 1),
    ],
)
def test_scenarios_of_other_tests_are_built(scenario, tests):
    config = er.get_config("runlocal")
    config.scenario = scenario
    learner = _build.build(config)
    assert learner.spec.num_experiences == 3 and len(learner.stream.experiences["test"].size) == tests


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("methods", "er", "config.methods expects a tuple of names, got 'er': write ('er',)."),
        ("er", 5, "config.er expects keys, the arguments of er, got 5."),
        (
            "source",
            "digits",
            "config.source expects keys, one of them name: digits, fashion_mnist, hyperplane, sea, text, tfds.",
        ),
        ("epochs", None, "config expects a value for epochs: set config.epochs, as in configs/common.py."),
        ("trace_every", -1, "config.trace_every expects a number of steps, or 0 for no trace, got -1."),
        ("trace_every", 2.5, "config.trace_every expects a number of steps, or 0 for no trace, got 2.5."),
        ("er", None, "config.er expects keys, the arguments of er, got None."),
    ],
)
def test_what_a_config_file_can_do_wrong(key, value, sentence):
    config = er.get_config("runlocal")
    del config[key]
    if value is not None or key == "er":
        config[key] = value
    with pytest.raises(_build.ConfigError) as error:
        _build.build(config)
    assert str(error.value) == sentence


def test_the_words_of_a_factory_come_with_the_place_and_in_one_line():
    def factory(size):
        raise ValueError(f"size expects\n  at least 1, got {size}")

    with pytest.raises(_build.ConfigError, match="^config.er: size expects at least 1, got 0$"):
        _build.call(factory, "config.er", {"size": 0})


def test_variants_of_ewc():
    assert ewc.get_config("online").ewc.online and not ewc.get_config().ewc.online
    assert ewc.get_config("online,runlocal").source.name == ewc.get_config("runlocal,online").source.name == "digits"
