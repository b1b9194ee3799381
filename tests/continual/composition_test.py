"""Methods beside each other: what one promises holds in a chain, and each sees the gradient that it should."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, optim, testing
from tests.continual.agem_test import flat, gradient, spy
from tests.short import short_learner, short_run

RATE = 0.1
OPTIMIZERS = {
    "clipping": lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-2, weight_decay=0.1)),
    "sam": lambda: optim.sam(optax.sgd(0.1, momentum=0.9)),
}


@pytest.mark.parametrize("behind", OPTIMIZERS)
def test_gpm_keeps_its_promise_beside_replay_and_unlearning_and_before_any_optimizer(behind):
    method = core.chain(continual.gpm(0.9), continual.refresh(1e-3), continual.er(20))
    model = core.from_linen(models.MLP(6, hidden=(16,)))
    learner = short_learner(method, model=model, optimizer=OPTIMIZERS[behind]())
    data, state = core.to_device(learner.stream), core.start(learner)
    state = core.run_experience(learner, state, data, 0)
    before = jax.tree.map(jnp.array, state)
    after = core.run_experience(learner, state, data, 1)
    assert int(after.method_state["er"].buffer.seen) > int(before.method_state["er"].buffer.seen) > 0
    for name in ("dense_0", "head"):
        basis = np.asarray(before.method_state["gpm"].bases[name]["kernel"], np.float64)
        change = np.asarray(after.params[name]["kernel"] - before.params[name]["kernel"], np.float64)
        assert np.any(basis) and np.linalg.norm(basis.T @ change) < 5e-6 < 1e-2 < np.linalg.norm(change)


@functools.cache
def at_the_second_experience(*, anchored, clip=None):
    """A learner of A-GEM, then EWC; its state after the first experience; the states and rows of three more steps."""
    lam = 5.0 if anchored else 0.0
    model = core.from_linen(models.MLP(6, hidden=()))
    optimizer = optax.sgd(RATE) if clip is None else optax.chain(optax.clip_by_global_norm(clip), optax.sgd(RATE))
    # All of the memory is drawn in each step: the reference does not depend on the draw.
    method = core.chain(continual.agem(20, batch_size=20), continual.ewc(lam), spy())
    learner = core.make_learner(model, method, optimizer, testing.standard_stream(), batch_size=8)
    data, step = core.to_device(learner.stream), jax.jit(learner.step)
    states = [core.run_experience(learner, core.start(learner), data, 0)]
    for i in range(3):
        states.append(step(states[-1], data, 1, i)[0])
    return learner, states


def by_hand(learner, before, after, anchored):
    """The step's gradient with its penalty, and that of all rows of the memory without any."""
    rows = np.asarray(before.method_state["agem"].buffer.records["row"])
    g = gradient(before.params, learner.stream, np.asarray(after.method_state["spy"]), np.ones(8, int))
    form = before.method_state["ewc"]
    pull = flat(form.fisher) * (flat(before.params) - flat(form.anchor)) * (5.0 if anchored else 0.0)
    return g + pull, gradient(before.params, learner.stream, rows, np.zeros(20, int)), pull


def projected(g, r):
    return g - min(g @ r, 0) / (r @ r) * r


@pytest.mark.parametrize("anchored", [False, True])
def test_agem_projects_the_gradient_with_the_penalties_of_others_onto_a_reference_without(anchored):
    learner, states = at_the_second_experience(anchored=anchored)
    conflicts = pulled = 0
    for before, after in zip(states, states[1:], strict=False):
        g, r, pull = by_hand(learner, before, after, anchored)
        moved = flat(before.params) - RATE * projected(g, r)
        np.testing.assert_allclose(flat(after.params), moved, rtol=1e-5, atol=2e-6)
        conflicts += g @ r < 0
        pulled = max(pulled, np.linalg.norm(pull))
    assert conflicts
    assert (pulled > 1e-2) == anchored, "the penalty of this example is far above the tolerance"


def test_clipping_behind_agem_clips_the_projected_gradient():
    clip = 1.0
    learner, states = at_the_second_experience(anchored=True, clip=clip)
    clipped = told_apart = 0
    for before, after in zip(states, states[1:], strict=False):
        g, r, _ = by_hand(learner, before, after, True)
        own = projected(g, r)
        factor = min(1.0, clip / np.linalg.norm(own))
        np.testing.assert_allclose(flat(after.params), flat(before.params) - RATE * factor * own, rtol=1e-5, atol=2e-6)
        clipped += factor < 1
        other = projected(g * min(1.0, clip / np.linalg.norm(g)), r)
        told_apart += np.max(np.abs(factor * own - other)) > 1e-3
    assert clipped and told_apart, "clipping before the projection would be another step"


CHAINS = {  # {name: (the optimizer behind, the chain, with a part switched off, what is left then)}
    "er, lwf": (
        lambda: optim.sam(optax.sgd(0.05)),
        lambda: core.chain(continual.er(20), continual.lwf(2.0)),
        lambda: core.chain(continual.er(20), continual.lwf(0.0)),
        lambda: continual.er(20),
    ),
    "derpp, ewc": (
        lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.05)),
        lambda: core.chain(continual.derpp(20), continual.ewc(50.0)),
        lambda: core.chain(continual.derpp(20), continual.ewc(0.0)),
        lambda: continual.derpp(20),
    ),
    "ewc, derpp": (
        lambda: optim.sam(optax.sgd(0.05)),
        lambda: core.chain(continual.ewc(50.0), continual.derpp(20)),
        lambda: core.chain(continual.ewc(50.0), continual.derpp(20, alpha=0.0, beta=0.0)),
        lambda: continual.ewc(50.0),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_part_that_is_switched_off_leaves_the_other_and_switched_on_it_changes_the_run(name):
    behind, *chains = CHAINS[name]
    model = core.from_linen(models.MLP(6, hidden=(16,)))
    whole, off, alone = (short_run(make(), model=model, optimizer=behind(), steps=6) for make in chains)
    for a, b in zip(jax.tree.leaves(off.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    moved = [np.max(np.abs(a - b)) for a, b in zip(*map(jax.tree.leaves, (whole.params, off.params)), strict=True)]
    assert max(moved) > 1e-4 and np.isfinite(max(moved))
    # What is remembered does not depend on the neighbours: random numbers belong to the name.
    kept = [part for part in ("er", "derpp") if part in whole.method_state]
    for state in (off, alone):
        for part in set(kept) & set(state.method_state):
            for field in ("row", "experience"):
                np.testing.assert_array_equal(
                    state.method_state[part].buffer.records[field], whole.method_state[part].buffer.records[field]
                )
