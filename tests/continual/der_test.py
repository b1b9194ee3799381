"""DER against one step written by hand, and against DER++ without its labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, ops, testing

RATE, ALPHA = 0.1, 0.7


METHODS = {
    "plain": core.identity(),
    "der": continual.der(20, alpha=ALPHA, batch_size=5),
    "derpp": continual.derpp(20, alpha=ALPHA, beta=0.0, batch_size=5)._replace(name="der"),  # the name seeds its draws
}


@functools.cache
def learner_of(name):
    model = core.from_linen(models.MLP(6, hidden=()))
    learner = core.make_learner(model, METHODS[name], optax.sgd(RATE), testing.standard_stream(), batch_size=8)
    return learner, jax.jit(learner.chunk), core.to_device(learner.stream)


def in_the_second(name, alpha=None):
    """The state after the first experience (its edges do nothing) and four steps of the second."""
    learner, chunk, data = learner_of(name)
    state = core.start(learner)
    if alpha is not None:
        state.method_state["der"] = state.method_state["der"]._replace(alpha=jnp.float32(alpha))
    return chunk(chunk(state, data, 0, 0, 7)[0], data, 1, 0, 4)[0]


def test_a_step_by_hand_is_a_plain_one_and_the_pull_to_the_stored_logits():
    """The plain step, from the same parameters, is taken by a learner without a method."""
    num, before = 5, in_the_second("der")
    learner, chunk, data = learner_of("der")
    after, record = chunk(before, data, 1, 4, 1)
    plain, own = learner_of("plain")[1](before._replace(method_state={}), data, 1, 4, 1)
    buffer = before.method_state["der"].buffer
    key = jax.random.fold_in(jax.random.fold_in(before.rng, 1), 4)
    rng = core.tag(core.tag(core.tag(key, "der"), "loss"), "logits")
    slots = ops.permute_index(rng, jnp.arange(num), jnp.int32(20))
    drawn = {name: np.asarray(leaf)[np.asarray(slots)] for name, leaf in buffer.records.items()}
    stream, head = learner.stream, jax.tree.map(lambda p: np.asarray(p, np.float64), before.params["head"])
    value, grads = 0.0, {"kernel": 0.0, "bias": 0.0}
    for row, experience, stored in zip(drawn["row"], drawn["experience"], drawn["logits"], strict=True):
        x = stream.source.train["inputs"][row].astype(np.float64)[np.asarray(stream.origins.view)[experience]]
        gap = x @ head["kernel"] + head["bias"] - stored
        value += ALPHA * np.sum(gap**2) / (num * 6)
        slope = 2 * ALPHA * gap / (num * 6)
        grads = {"kernel": grads["kernel"] + np.outer(x, slope), "bias": grads["bias"] + slope}
    assert value > 0.1, "the replay of this example matters"
    np.testing.assert_allclose(record["loss"], own["loss"] + value, rtol=1e-5)
    for name, grad in grads.items():
        expected = np.asarray(plain.params["head"][name]) - RATE * grad
        np.testing.assert_allclose(after.params["head"][name], expected, rtol=1e-5, atol=1e-6)


def test_it_is_derpp_without_labels_and_without_weight_plain_training():
    der, off, plain, derpp = in_the_second("der"), in_the_second("der", 0.0), *map(in_the_second, ("plain", "derpp"))
    for a, b in ((der, derpp), (off, plain)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a.params, b.params)
    assert not np.allclose(der.params["head"]["kernel"], off.params["head"]["kernel"], atol=1e-2)


def test_it_costs_one_pass_where_derpp_costs_two():
    def passes(method):
        model, calls = testing.standard_model(), []
        counted = core.Model(
            model.init, lambda *given, **o: (calls.append(o.get("train")), model.apply(*given, **o))[1]
        )
        learner = core.make_learner(counted, method, optax.sgd(RATE), testing.standard_stream(), batch_size=8)
        state, data = jax.eval_shape(learner.init, jax.random.key(0)), core.to_device(learner.stream)
        calls.clear()
        jax.eval_shape(learner.step, state, data, 0, 0)
        return calls.count(True)

    assert [passes(m) for m in (core.identity(), continual.der(20), continual.derpp(20))] == [1, 2, 3]


def test_what_it_refuses():
    for arguments, match in (
        ({"size": 0}, "size expects a whole number of at least 1, got 0"),
        ({"size": 5, "alpha": -1.0}, "alpha must be 0 or above"),
        ({"size": 5, "batch_size": 0}, "batch_size expects a whole number of at least 1, got 0"),
        ({"size": 5, "policy": "fifo"}, "policy must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.der(**arguments)
