"""The local loss: who is told apart from whom, and whose logits stay alone."""

import jax
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, testing
from tests.short import short_run
from tests.taught import spy


def test_a_step_is_the_cross_entropy_over_the_classes_of_the_experience():
    """In the second experience, of classes 2 and 3; the columns of all others stay as they were."""
    before = short_run(core.chain(continual.local_loss(), spy()), experiences=1, optimizer=optax.sgd(0.1), steps=4)
    state = short_run(core.chain(continual.local_loss(), spy()), experiences=2, optimizer=optax.sgd(0.1), steps=4)
    seen = {k: np.asarray(v, np.float64) for k, v in state.method_state["spy"][1].items()}
    own, weights = seen["logits"][:, 2:4], seen["weights"]
    losses = np.log(np.exp(own).sum(1)) - own[np.arange(8), seen["labels"].astype(int) - 2]
    np.testing.assert_allclose(seen["value"], (losses * weights).sum() / weights.sum(), rtol=1e-4)
    moved = np.abs(np.asarray(state.params["head"]["kernel"]) - np.asarray(before.params["head"]["kernel"])).max(0)
    assert moved[[0, 1, 4, 5]].tolist() == [0.0] * 4 and moved[2:4].min() > 1e-3


def test_rows_that_others_append_keep_their_classes():
    method = core.chain(continual.er(20), continual.local_loss(), spy(16))
    for known, of_memory in ((False, [True] * 6), (True, [True, True, False, False, False, False])):
        state = short_run(method, stream=testing.standard_stream(task_known=known), steps=4)
        classes = np.asarray(state.method_state["spy"][1]["classes"])
        assert classes[:8].tolist() == [[False, False, True, True, False, False]] * 8
        assert of_memory in classes[8:].tolist()


def test_where_all_classes_come_together_it_is_plain_training():
    stream = testing.standard_stream()._replace(heads="all")
    everything = jax.tree.map(lambda x: x, stream.experiences)
    train = everything["train"]._replace(classes=np.ones_like(everything["train"].classes))
    stream = stream._replace(experiences={**everything, "train": train})
    local, plain = (short_run(m, stream=stream, steps=4) for m in (continual.local_loss(), core.identity()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), local.params, plain.params)


def test_it_comes_after_methods_that_append_rows():
    with pytest.raises(ValueError, match="no classes: put the method that appends rows before the one that adds"):
        short_run(core.chain(continual.local_loss(), continual.er(20)), steps=1)


def test_a_mixture_with_an_appended_row_has_the_classes_of_both():
    for masking in (continual.local_loss(), continual.er_ace(20)):
        mixture = continual.augmentation(crop=0, flip=False, mixup=1.0)
        method = core.chain(continual.er(20), mixture, masking, spy(16))
        value = short_run(method, steps=4, optimizer=optax.sgd(0.1)).method_state["spy"][1]["value"]
        assert 0 < value < 10, masking.name
