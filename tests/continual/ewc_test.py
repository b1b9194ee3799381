"""EWC against the sum of penalties written out, with the Fisher information of a linear model in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, streams, testing
from tests.short import short_run


def linear_learner(method, stream=None, **options):
    """A softmax-linear model on the standard stream."""
    model = core.from_linen(models.MLP(6, hidden=()))
    stream = stream or testing.standard_stream()
    return core.make_learner(model, method, optax.adam(3e-2), stream, steps=20, **{"batch_size": 8, **options})


def states_after(learner):
    """The state after each experience."""
    data, state, after = core.to_device(learner.stream), core.start(learner), []
    for t in range(learner.spec.num_experiences):
        state = core.run_experience(learner, state, data, t)
        after.append(jax.tree.map(jnp.array, state))
    return after


def rows_of(stream, t):
    """Inputs [n, D] float64 and labels [n] of an experience, each once, through its view."""
    rows = stream.experiences["train"].rows[t][: stream.experiences["train"].size[t]]
    view = np.asarray(stream.origins.view)[t]
    return stream.source.train["inputs"][rows][:, view].astype(np.float64), stream.source.train["labels"][rows]


def closed_form(params, x, labels=None, classes=None):
    """Mean over rows of E[(d log p(y) / d theta)^2]; of the given labels where there are some."""
    head = jax.tree.map(lambda p: np.asarray(p, np.float64), params["head"])
    logits = x @ head["kernel"] + head["bias"]
    logits = logits if classes is None else np.where(classes, logits, -np.inf)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    squares = p * (1 - p) if labels is None else np.square(np.eye(6)[labels] - p)
    return {"kernel": np.square(x).T @ squares / len(x), "bias": squares.mean(0)}


def written_out(params, terms):
    """`sum_k F_k (theta - a_k)^2`, and its gradient."""
    head, value, grads = params["head"], 0.0, {"kernel": 0.0, "bias": 0.0}
    for fisher, anchor in terms:
        for name, f in fisher.items():
            moved = np.asarray(head[name], np.float64) - np.asarray(anchor["head"][name], np.float64)
            value = value + np.sum(f * moved**2)
            grads[name] = grads[name] + 2 * f * moved
    return value, grads


def penalty(method, state):
    """The method's own penalty as a function of params; it reads nothing of the context."""
    return lambda params: method.loss(state.method_state["ewc"], params, None)[0]


def points(params):
    """Parameters some way off."""
    keys = jax.random.split(jax.random.key(1), 5)
    return [jax.tree.map(lambda p, k=k: p + jax.random.normal(k, p.shape), params) for k in keys]


def test_one_quadratic_form_is_the_sum_of_the_penalties_of_three_experiences():
    method = continual.ewc(2.0)
    learner = linear_learner(method)
    after = states_after(learner)
    terms = [(closed_form(s.params, rows_of(learner.stream, t)[0]), s.params) for t, s in enumerate(after)]
    own = penalty(method, after[-1])
    at = points(after[-1].params)
    values = np.array([[own(p), written_out(p, terms)[0]] for p in at], np.float64)
    # Up to a constant: differences from the first point. lam / 2 is 1 here.
    np.testing.assert_allclose(*(values[1:] - values[0]).T, rtol=1e-4)
    assert abs(values[0, 0] - values[0, 1]) > 1e-3, "the constant of this example is not 0"
    for p in at:
        grads = jax.grad(own)(p)["head"]
        for name, expected in written_out(p, terms)[1].items():
            np.testing.assert_allclose(grads[name], expected, rtol=1e-4, atol=1e-5)


def test_online_is_the_recursion_written_out():
    method = continual.ewc(2.0, online=True, decay=0.6)
    learner = linear_learner(method)
    after = states_after(learner)
    running = {"kernel": 0.0, "bias": 0.0}
    for t, state in enumerate(after):
        new = closed_form(state.params, rows_of(learner.stream, t)[0])
        running = {name: 0.6 * running[name] + new[name] for name in new}
        kept = state.method_state["ewc"]
        for name, expected in running.items():
            np.testing.assert_allclose(kept.fisher["head"][name], expected, rtol=1e-4, atol=1e-7)
            np.testing.assert_array_equal(kept.anchor["head"][name], state.params["head"][name])
    value = penalty(method, after[-1])(points(after[-1].params)[0])
    expected = written_out(points(after[-1].params)[0], [(running, after[-1].params)])[0]
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_empirical_takes_the_given_labels_and_sampled_is_near_the_exact_one():
    def after_first(kind, size):
        return states_after(linear_learner(continual.ewc(0.0, fisher=kind), batch_size=size))[0]

    x, labels = rows_of(testing.standard_stream(), 0)
    state = after_first("empirical", 8)
    expected = closed_form(state.params, x, labels)
    for name in expected:
        np.testing.assert_allclose(state.method_state["ewc"].fisher["head"][name], expected[name], rtol=1e-4, atol=1e-7)
    state = after_first("sampled", 8)
    exact, sampled = closed_form(state.params, x)["bias"], state.method_state["ewc"].fisher["head"]["bias"]
    # A row's square is at most 1 and of mean p (1 - p) = exact: four standard deviations of a mean over 50 rows.
    assert np.all(np.abs(sampled - exact) <= 4 * np.sqrt(exact / 50) + 1e-6)
    assert np.max(np.abs(sampled - exact)) > 1e-3


def test_the_mean_is_over_rows_and_padding_has_no_effect():
    """50 rows in batches of 8 (6 rows of padding), of 50 (none) and of 64 (14): the same information."""

    def fisher(size):
        learner = linear_learner(continual.ewc(1.0), batch_size=size)
        data = core.to_device(learner.stream)
        return jax.jit(learner.end)(core.start(learner), data, 0).method_state["ewc"].fisher["head"]

    expected = closed_form(
        core.start(linear_learner(continual.ewc(1.0))).params, rows_of(testing.standard_stream(), 0)[0]
    )
    for size in (8, 50, 64):
        for name, leaf in fisher(size).items():
            np.testing.assert_allclose(leaf, expected[name], rtol=1e-4, atol=1e-7)


def test_heads_of_tasks_restrict_the_softmax_of_the_fisher_information():
    stream = testing.standard_stream(task_known=True)
    learner = linear_learner(continual.ewc(1.0), stream)
    state = states_after(learner)[1]
    first = states_after(learner)[0]
    x = rows_of(stream, 1)[0]
    own = np.arange(6) // 2 == 1
    new = np.asarray(
        state.method_state["ewc"].fisher["head"]["bias"] - first.method_state["ewc"].fisher["head"]["bias"]
    )
    np.testing.assert_allclose(new, closed_form(state.params, x, classes=own)["bias"], rtol=1e-3, atol=1e-6)
    assert np.all(new[~own] == 0)


def test_without_lam_it_is_plain_training_and_a_strong_one_holds_still():
    runs = {lam: states_after(linear_learner(continual.ewc(lam))) for lam in (0.0, 1e3)}
    plain = states_after(linear_learner(core.identity()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain[-1].params, runs[0.0][-1].params)
    free, held = (after[1].params["head"]["kernel"] - after[0].params["head"]["kernel"] for after in runs.values())
    assert np.linalg.norm(held) < 0.5 * np.linalg.norm(free)


def test_the_penalty_is_in_the_gradient_of_the_step():
    """One step of SGD after the first experience against the loss and its penalty by hand."""
    method = continual.ewc(3.0)
    model, stream = core.from_linen(models.MLP(6, hidden=())), testing.standard_stream()
    learner = core.make_learner(model, method, optax.sgd(0.1), stream, batch_size=8, steps=10)
    data = core.to_device(stream)
    state = core.run_experience(learner, core.start(learner), data, 0)
    # Away from the anchor, where the penalty has a slope.
    state = state._replace(params=points(state.params)[0])
    seen = core.Method("seen", update=lambda s, ts, ctx: (ctx.batch, ts), init=lambda r, p, ctx: _zeros(ctx))
    spy = core.make_learner(model, core.chain(method, seen), optax.sgd(0.1), stream, batch_size=8, steps=10)
    both = state._replace(method_state={**state.method_state, "seen": core.start(spy).method_state["seen"]})
    after, _ = jax.jit(spy.step)(both, data, 1, 0)
    batch = after.method_state["seen"]
    x, y = np.asarray(batch["inputs"], np.float64), np.asarray(batch["labels"])
    head = jax.tree.map(lambda p: np.asarray(p, np.float64), state.params["head"])
    logits = x @ head["kernel"] + head["bias"]
    p = np.exp(logits - logits.max(1, keepdims=True))
    slope = (
        (p / p.sum(1, keepdims=True) - np.eye(6)[y]) * np.asarray(batch["weights"])[:, None] / batch["weights"].sum()
    )
    kept = state.method_state["ewc"]
    for name, grad in (("kernel", x.T @ slope), ("bias", slope.sum(0))):
        pull = 3.0 * np.asarray(kept.fisher["head"][name]) * (head[name] - np.asarray(kept.anchor["head"][name]))
        np.testing.assert_allclose(after.params["head"][name], head[name] - 0.1 * (grad + pull), rtol=1e-4, atol=1e-5)
        assert np.max(np.abs(pull)) > 0.01


def _zeros(ctx):
    return {name: jnp.zeros(field.shape, field.dtype) for name, field in ctx.spec.batch.items()}


def test_what_it_refuses():
    for arguments, match in (
        ({"lam": -1.0}, "lam must be 0 or above"),
        ({"lam": 1.0, "decay": 0.5}, "decay belongs to the online form"),
        ({"lam": 1.0, "online": True, "decay": 1.5}, "decay must be between 0 and 1"),
        ({"lam": 1.0, "fisher": "batch"}, "fisher must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.ewc(**arguments)
    hidden = streams.class_incremental(streams.digits(), 5)._replace(labels=False)
    with pytest.raises(ValueError, match="ewc needs labels"):
        core.make_learner(
            core.from_linen(models.MLP(10)), continual.ewc(1.0, fisher="empirical"), optax.sgd(0.1), hidden
        )


def test_the_first_experience_is_plain_training():
    """There is nothing to protect yet, whatever the strength."""
    anchored, plain = (
        short_run(method, optimizer=optax.sgd(0.05), steps=6, experiences=1)
        for method in (continual.ewc(1e4), core.identity())
    )
    for x, y in zip(jax.tree.leaves(anchored.params), jax.tree.leaves(plain.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
