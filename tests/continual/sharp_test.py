"""SHARP: which units are chosen and how connections follow, the loss, what is kept and the vote against numpy."""

import functools
import itertools

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from flax import nnx

from ctrain_jax import continual, core, models, testing
from tests.losses.supervised_contrastive_test import by_hand
from tests.rehearsed import Skipping, learner_of, rows_of, spy, unit

STREAM, MODEL, SIZE, RECENT = testing.standard_stream(), core.from_linen(models.MLP(6, hidden=(24, 20, 16))), 6, 2
LAYERS = ("dense_0", "dense_1", "dense_2")
OPTIONS = {"size": SIZE, "recent": RECENT, "density": 0.5, "share": 0.6, "period": 6, "every": 3, "neighbors": 3}


@functools.cache
def run():
    """The compiled hooks, and for three experiences the states at its start, before its end and after."""
    method = continual.sharp("dense_1", **OPTIONS, temperature=0.3, batch_size=SIZE * RECENT, rows=200)
    learner = learner_of(method, spy(8), model=MODEL, optimizer=optax.adamw(1e-2, weight_decay=0.1))
    data, states = core.to_device(STREAM), []
    hooks = {name: jax.jit(getattr(learner, name)) for name in ("begin", "chunk", "end", "predict")}
    state = core.start(learner)
    for t in range(3):
        begun = hooks["begin"](state, data, t)
        trained, _ = hooks["chunk"](begun, data, t, 0, learner.spec.steps[t])
        state = hooks["end"](trained, data, t)
        states.append((begun, trained, state))
    return data, hooks, states


def mine(state):
    return state.method_state["sharp"]


def units(params, inputs):
    """Activations of each layer, float64."""
    found, x = [], np.asarray(inputs, np.float64)
    for name in LAYERS:
        x = np.maximum(x @ np.asarray(params[name]["kernel"], np.float64) + np.asarray(params[name]["bias"]), 0)
        found.append(x)
    return found


def most_active(size, part):
    order = np.argsort(-size)
    return np.isin(np.arange(len(size)), order[np.cumsum(size[order]) - size[order] < part * size.sum()])


def rows_in(t):
    train = STREAM.experiences["train"]
    rows = train.rows[t][: train.size[t]]
    return STREAM.source.train["inputs"][rows][:, np.asarray(STREAM.origins.view)[t]], STREAM.source.train["labels"][
        rows
    ]


def test_the_most_active_units_are_chosen_and_no_connection_leads_from_a_free_unit_to_another():
    """At the start of the second experience, 98.9 percent asked: of 200 draws of 37 rows nearly all are there."""
    *_, states = run()
    for t, (begun, _, _) in enumerate(states[:2]):
        s, before = mine(begun), states[t - 1][2] if t else None
        active = units(begun.params if before is None else before.params, rows_in(t)[0])
        for name, x in zip(LAYERS, active, strict=True):
            age, size = np.asarray(s.ages[name]), x.mean(0)
            if t:
                np.testing.assert_array_equal(age > 1, np.asarray(mine(before).ages[name]) > 1)
                top = most_active(size, (1 + np.cos(np.pi / 3)) / 2)
                assert np.sum((age == 1) != (top & (age < 2))) <= 1
            mask, kernel = np.asarray(s.masks[name]), np.asarray(begun.params[name]["kernel"])
            assert mask.sum() == mask.size / 2 and np.all(kernel[~mask] == 0)
        for below, name in itertools.pairwise(LAYERS):
            free, mask = np.asarray(s.ages[below]) == 0, np.asarray(s.masks[name])
            assert not np.any(mask[free][:, np.asarray(s.ages[name]) > 0])


def test_dropped_and_grown_connections_start_from_0_and_what_does_not_change_stays():
    *_, states = run()
    before, begun = states[0][2], states[1][0]
    for name in LAYERS[1:]:
        old, new = (np.asarray(mine(s).masks[name]) for s in (before, begun))
        kernels = [np.asarray(s.params[name]["kernel"]) for s in (before, begun)]
        free = np.asarray(mine(begun).ages[name]) == 0
        assert np.any(old != new) and not np.any((new & ~old)[:, ~free])
        assert np.all(kernels[1][old != new] == 0)
        np.testing.assert_array_equal(kernels[0][old == new], kernels[1][old == new])


def test_connections_change_every_so_many_steps_for_fewer_units_each_time():
    """At the sixth step, the third time: half of all activity, and so the share of 60 percent."""
    data, hooks, states = run()
    third, _ = hooks["chunk"](states[0][0], data, 0, 0, 3)
    fifth, _ = hooks["chunk"](third, data, 0, 3, 2)
    sixth, _ = hooks["chunk"](fifth, data, 0, 5, 1)
    for name in LAYERS[1:]:
        masks = [np.asarray(mine(s).masks[name]) for s in (third, fifth, sixth)]
        assert np.all(masks[0] == masks[1]) and np.any(masks[1] != masks[2])
    top = most_active(units(sixth.params, rows_in(0)[0])[0].mean(0), 0.6)
    assert np.sum((np.asarray(mine(sixth).ages["dense_0"]) == 1) != top) <= 1


def test_units_at_rest_stay_and_others_learn():
    """Below the layer from the end of their experience on; above it only when that is no longer replayed."""
    data, hooks, states = run()
    begun, trained, _ = states[1]
    for name in LAYERS:
        old, new = (np.asarray(s.params[name]["kernel"]) for s in (begun, trained))
        rest = np.asarray(mine(trained).ages[name]) > 1
        assert rest.any() and (name != "dense_0" or np.all(old[:, rest] == new[:, rest]))
        assert np.abs(new - old)[:, ~rest].max() > 1e-3 and (
            name == "dense_0" or np.abs(new - old)[:, rest].max() > 1e-3
        )
    jax.tree.map(np.testing.assert_array_equal, begun.params["head"], trained.params["head"])
    x = rows_in(0)[0]
    rest = np.asarray(mine(trained).ages["dense_0"]) > 1
    np.testing.assert_array_equal(*(units(s.params, x)[0][:, rest] for s in (begun, trained)))
    third = states[2][0]
    older = mine(third)._replace(ages={name: age + (age > 1) for name, age in mine(third).ages.items()})
    after, _ = hooks["chunk"](third._replace(method_state={**third.method_state, "sharp": older}), data, 2, 0, 1)
    for name in LAYERS[1:]:
        moved = np.any(np.asarray(after.params[name]["kernel"] != third.params[name]["kernel"]), axis=0)
        age = np.asarray(older.ages[name])
        assert moved[age == 3].any() and np.any(age == 4) and not moved[age == 4].any()


def test_the_loss_is_the_contrast_of_incoming_rows_and_of_activations_that_are_replayed():
    data, hooks, states = run()
    begun = states[1][0]
    after, record = hooks["chunk"](begun, data, 1, 0, 1)
    inputs, labels = rows_of(STREAM, after.method_state["spy"])
    s = mine(begun)
    hidden = np.asarray(s.hidden[0], np.float64)  # the other slot is of an experience that has not come
    for name in LAYERS[1:]:
        hidden = np.maximum(
            hidden @ np.asarray(begun.params[name]["kernel"]) + np.asarray(begun.params[name]["bias"]), 0
        )
    features = np.concatenate([units(begun.params, inputs)[2], hidden]) * (np.asarray(s.ages["dense_2"]) > 0)
    labels = np.concatenate([labels, s.labels[0]])
    wanted = np.mean(by_hand(features, labels, 0.3, np.ones(len(labels), bool)))
    np.testing.assert_allclose(record["loss"], wanted, rtol=1e-4)


def test_rows_are_kept_evenly_and_their_features_follow_the_network_while_they_are_replayed():
    *_, states = run()
    first, second = mine(states[0][2]), mine(states[1][2])
    params = states[1][2].params
    assert [sorted(x) for x in second.labels[:2].tolist()] == [[0] * 3 + [1] * 3, [2] * 3 + [3] * 3]
    assert second.labels[2].tolist() == [6] * SIZE
    lower = units(params, rows_in(1)[0])[0]
    assert np.abs(second.hidden[1][:, None] - lower).max(-1).min(1).max() < 1e-5
    np.testing.assert_array_equal(second.hidden[0], first.hidden[0])
    hidden = np.asarray(second.hidden, np.float64)
    for name in LAYERS[1:]:
        hidden = np.maximum(hidden @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"]), 0)
    np.testing.assert_allclose(second.features[:2], hidden, rtol=1e-4, atol=1e-5)
    assert np.abs(second.features[0] - first.features[0]).max() > 1e-3
    np.testing.assert_array_equal(second.units[0], np.asarray(first.ages["dense_2"]) == 2)
    np.testing.assert_array_equal(second.units[1], np.asarray(second.ages["dense_2"]) >= 2)
    free = np.asarray(second.ages["dense_2"]) == 0
    assert free.any() and np.all(np.asarray(params["dense_2"]["bias"])[free] == 0)


def test_features_of_rows_follow_until_their_units_rest_though_others_take_their_place_among_the_replayed():
    """The third experience moves units of the first for the last time, and takes its place."""
    *_, states = run()
    second, third, params = mine(states[1][2]), mine(states[2][2]), states[2][2].params
    hidden = np.asarray(second.hidden, np.float64)
    for name in LAYERS[1:]:
        hidden = np.maximum(hidden @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"]), 0)
    np.testing.assert_allclose(third.features[:2], hidden, rtol=1e-4, atol=1e-5)
    assert np.abs(third.features[0] - second.features[0])[:, np.asarray(second.units[0])].max() > 1e-3
    assert np.any(third.hidden[0] != second.hidden[0])


def test_the_nearest_kept_rows_vote():
    data, hooks, states = run()
    state, inputs = states[1][2], np.concatenate([rows_in(0)[0], rows_in(1)[0]])
    answered = hooks["predict"](state, data, 1, {"inputs": inputs, "weights": np.ones(len(inputs))}).logits
    s, features = mine(state), units(state.params, inputs)[2]
    near, names = [], []
    for t in range(2):
        own = np.asarray(s.units[t])
        near.append(unit(features[:, own]) @ unit(np.asarray(s.features[t], np.float64)[:, own]).T)
        names.extend(np.asarray(s.labels[t]).tolist())
    near, names = np.concatenate(near, 1), np.asarray(names)
    for row, got in zip(near, np.asarray(answered), strict=True):
        best = np.argsort(-row)[:3]
        for c in range(6):
            votes = row[best][names[best] == c]
            np.testing.assert_allclose(got[c], len(votes) + (max(votes) + 1) / 4 if len(votes) else 0, atol=1e-4)


def test_a_trained_lower_part_is_whole_and_at_rest():
    s = mine(core.start(learner_of(continual.sharp("dense_1", **OPTIONS, trained=True), model=MODEL)))
    assert np.all(s.masks["dense_0"]) and np.all(s.ages["dense_0"] == 2)
    assert s.masks["dense_1"].mean() == 0.5 and np.all(s.ages["dense_1"] == 0)


class _Normed(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=False):
        features = nn.LayerNorm()(nn.Dense(8, name="dense_0")(inputs))
        return core.Outputs(nn.Dense(6, name="head")(features), features)


class _Other(nnx.Module):
    def __init__(self, rngs):
        self.dense_0, self.head = nnx.Linear(12, 8, rngs=rngs), nnx.Linear(8, 6, rngs=rngs)

    def __call__(self, inputs):
        features = self.dense_0(inputs)
        return core.Outputs(self.head(features), features)


def test_what_it_refuses():
    for arguments, match in (
        ({"size": 0}, "size expects a whole number of at least 1, got 0"),
        ({"recent": 0}, "recent expects a whole number of at least 1, got 0"),
        ({"period": 0}, "period expects a whole number of at least 1, got 0"),
        ({"every": 0}, "every expects a whole number of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size expects a whole number of at least 1, got 0"),
        ({"neighbors": 0}, "neighbors expects a whole number of at least 1, got 0"),
        ({"rows": 0}, "rows expects a whole number of at least 1, got 0"),
        ({"density": 0.0}, "density must be above 0"),
        ({"share": 1.5}, "share must be between 0 and 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.sharp("dense_1", **arguments)
    for model, layer, arguments, match in (
        (MODEL, "head", {}, "got layer='head' among dense_0, dense_1, dense_2, head: choose one"),
        (core.from_nnx(_Other), "dense_0", {}, "of a linen model .*, got layer='dense_0' among none: choose one"),
        (MODEL, "dense_1", {"size": 67}, "the largest has 66: give a size from 5 to 66"),
        (core.from_linen(_Normed()), "dense_0", {}, "the network has LayerNorm_0.bias, LayerNorm_0.scale"),
        (core.from_linen(Skipping()), "Dense_0", {}, "sharp expects what the head is given"),
    ):
        with pytest.raises(ValueError, match=match):
            core.start(learner_of(continual.sharp(layer, **arguments), model=model))
