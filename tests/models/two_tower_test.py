"""Two towers: each sees its half alone, places are of length 1, and what is no pair is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax.models import MLP, TwoTower


def test_each_view_is_placed_by_its_own_mlp():
    model, inputs = TwoTower(3, hidden=(4,)), np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    variables = model.init(jax.random.key(0), inputs)
    outputs = model.apply(variables, inputs)
    features = []
    for v, (name, view) in enumerate((("first", inputs[:, :2]), ("second", inputs[:, 2:]))):
        tower = MLP(3, hidden=(4,)).apply({"params": variables["params"][name]}, view)
        expected = tower.logits / np.linalg.norm(tower.logits, axis=1, keepdims=True)
        np.testing.assert_allclose(outputs.logits[:, v], expected, rtol=1e-5)
        features.append(tower.features)
    np.testing.assert_allclose(outputs.features, np.concatenate(features, axis=1), rtol=1e-5)


def test_what_is_no_pair_is_refused():
    for shape in ((2, 5), (4,)):
        with pytest.raises(ValueError, match="must be pairs"):
            jax.eval_shape(TwoTower(3).init, jax.random.key(0), jnp.zeros(shape))
    with pytest.raises(ValueError, match="num_classes"):
        jax.eval_shape(TwoTower(0).init, jax.random.key(0), jnp.zeros((2, 4)))
