"""MOS: the merge, the term of the loss, the Gaussians, the head's step and the choice of an adapter against numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, peft, testing
from tests.rehearsed import MODEL, Skipping, first_experience, learner_of, log_softmax, rows_of, spy, unit

STREAM, PET, SAMPLES = testing.standard_stream(), peft.lora(2, train="^head"), 4000
OWN = {"momentum": 0.3, "reg": 0.5, "temperature": 2.0, "steps": 1, "samples": SAMPLES, "learning_rate": 0.2}


@functools.cache
def two():
    """Compiled hooks, the first state, and the states before and after the end of each of two experiences."""
    learner = learner_of(continual.mos(PET, **OWN), spy(8))
    data, states = core.to_device(STREAM), []
    begin, chunk, end = (jax.jit(getattr(learner, name)) for name in ("begin", "chunk", "end"))
    start = state = core.start(learner)
    for t in range(2):
        trained, _ = chunk(begin(state, data, t), data, t, 0, learner.spec.steps[t])
        state = end(trained, data, t)
        states.append((trained, state))
    return data, begin, chunk, start, states


def outputs(state, inputs, adapter=None):
    """Of the network under an adapter, float64."""
    params = state.params if adapter is None else {**state.params, "new": adapter}
    found, _ = PET(MODEL).apply(
        core.Variables(params, state.model_state, state.frozen), jnp.asarray(inputs, jnp.float32)
    )
    return np.asarray(found.logits, np.float64), np.asarray(found.features, np.float64)


def without(state, **numbers):
    """The state with other numbers of the method."""
    own = state.method_state["mos"]._replace(**{k: jnp.float32(x) for k, x in numbers.items()})
    return state._replace(method_state={**state.method_state, "mos": own})


def rows_in(t):
    train = STREAM.experiences["train"]
    rows = train.rows[t][: train.size[t]]
    inputs = STREAM.source.train["inputs"][rows][:, np.asarray(STREAM.origins.view)[t]]
    return inputs, STREAM.source.train["labels"][rows]


def test_a_step_is_followed_by_the_mean_of_the_earlier_adapters_and_m_of_0_by_nothing():
    data, begin, chunk, _, states = two()
    state = begin(states[1][1], data, 2)
    merged, plain = (chunk(without(state, momentum=m), data, 2, 0, 1)[0].params for m in (0.3, 0.0))
    bank = state.method_state["mos"].adapters
    for a, b, kept in zip(*map(jax.tree.leaves, (merged["new"], plain["new"], bank)), strict=True):
        np.testing.assert_allclose(a, 0.7 * b + 0.3 * (kept[0] + kept[1]) / 2, atol=1e-6)
        assert np.any(kept[0] != kept[1]) and np.all(kept[2] == 0)
    jax.tree.map(np.testing.assert_array_equal, merged["base"], plain["base"])


def test_the_loss_is_that_of_the_classes_of_the_experience_and_a_pull_of_features_apart():
    data, begin, chunk, _, states = two()
    state = begin(states[0][1], data, 1)
    after, record = chunk(state, data, 1, 0, 1)
    inputs, labels = rows_of(STREAM, after.method_state["spy"])
    logits, features = outputs(state, inputs)
    own = -log_softmax(logits[:, 2:4])[np.arange(8), labels - 2].mean()
    rows = np.concatenate([np.asarray(state.method_state["mos"].gaussians.means, np.float64)[:2], features])
    apart = -np.diagonal(log_softmax(rows @ rows.T / 2.0)).mean()
    assert apart > 0.1
    np.testing.assert_allclose(record["loss"], own + 0.5 * apart, rtol=1e-4)


def test_gaussians_are_under_the_own_adapter_and_prototypes_under_the_first():
    *_, states = two()
    (_, first), (trained, second) = states
    before, mine = first.method_state["mos"], second.method_state["mos"]
    jax.tree.map(lambda kept, x: np.testing.assert_array_equal(kept[1], x), mine.adapters, trained.params["new"])
    assert mine.owners.tolist() == [0, 0, 1, 1, 0, 0] and mine.gaussians.counts.tolist() == [25, 25, 19, 18, 0, 0]
    np.testing.assert_array_equal(mine.gaussians.means[:2], before.gaussians.means[:2])
    inputs, labels = rows_in(1)
    (_, own), (_, old) = outputs(trained, inputs), outputs(trained, inputs, first.params["new"])
    for c in (2, 3):
        np.testing.assert_allclose(mine.gaussians.means[c], own[labels == c].mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mine.gaussians.covariances[c], np.cov(own[labels == c].T, ddof=0), atol=1e-4)
        np.testing.assert_allclose(mine.prototypes[c], old[labels == c].mean(0), rtol=1e-4, atol=1e-5)
    assert np.abs(mine.prototypes - mine.gaussians.means)[2:4].max() > 1e-3


def test_the_head_takes_a_step_on_samples_of_all_classes_and_stays_so():
    """On other samples of the same Gaussians; columns of classes never seen decay alone."""
    *_, states = two()
    (first_trained, first), (trained, second) = states
    jax.tree.map(np.testing.assert_array_equal, first_trained.params, first.params)  # one experience: no alignment
    rng, mine = np.random.default_rng(0), second.method_state["mos"]
    old, new = (
        np.concatenate([s.params["base"]["head.kernel"], s.params["base"]["head.bias"][None]]).astype(np.float64)
        for s in (trained, second)
    )
    names = np.repeat(np.arange(4), SAMPLES)
    moments = zip(*(np.asarray(x, np.float64)[:4] for x in mine.gaussians[:2]), strict=True)
    drawn = np.concatenate([rng.multivariate_normal(m, k, SAMPLES, method="svd") for m, k in moments])
    drawn = np.concatenate([drawn, np.ones((len(drawn), 1))], 1)
    error = np.exp(log_softmax(drawn @ old[:, :4])) - np.eye(4)[names]
    wanted = old[:, :4] - 0.2 * (drawn.T @ error / len(drawn) + 5e-4 * old[:, :4])
    assert np.linalg.norm(new[:, :4] - wanted) < 0.05 * np.linalg.norm(wanted - old[:, :4])
    np.testing.assert_allclose(new[:, 4:], old[:, 4:] * (1 - 0.2 * 5e-4), rtol=1e-5)


@pytest.mark.parametrize("ensemble", [True, False])
def test_an_answer_finds_its_adapter_as_a_loop_over_rows_does(ensemble):
    """Adapters far apart, so that choices wander."""
    data, *_, states = two()
    predict = jax.jit(learner_of(continual.mos(PET, **OWN, max_rounds=3, ensemble=ensemble), spy(8)).predict)
    state, key = states[1][1], jax.random.key(1)
    mine = state.method_state["mos"]
    far = jax.tree.map(lambda x: x + jax.random.normal(jax.random.fold_in(key, x.size), x.shape), mine.adapters)
    state = state._replace(method_state={**state.method_state, "mos": mine._replace(adapters=far)})
    inputs, _ = rows_in(1)
    asked = {"inputs": inputs, "weights": np.ones(len(inputs))}
    plain = predict(states[0][0], data, 0, asked).logits
    np.testing.assert_allclose(plain, outputs(states[0][0], inputs)[0], atol=1e-5, err_msg="no experience is over")
    answered = np.asarray(predict(state, data, 1, asked).logits, np.float64)
    assert np.all(answered[:, 4:] < -1e30)
    under = [outputs(state, inputs, jax.tree.map(lambda x, k=k: x[k], far)) for k in range(2)]
    near = (unit(under[0][1]) @ unit(np.asarray(mine.prototypes, np.float64)).T)[:, :4]
    rounds = []
    for i in range(len(inputs)):
        chosen, count = int(mine.owners[near[i].argmax()]), 0
        while True:
            count += 1
            logits = under[chosen][0][i, :4]
            named = int(mine.owners[logits.argmax()])
            if named == chosen or count == 3:
                break
            chosen = named
        rounds.append(count)
        wanted = np.exp(log_softmax(logits))
        if ensemble:
            wanted = (wanted + np.exp(log_softmax(2 * near[i]))) / 2
        np.testing.assert_allclose(np.exp(log_softmax(answered[i, :4])), wanted, atol=1e-5)
    assert set(rounds) == {1, 2, 3}


def test_the_first_experience_without_a_pull_is_an_adapter_under_the_local_loss():
    data, begin, chunk, start, _ = two()
    own, _ = chunk(begin(without(start, reg=0.0), data, 0), data, 0, 0, 7)
    plain = first_experience(core.Method("lora", model=PET), continual.local_loss())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), own.params, plain)


def test_what_it_refuses():
    for arguments, match in (
        ({"momentum": 1.5}, "momentum must be between 0 and 1"),
        ({"reg": -0.1}, "reg must be 0 or above"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"steps": -1}, "steps expects a whole number of at least 1, got -1"),
        ({"samples": 0}, "samples expects a whole number of at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"covariance": "low"}, "covariance must be one of 'full', 'diagonal', got 'low'"),
        ({"max_rounds": 0}, "max_rounds expects a whole number of at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.mos(PET, **arguments)
    for pet, model in ((lambda model: model, MODEL), (peft.lora(2), MODEL)):
        with pytest.raises(ValueError, match="put it before what changes the model, with a pet like"):
            core.start(learner_of(continual.mos(pet), model=model))
    with pytest.raises(ValueError, match="mos expects what the head is given .*, of width 5, got 12: return that"):
        core.start(core.make_learner(core.from_linen(Skipping()), continual.mos(PET), optax.sgd(0.1), STREAM))
