"""A method from outside of the package keeps its promises, beats naive training, and lives in chains."""

import ast
import functools
import pathlib

import jax
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, ops, streams, testing
from tests.examples._derpp_bn import derpp_bn

# Measured over 5 seeds, worst to best: naive .18 to .19; DER++ .77 to .83.
METHODS = {"naive": core.identity(), "derpp_bn": derpp_bn(100, alpha=0.5, beta=0.5)}


@pytest.fixture(scope="module")
def stream():
    return streams.class_incremental(streams.digits(), 5)


def network(*hidden, norm="none"):
    return core.from_linen(models.MLP(10, hidden=hidden, norm=norm))


def learner_of(stream, method, model=None, **options):
    model = network(64, 64, norm="batch") if model is None else model
    return core.make_learner(model, method, optax.sgd(0.1), stream, batch_size=16, **options)


@pytest.fixture(scope="module")
def runs(stream):
    """A run of two seeds of each method, made when it is first asked for."""
    return functools.cache(lambda name: core.run_stream(learner_of(stream, METHODS[name], epochs=2), [0, 1]))


def final(result):
    """Mean accuracy over the five test experiences after the last one, for each seed."""
    return np.asarray(result.accuracy)[..., -1, :].mean(-1)


def some_steps(stream, method):
    learner = learner_of(stream, method, steps=6)
    return jax.jit(learner.chunk)(core.start(learner, 0), core.to_device(stream), 0, 0, 6)[0]


def test_is_written_against_the_public_names_alone():
    files = sorted(pathlib.Path(__file__).parent.glob("_*.py"))
    assert len(files) == 1
    public = {"core": core.__all__, "ops": ops.__all__}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", None)
                names = [alias.name for alias in node.names]
                if any(name.startswith("ctrain_jax") for name in (module or "", *names)):
                    assert module == "ctrain_jax" and set(names) <= set(public), (file.name, module, names)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in public:
                assert node.attr in public[node.value.id], (file.name, node.attr)


def test_keeps_the_promises():
    testing.check_method(derpp_bn(30, alpha=0.5, beta=0.5))


def test_remembers_what_naive_training_forgets(runs):
    assert final(runs("derpp_bn")).min() > 0.65
    assert final(runs("naive")).max() < 0.3


def test_two_derpp_that_do_not_know_each_other_agree(stream):
    """With a memory of one batch every draw is the whole memory, so the two differ in the order of rows alone."""
    ours = derpp_bn(16, alpha=0.7, beta=0.4)._replace(name="derpp")  # the name seeds the reservoir
    theirs = continual.derpp(16, alpha=0.7, beta=0.4)
    a, b = some_steps(stream, ours), some_steps(stream, theirs)
    records = a.method_state["derpp"].reservoir.records, b.method_state["derpp"].buffer.records
    np.testing.assert_array_equal(records[0]["row"], records[1]["row"])
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=2e-4),
        (a.params, a.model_state, records[0]["logits"]),
        (b.params, b.model_state, records[1]["logits"]),
    )


def test_lives_in_chains(stream):
    ours, mir = derpp_bn(50, alpha=0.5, beta=0.5), continual.mir(50, lr=0.1)
    result = core.run_stream(learner_of(stream, core.chain(mir, ours, continual.ewc(1.0), mir)))
    # Measured over 5 seeds: .81 to .85.
    assert final(result) > 0.5
    assert set(result.state.method_state) == {"mir", "derpp_bn", "ewc", "mir_1"}
