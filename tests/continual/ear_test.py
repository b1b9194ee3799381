"""A gate by hand, answers by hand, what an experience trains, and what it leaves alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, peft, testing
from ctrain_jax.continual.architecture import _ear
from tests.short import bits, short_learner

STREAM, MODEL = testing.standard_stream(), testing.standard_model()
TRAIN = STREAM.experiences["train"]


def rows_of(t):
    """Inputs and labels of an experience, as the network sees them."""
    own = TRAIN.rows[t][: TRAIN.size[t]]
    inputs = np.asarray(STREAM.source.train["inputs"])[own][:, np.asarray(STREAM.origins.view)[t]]
    return inputs, np.asarray(STREAM.source.train["labels"])[own]


def gated(**options):
    return continual.ear(**{"max_domains": 3, "dim": 64, "space": ((8,), (4, 4)), "rows": 6, **options})


@functools.cache
def parts():
    learner = short_learner(gated())
    return (
        core.to_device(STREAM),
        core.start(learner),
        *map(jax.jit, (learner.begin, learner.chunk, learner.end, learner.predict)),
    )


def own(state):
    return jax.tree.map(np.asarray, state.method_state["ear"])


def with_threshold(state, threshold):
    s = state.method_state["ear"]._replace(threshold=jnp.float32(threshold))
    return state._replace(method_state={"ear": s})


@functools.cache
def learned(threshold, experiences=2):
    """States at the start of experiences, and when they are over."""
    data, state, begin, chunk, end, _ = parts()
    state, states = with_threshold(state, threshold), []
    for t in range(experiences):
        first = begin(state, data, t)
        state = end(chunk(first, data, t, 0, 12)[0], data, t)
        states.append((first, state))
    return states


def features(inputs):
    """Of the network as it started."""
    start = parts()[1]
    base = core.Variables(start.frozen["params"], start.model_state, ())
    return np.asarray(MODEL.apply(base, jnp.asarray(inputs))[0].features, np.float64)


def nearness(s, z):
    """[B, K] by hand, -2 where there is no domain."""
    codes = np.where((z - s.centre) @ s.projection >= 0, 1, -1) / 8
    near = np.full((len(z), 3), -2.0)
    for k in range(int(s.domains)):
        near[:, k] = np.max([codes @ s.prototypes[k, c] for c in np.flatnonzero(s.classes[k])], 0)
    return near


def test_a_domain_leaves_prototypes_and_how_near_its_rows_are():
    s, (inputs, labels) = own(learned(1e-3)[0][1]), rows_of(0)
    z = features(inputs)
    np.testing.assert_allclose(s.centre, z.mean(0), atol=1e-5)
    codes = np.where((z - s.centre) @ s.projection >= 0, 1, -1)
    for c in range(6):
        total = codes[labels == c].sum(0)
        np.testing.assert_allclose(s.prototypes[0, c], total / max(np.linalg.norm(total), 1), atol=1e-5)
    near = []  # to what others make a prototype of
    for i, code in enumerate(codes):
        others = [codes[(labels == c) & (np.arange(len(codes)) != i)].sum(0) for c in (0, 1)]
        near.append(max(code @ other / np.linalg.norm(other) / 8 for other in others))
    near = np.array(near)
    np.testing.assert_allclose([s.mean[0], 1 / s.scale[0]], [near.mean(), near.std()], rtol=1e-4)
    assert s.domains == 1 and s.choices[0] == -1 and not s.learns


def test_a_domain_is_new_where_rows_are_far_from_all_prototypes():
    """Then an adaptor is trained; else, since classes are new, a head on top of the nearest one."""
    state = learned(1e-3)[1][1]
    # The other way round, so that the nearest domain is not the first one.
    names = ("prototypes", "mean", "scale", "classes", "parts", "choices")
    s = state.method_state["ear"]
    s = s._replace(**{name: jax.tree.map(lambda x: x[jnp.array([1, 0, 2])], getattr(s, name)) for name in names})
    state = state._replace(method_state={"ear": s})
    s, data, begin, chunk = own(state), *(parts()[k] for k in (0, 2, 3))
    off = ((nearness(s, features(rows_of(2)[0])) - s.mean) * s.scale)[:, :2].max(1).mean()
    assert off < 0 and s.choices[0] >= 0
    nearest = nearness(s, features(rows_of(2)[0])).mean(0).argmax()
    assert nearest == 1
    for threshold, new in ((-0.999 * off, True), (-1.001 * off, False)):
        first = begin(with_threshold(state, threshold), data, 2)
        last, _ = chunk(first, data, 2, 0, 12)
        assert own(first).learns and own(first).adapts == new and own(first).domains == 3
        assert bits(first.params["head"]) == bits(jax.tree.map(lambda x: x[nearest], s.parts["head"]))
        copied = bits(first.params["adaptor"]) == bits(jax.tree.map(lambda x: x[nearest], s.parts["adaptor"]))
        assert copied != new and (new or own(first).choices[2] == s.choices[nearest])
        assert (bits(first.params["adaptor"]) == bits(last.params["adaptor"])) != new
        early, late = (x.params["head"]["kernel"] for x in (first, last))
        np.testing.assert_allclose(early[:, :4], late[:, :4], rtol=1e-4, err_msg="rows are told apart from new classes")
        assert np.abs(early - late)[:, 4:].min() > 0
        assert optax.tree.get(first.opt_state, "count") == 0 < optax.tree.get(last.opt_state, "count")


def test_the_candidate_is_the_one_whose_units_have_least_in_common():
    """In all hidden layers together; both orders."""
    rng, scores, adaptor = np.random.default_rng(1), [], []
    z = rng.normal(size=(4, 6))
    for sizes in ((6, 9, 6), (6, 4, 5, 6)):
        layers = [(rng.normal(size=pair), rng.normal(size=pair[1])) for pair in zip(sizes, sizes[1:], strict=False)]
        hidden, active = z, []
        for kernel, bias in layers[:-1]:
            hidden = np.maximum(hidden @ kernel + bias, 0)
            active.append(hidden > 0)
        codes = np.concatenate(active, 1)
        scores.append(np.linalg.det((codes[:, None] == codes).sum(-1)))
        adaptor.append(layers)
    assert scores[1] > scores[0] > 0  # by its first layer alone the second candidate would not be chosen
    for order in ([0, 1], [1, 0]):
        for rows in (z, np.concatenate([z, z[:2]])):  # where an experience has few some come twice
            chosen = _ear._best([adaptor[k] for k in order], jnp.asarray(rows, jnp.float32))
            assert order[int(chosen)] == np.argmax(scores)


def test_where_nothing_is_new_nothing_is_trained():
    """The first experience again, and an experience for which no domain is left."""
    data, _, begin, chunk, end, _ = parts()
    two = learned(1e-3)[1][1]
    for t, state in ((0, with_threshold(two, 1e9)), (2, full(two))):
        first = begin(state, data, t)
        last = end(chunk(first, data, t, 0, 12)[0], data, t)
        assert not own(first).learns and own(last).domains == own(state).domains
        assert bits(last.method_state) == bits(state.method_state)
        assert bits(last.params) == bits(first.params)


def full(state):
    s = state.method_state["ear"]
    return state._replace(method_state={"ear": s._replace(domains=jnp.int32(3))})


def test_a_row_is_answered_by_the_domain_that_it_is_nearest_to():
    data, *_, predict = parts()
    (_, before), (begun, after) = learned(1e-3)
    inputs = np.concatenate([rows_of(0)[0], rows_of(1)[0]])
    asked = {"inputs": jnp.asarray(inputs), "weights": jnp.ones(len(inputs)), "row": jnp.arange(len(inputs))}
    found, s, z = predict(after, data, 1, asked), own(after), features(inputs)
    chosen = nearness(s, z).argmax(1)
    assert 0.1 < chosen.mean() < 0.9
    for i, k in enumerate(chosen):
        adapted = z[i]
        if s.choices[k] >= 0:
            hidden, layers = z[i], s.parts["adaptor"][s.choices[k]]
            for kernel, bias in layers[:-1]:
                hidden = np.maximum(hidden @ kernel[k] + bias[k], 0)
            adapted = z[i] + hidden @ layers[-1][0][k] + layers[-1][1][k]
        logits = adapted @ s.parts["head"]["kernel"][k] + s.parts["head"]["bias"][k]
        mine = s.classes[k]
        np.testing.assert_allclose(found.logits[i, mine], logits[mine], atol=1e-4)
        assert np.all(found.logits[i, ~mine] < -1e30)
        np.testing.assert_allclose(found.features[i], adapted, atol=1e-4)
    # What was there is answered in the same bits where it finds its domain, and what is being learned answers already.
    old = predict(before, data, 0, asked).logits
    np.testing.assert_array_equal(old[chosen == 0], found.logits[chosen == 0])
    early = predict(begun, data, 1, asked).logits
    assert np.all(early[chosen == 1][:, 2:4] > -1e30) and np.any(early[chosen == 1] != found.logits[chosen == 1])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), own(before).parts, own(after).parts)
    assert bits(before.frozen["params"]) == bits(after.frozen["params"])


def test_before_anything_is_learned_the_network_answers_as_it_is():
    data, start, *_, predict = parts()
    inputs = jnp.asarray(rows_of(0)[0])
    asked = {"inputs": inputs, "weights": jnp.ones(len(inputs)), "row": jnp.arange(len(inputs))}
    base = core.Variables(start.frozen["params"], start.model_state, ())
    wanted = MODEL.apply(base, inputs)[0].logits
    np.testing.assert_allclose(predict(start, data, 0, asked).logits, wanted, atol=1e-5)
    learning = (
        gated().model(MODEL).apply(core.Variables(start.params, start.model_state, start.frozen), inputs, train=True)
    )
    np.testing.assert_allclose(learning[0].logits, wanted, atol=1e-5, err_msg="statistics of BatchNorm as they are")


def test_what_it_refuses():
    for wrong, sentence in (
        ({"max_domains": 0}, "max_domains expects"),
        ({"dim": 0}, "dim expects"),
        ({"rows": 0}, "rows expects"),
        ({"threshold": 0.0}, "threshold must be above 0"),
        ({"space": ()}, "space expects hidden widths of at least one candidate"),
        ({"space": ((4,), ())}, "space expects hidden widths"),
        ({"space": ((0,),)}, "Each width in space expects"),
    ):
        with pytest.raises(ValueError, match=sentence):
            gated(**wrong)
    with pytest.raises(ValueError, match="ear is in the chain twice"):
        core.start(short_learner(core.chain(gated(), gated())))
    outside = core.Method("outside", model=peft.lora(2, match="head.kernel", form="tree"))
    with pytest.raises(ValueError, match="ear finds another model .* put it first in the chain"):
        core.start(short_learner(core.chain(outside, gated())))
