"""Feature distillation against its loss written out."""

import jax
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core
from tests.short import short_run
from tests.taught import spy


def test_the_loss_is_the_squared_distance_of_features_written_out():
    """Of the last step of each experience: nothing is added in the first."""
    method = core.chain(continual.feature_distillation(0.7), spy())
    for experiences in (1, 2):
        state = short_run(method, experiences=experiences, optimizer=optax.sgd(0.1), steps=4)
        seen = {k: np.asarray(v, np.float64) for k, v in state.method_state["spy"][1].items()}
        logits, weights = seen["logits"] - seen["logits"].max(1, keepdims=True), seen["weights"]
        plain = np.log(np.exp(logits).sum(1)) - logits[np.arange(8), seen["labels"].astype(int)]
        moved = ((seen["features"] - seen["old_features"]) ** 2).sum(1)
        assert moved.min() > 1e-4
        expected = ((plain + (experiences == 2) * 0.7 * moved) * weights).sum() / weights.sum()
        np.testing.assert_allclose(seen["value"], expected, rtol=1e-4)


def test_without_lam_it_is_plain_training():
    off, plain = (
        short_run(m, optimizer=optax.sgd(0.05)) for m in (continual.feature_distillation(0.0), core.identity())
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), off.params, plain.params)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="lam must be 0 or above"):
        continual.feature_distillation(-1.0)
