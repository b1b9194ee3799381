"""HPCR against the loss of a step in float64 and its differences, PCR without its additions, and what it stores."""

import jax
import numpy as np
import pytest

from ctrain_jax import continual, core
from tests.continual.pcr_test import TEMPERATURE, angles, slopes_agree
from tests.continual.pcr_test import make as pcr
from tests.losses.proxy_contrastive_test import by_hand
from tests.losses.supervised_contrastive_test import by_hand as contrast
from tests.rehearsed import Headless, answers, drawn, learner_of, rows_of, second_step, unit

ALPHA, BETA, LOW, HIGH, PERIOD = 0.3, 0.7, 0.5, 2.0, 5


def make():
    return continual.hpcr(20, temperature=TEMPERATURE, scales=(LOW, HIGH), period=PERIOD, alpha=ALPHA, beta=BETA)


def bare(**options):
    return continual.hpcr(20, temperature=TEMPERATURE, scales=(1.0, 1.0), alpha=0.0, beta=0.0, **options)


def bare_under_its_name():
    """Random numbers belong to names."""
    return bare()._replace(name="pcr")


def bare_with_samples():
    return bare(samples=True)


def scale(i):
    return LOW + (HIGH - LOW) / 2 * (1 - np.cos(2 * np.pi * i / PERIOD))


def seen(r, name="hpcr"):
    """Inputs and labels of the incoming and the replayed rows of the second step, and the records of the latter."""
    records = drawn(r, name)
    x, labels = map(np.concatenate, zip(*(rows_of(r.learner.stream, rows) for rows in (r.batch, records)), strict=True))
    return x, labels, records


def softmax_of_others(h):
    """Of the cosines of each row with all others, over the temperature."""
    exps = np.exp(unit(h) @ unit(h).T / TEMPERATURE) * (1 - np.eye(len(h)))
    return exps / exps.sum(1, keepdims=True)


def test_a_step_goes_down_the_scaled_contrast_and_what_replayed_rows_were_near_to():
    r = second_step(make, rows=8)
    x, labels, old = seen(r)
    assert set(labels[8:]) > {0, 1} and int(r.after.method_state["hpcr"].step) == 2, "counted from the experience on"
    was = softmax_of_others(old["features"].astype(np.float64))

    def value(params):
        z = angles(params, x)
        moved = np.mean((z[8:, labels] - old["logits"][:, labels].astype(np.float64) / TEMPERATURE) ** 2)
        near = softmax_of_others(answers(params, x[8:])[1])
        turned = -np.sum(np.where(was > 0, was * np.log(np.where(was > 0, near, 1.0)), 0.0)) / 8
        return scale(1) * np.mean(by_hand(z, labels, np.ones(16))) + ALPHA * moved + BETA * turned

    np.testing.assert_allclose(r.loss, value(r.before.params), rtol=1e-5)
    slopes_agree(r, value)


def test_a_stored_row_keeps_the_logits_and_features_of_before_the_update():
    r = second_step(make, rows=8)
    first, _ = r.chunk(core.start(r.learner), r.data, 0, 0, 1)
    second, _ = r.chunk(first, r.data, 0, 1, 1)
    stored = jax.tree.map(lambda x: np.asarray(x)[8:16], second.method_state["hpcr"].buffer.records)
    x, _ = rows_of(r.learner.stream, stored)
    np.testing.assert_allclose(stored["logits"], TEMPERATURE * angles(first.params, x), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stored["features"], answers(first.params, x)[1], rtol=1e-4, atol=1e-6)


def test_in_the_first_experience_nothing_is_kept():
    r = second_step(make, rows=8)
    before, _ = r.chunk(core.start(r.learner), r.data, 0, 0, 2)
    own = before.method_state["hpcr"]
    strong = before._replace(method_state={**before.method_state, "hpcr": own._replace(alpha=9.0, beta=9.0)})
    losses = [r.chunk(state, r.data, 0, 2, 1)[1]["loss"] for state in (before, strong)]
    assert losses[0] == losses[1] > 0


def test_without_its_additions_it_is_pcr():
    ours, plain = (second_step(f, rows=8) for f in (bare_under_its_name, pcr))
    assert ours.loss == plain.loss
    jax.tree.map(np.testing.assert_array_equal, ours.after.params, plain.after.params)


def test_with_samples_rows_and_their_proxies_are_contrasted_with_one_another():
    r = second_step(bare_with_samples, rows=8)
    x, labels, _ = seen(r)
    proxies = np.asarray(r.before.params["head"]["kernel"], np.float64).T[labels]
    points = np.concatenate([answers(r.before.params, x)[1], proxies])
    wanted = np.mean(contrast(points, np.tile(labels, 2), TEMPERATURE, np.ones(32, bool)))
    np.testing.assert_allclose(r.loss, wanted, rtol=1e-5)


def test_what_it_refuses():
    for arguments, match in (
        ({"size": 0}, "size expects a whole number of at least 1, got 0"),
        ({"size": 5, "batch_size": 0}, "batch_size expects a whole number of at least 1, got 0"),
        ({"size": 5, "temperature": 0.0}, "temperature must be above 0"),
        ({"size": 5, "period": 0.0}, "period must be above 0"),
        ({"size": 5, "scales": (1.0,)}, "scales expects two numbers, got 1"),
        ({"size": 5, "scales": (-1.0, 1.0)}, r"scales\[0\] must be 0 or above"),
        ({"size": 5, "alpha": -1.0}, "alpha must be 0 or above"),
        ({"size": 5, "beta": -1.0}, "beta must be 0 or above"),
        ({"size": 5, "policy": "fifo"}, "policy must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.hpcr(**arguments)
    with pytest.raises(ValueError, match="hpcr expects the last layer .* name it 'head'"):
        learner_of(continual.hpcr(4), model=core.from_linen(Headless()))
