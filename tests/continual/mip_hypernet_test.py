"""MIP: networks, a step and the penalty against numpy; what a task moves; and a limit that is plain training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core
from tests.masked import STREAM, Whole
from tests.rehearsed import MODEL, answers, learner_of, log_softmax, rows_of, spy


def code(params, task):
    """What the last layer of the hypernetwork is given, in float64."""
    x = np.asarray(params["embeddings"], np.float64)[task] * np.pi / 2
    x = np.concatenate([np.cos(x), np.sin(x)])
    for layer in params["layers"]:
        x = x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)
        x = np.where(x > 0, x, 0.01 * x)
    return x


def generated(params, task):
    """The network of a task."""
    x = code(params, task)

    def one(start, head):
        return np.asarray(start, np.float64) + sum(a * np.asarray(h, np.float64) for a, h in zip(x, head, strict=True))

    return jax.tree.map(one, params["start"], params["heads"])


@functools.cache
def whole():
    return Whole(continual.mip_hypernet(3, beta=0.5, dim=2, hidden=(4, 5)), model=MODEL)


def test_a_step_of_sgd_is_that_of_numpy():
    """The shared network moves as a plain one would, the last layer by that and its input."""
    method = continual.mip_hypernet(3, beta=0.5, dim=2, hidden=(4, 5))
    learner = learner_of(method, spy(8), stream=STREAM, optimizer=optax.sgd(0.5))
    data, start = core.to_device(STREAM), core.start(learner)
    # Off the start, where biases are 0 and what is generated is small.
    start = start._replace(
        params=jax.tree.map(lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), start.params)
    )
    begun = jax.jit(learner.begin)(start, data, 1)
    after, record = jax.jit(learner.step)(begun, data, 1, 0)
    inputs, labels = rows_of(STREAM, after.method_state["spy"])
    classes = np.asarray(STREAM.origins.classes)[1]

    def loss(network):
        logits = answers(network, inputs)[0][:, classes]
        return -log_softmax(logits)[np.arange(8), labels - np.argmax(classes)].mean()

    network = generated(begun.params, 1)
    np.testing.assert_allclose(record["loss"], loss(network), atol=1e-6)

    def slope(path, leaf):
        def at(index, by):
            moved = leaf.copy()
            moved[index] += by
            return loss(jax.tree_util.tree_map_with_path(lambda p, x: moved if p == path else x, network))

        return np.array([at(i, 1e-6) - at(i, -1e-6) for i in np.ndindex(leaf.shape)]).reshape(leaf.shape) / 2e-6

    slopes, x = jax.tree_util.tree_map_with_path(slope, network), code(begun.params, 1)
    for moved, by in (("start", slopes), ("heads", jax.tree.map(lambda g: np.multiply.outer(x, g), slopes))):
        expected = jax.tree.map(lambda p, g: p - 0.5 * g, begun.params[moved], by)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params[moved], expected)


@pytest.mark.parametrize(("t", "earlier"), [(2, (0, 1)), (0, (1, 2))])
def test_the_penalty_is_a_mean_over_the_tasks_learned_before(t, earlier):
    """Also where a task comes again."""
    begun = whole().begun(whole().states[2 if t else 3], t)
    before = whole().chunk(begun, t, 0, 3)
    state = before.method_state["mip_hypernet"]
    free = before._replace(method_state={"mip_hypernet": state._replace(beta=jnp.zeros(()))})
    found = whole().loss(before, t, 3) - whole().loss(free, t, 3)
    moved = [
        jax.tree.map(lambda a, b: np.square(a - b).sum(), generated(before.params, j), generated(begun.params, j))
        for j in earlier
    ]
    expected = 0.5 * np.mean([sum(jax.tree.leaves(tree)) for tree in moved])
    assert expected > 1e-4
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_an_embedding_is_moved_by_its_own_task_alone():
    rows = np.stack([state.params["embeddings"] for state in whole().states])
    for t in range(3):
        assert np.any(rows[t + 1, t] != rows[t, t])
        others = np.arange(3) != t
        np.testing.assert_array_equal(rows[t + 1, others], rows[t, others])


def test_for_conditions_of_zero_it_is_l2_anchor():
    """Without a code and layers what is generated does not depend on the heads, nor do these move."""
    method = continual.mip_hypernet(3, beta=0.05, conditions=np.zeros((3, 2)), hidden=(), encoding="none")
    ended = []
    for learner in (learner_of(m, stream=STREAM) for m in (method, continual.l2_anchor(0.1))):
        begin, chunk, end = (jax.jit(getattr(learner, name)) for name in ("begin", "chunk", "end"))
        state, data = core.start(learner), core.to_device(STREAM)
        for t in range(2):
            state = end(chunk(begin(state, data, t), data, t, 0, 7)[0], data, t)
        ended.append(state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ended[0]["start"], ended[1])


def test_without_a_code_what_is_generated_is_proportional_to_the_condition():
    """And, without a network to start from, as large as that of the model."""
    start = MODEL.init(jax.random.key(0), jnp.zeros((1, 12))).params
    method = continual.mip_hypernet(2, conditions=[[0.05], [1.0]], hidden=(4, 5), encoding="none", residual=False)
    model = method.model(MODEL)
    made = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 12)))
    ask = jax.jit(lambda task, inputs: model.apply(made, inputs, task=task)[0].logits)
    x, kernels = [0.05, 1.0], []
    for gamma in x:
        h = np.array([gamma])
        for layer in made.params["layers"]:
            h = h @ np.asarray(layer["kernel"], np.float64)
            h = np.where(h > 0, h, 0.01 * h)
        kernels.append(np.einsum("h,hio->io", h, made.params["heads"]["head"]["kernel"]))
        inputs = np.eye(12)
        plain = answers(jax.tree.map(lambda leaf, h=h: np.tensordot(h, leaf, 1), made.params["heads"]), inputs)[0]
        found = ask(jnp.int32(x.index(gamma)), jnp.asarray(inputs, jnp.float32))
        np.testing.assert_allclose(found, plain, atol=1e-6)
    np.testing.assert_allclose(kernels[0], 0.05 * kernels[1], rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(kernels))), np.std(start["head"]["kernel"]), rtol=1e-5)


def test_what_it_refuses():
    for options, match in (
        ({"num_tasks": 0}, "num_tasks expects a whole number of at least 1, got 0"),
        ({"beta": -1.0}, "beta must be 0 or above, got -1.0"),
        ({"dim": 0}, "dim expects a whole number of at least 1, got 0"),
        ({"hidden": (0,)}, "Each width in hidden expects a whole number of at least 1, got 0"),
        ({"encoding": "sine"}, "encoding must be one of 'circle', 'none', got 'sine'"),
        ({"conditions": [[0.5], [2.0], [0.1]]}, "conditions must be between 0 and 1"),
        ({"conditions": [0.5, 0.1, 0.2]}, r"conditions expects 3 rows \[num_tasks, D\], got shape \(3,\)"),
        ({"conditions": [[0.5], [0.1]]}, r"conditions expects 3 rows \[num_tasks, D\], got shape \(2, 1\)"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.mip_hypernet(**{"num_tasks": 3, **options})
    with pytest.raises(ValueError, match="mip_hypernet has embeddings for 2 tasks, and the stream has 3 experiences"):
        core.start(learner_of(continual.mip_hypernet(2), stream=STREAM))
    replayed = learner_of(continual.er(20), continual.mip_hypernet(3), stream=STREAM)
    state, data = core.start(replayed), core.to_device(STREAM)
    with pytest.raises(ValueError, match="mip_hypernet learns one task a batch"):
        jax.eval_shape(replayed.step, state, data, 0, 0)
