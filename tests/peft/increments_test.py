"""What `jare` and `mora` do when an experience starts: earlier increments are stored, new ones begin at nothing."""

import jax
import numpy as np
import optax
import pytest

from ctrain_jax import core, peft, testing

STREAM, MODEL = testing.standard_stream(), testing.standard_model()
METHODS = {
    "jare": lambda num_tasks, **options: peft.jare(num_tasks, 2, slots=1, top_k=2, **options),
    "mora": lambda num_tasks, **options: peft.mora(num_tasks, 2, budget=2, **options),
}


def test_what_was_learned_is_stored_and_stands_still():
    method, optimizer = METHODS["mora"](3, train="^head"), optax.adamw(1e-2, weight_decay=0.1)
    run = core.make_learner(MODEL, method, optimizer, STREAM, batch_size=16)
    data, state = core.to_device(STREAM), core.start(run)
    base, learned = jax.tree.map(np.array, state.frozen["params"]), []
    for t in range(3):
        state = run.begin(state, data, t)
        assert state.frozen["task"] == t
        fresh = jax.tree.map(np.array, state.params["new"])
        for kernel, pair in fresh.items():
            assert not pair["b"].any() and (t == 0 or not np.array_equal(pair["a"], learned[-1][kernel]["a"]))
        moments = optax.tree.get(state.opt_state, "mu")
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(moments))
        state, _ = run.chunk(state, data, t, 0, 4)
        state = run.end(state, data, t)
        learned.append(jax.tree.map(np.array, state.params["new"]))
        assert all(np.any(pair["b"]) for pair in learned[-1].values())
    for kernel, past in state.frozen["past"].items():
        for t in range(2):
            np.testing.assert_array_equal(past["a"][t], learned[t][kernel]["a"])
            np.testing.assert_array_equal(past["b"][t], learned[t][kernel]["b"])
        assert not np.any(past["a"][2]) and not np.any(past["b"][2])
    jax.tree.map(np.testing.assert_array_equal, state.frozen["params"], base)


@pytest.mark.parametrize("name", METHODS)
def test_wrong_use_is_refused(name):
    make = METHODS[name]
    with pytest.raises(ValueError, match="num_tasks expects a whole number of at least 1, got 0"):
        make(0)
    with pytest.raises(ValueError, match=f"{name} has ranks for 2 experiences, and the stream has 3: give num_tasks"):
        core.start(core.make_learner(MODEL, make(2), optax.sgd(0.1), STREAM))
    with pytest.raises(ValueError, match=f"{name} reaches dense layers of linen models, .* BatchNorm_0.scale is in"):
        core.make_learner(MODEL, make(3, match="scale"), optax.sgd(0.1), STREAM)
    outside = core.chain(core.Method("lora", model=peft.lora(2, match=r"\.a$", form="tree")), make(3))
    with pytest.raises(ValueError, match=f"{name} .* put it first in the chain"):
        core.start(core.make_learner(MODEL, outside, optax.sgd(0.1), STREAM))
