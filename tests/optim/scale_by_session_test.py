"""Factors of sessions by hand, and the two ends: nothing is scaled, nothing moves after the first session."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import optim

LENS, NEW = [3, 2, 1], [6, 2, 4]


def scales(damping):
    """What becomes of updates of 1 in eight steps."""
    tx = optim.scale_by_session(LENS, NEW, damping=damping)

    def step(state, _):
        update, state = tx.update({"w": jnp.ones(2)}, state)
        return state, update["w"][0]

    return np.asarray(jax.lax.scan(step, tx.init({"w": jnp.ones(2)}), None, length=8)[1])


def test_each_session_has_the_share_of_its_new_classes_to_a_power():
    for damping in (1.0, 2.0):
        by_hand = [share**damping for share in [1.0] * 3 + [2 / 8] * 2 + [4 / 12] * 3]
        np.testing.assert_allclose(scales(damping), by_hand, rtol=1e-6)


def test_a_damping_of_0_changes_nothing_and_one_without_bound_lets_nothing_move():
    np.testing.assert_array_equal(scales(0.0), np.ones(8))
    np.testing.assert_array_equal(scales(math.inf), [1, 1, 1, 0, 0, 0, 0, 0])
    frozen = optax.chain(optax.adamw(0.1, weight_decay=0.5), optim.scale_by_session(LENS, NEW, damping=math.inf))
    params, state = {"w": jnp.ones(2)}, frozen.init({"w": jnp.ones(2)})
    moved = []
    for _ in range(5):
        updates, state = frozen.update({"w": jnp.ones(2)}, state, params)
        moved.append(bool((updates["w"] != 0).all()))
    assert moved == [True] * 3 + [False] * 2


def test_damping_may_be_swept():
    np.testing.assert_array_equal(jax.jit(jax.vmap(swept))(jnp.array([0.5, math.inf])), [[0.5] * 2, [0.0] * 2])


def swept(damping):
    tx = optim.scale_by_session([1, 1], [3, 1], damping=damping)
    _, state = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    return tx.update(jnp.ones(2), state)[0]


def test_what_it_refuses():
    for lens, new, match in (
        ([], [], "expects steps and new classes of each session, got 0 and 0"),
        ([1, 2], [3], "got 2 and 1"),
        ([0], [3], "Each entry of session_lens"),
        ([1], [0], "Each entry of num_new"),
    ):
        with pytest.raises(ValueError, match=match):
            optim.scale_by_session(lens, new)
    with pytest.raises(ValueError, match="damping must be 0 or above"):
        optim.scale_by_session([1], [1], damping=-1.0)
