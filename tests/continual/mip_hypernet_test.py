"""MIP: networks, a gradient and the penalty against numpy; what a task moves; and a limit that is plain training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
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
    return Whole(core.chain(continual.mip_hypernet(3, beta=0.5, dim=2, hidden=(4, 5)), spy(8)), model=MODEL)


def test_the_gradient_is_that_of_numpy():
    """The shared network is moved as a plain one would be, the last layer by that and its input."""
    begun = whole().begun(whole().states[1], 1)
    value, grads = jax.jit(whole().learner.gradient)(begun, whole().data, 1, 0)
    inputs, labels = rows_of(STREAM, whole().chunk(begun, 1, 0, 1).method_state["spy"])
    classes = np.asarray(STREAM.origins.classes)[1]

    def loss(network):
        logits = answers(network, inputs)[0][:, classes]
        return -log_softmax(logits)[np.arange(8), labels - np.argmax(classes)].mean()

    network = generated(begun.params, 1)
    np.testing.assert_allclose(value, loss(network), atol=1e-6)

    def slope(leaf, of):
        def at(index, by):
            moved = np.array(leaf, np.float64)
            moved[index] += by
            return of(moved)

        return np.array([at(i, 1e-6) - at(i, -1e-6) for i in np.ndindex(leaf.shape)]).reshape(leaf.shape) / 2e-6

    def within(path):
        return lambda moved: loss(jax.tree_util.tree_map_with_path(lambda p, x: moved if p == path else x, network))

    def embedded(moved):
        return loss(generated(begun.params | {"embeddings": moved}, 1))

    slopes = jax.tree_util.tree_map_with_path(lambda path, leaf: slope(leaf, within(path)), network)
    expected = {
        "start": slopes,
        "heads": jax.tree.map(lambda g: np.multiply.outer(code(begun.params, 1), g), slopes),
        "embeddings": slope(begun.params["embeddings"], embedded),
    }
    found = {name: grads[name] for name in expected}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    assert expected["embeddings"][1].all() and not expected["embeddings"][[0, 2]].any()


@pytest.mark.parametrize(("t", "earlier"), [(2, (0, 1)), (0, (1, 2))])
def test_the_penalty_is_a_mean_over_the_tasks_learned_before(t, earlier):
    """Also where a task comes again."""
    begun = whole().begun(whole().states[2 if t else 3], t)
    before = whole().chunk(begun, t, 0, 3)
    state = before.method_state["mip_hypernet"]
    free = before._replace(method_state=before.method_state | {"mip_hypernet": state._replace(beta=jnp.zeros(()))})
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
        (
            {"conditions": np.zeros((3, 2)), "encoding": "none", "residual": False},
            "conditions of 0 alone generate nothing",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            continual.mip_hypernet(**{"num_tasks": 3, **options})
    with pytest.raises(ValueError, match="mip_hypernet has embeddings for 2 tasks, and the stream has 3 experiences"):
        core.start(learner_of(continual.mip_hypernet(2), stream=STREAM))
    replayed = learner_of(continual.er(20), continual.mip_hypernet(3), stream=STREAM)
    state, data = jax.eval_shape(replayed.init, jax.random.key(0)), core.to_device(STREAM)
    with pytest.raises(ValueError, match="mip_hypernet learns one task a batch"):
        jax.eval_shape(replayed.step, state, data, 0, 0)
