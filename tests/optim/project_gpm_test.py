"""project_gpm against the projection by least squares, for kernels of dense layers and of convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import models, optim


def basis(rng, rows, columns, unused=0):
    """Orthonormal columns, then zeros."""
    q = np.linalg.qr(rng.normal(size=(rows, columns)))[0]
    return jnp.asarray(np.pad(q, ((0, 0), (0, unused))), jnp.float32)


def example():
    rng = np.random.default_rng(0)
    shapes = {"dense": (6, 4), "conv": (3, 3, 2, 5), "heads": (6, 2, 4), "bias": (4,), "free": (7, 3)}
    updates = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    bases = {"dense": basis(rng, 6, 2, 1), "conv": basis(rng, 18, 5, 2), "heads": basis(rng, 6, 3)}
    bases |= {"bias": jnp.zeros((1, 1)), "free": jnp.zeros((7, 0))}
    return updates, bases


def project(updates, bases):
    tx = optim.project_gpm()
    return jax.jit(tx.update)(updates, tx.init(updates), bases=bases)[0]


def test_what_is_left_is_the_residual_of_least_squares():
    updates, bases = example()
    found = project(updates, bases)
    for name in ("dense", "conv", "heads"):
        used = np.asarray(bases[name], np.float64)
        used = used[:, np.any(used != 0, axis=0)]
        matrix = np.asarray(updates[name], np.float64).reshape(len(used), -1)
        fit = used @ np.linalg.lstsq(used, matrix, rcond=None)[0]
        np.testing.assert_allclose(found[name].reshape(matrix.shape), matrix - fit, atol=1e-6)
        assert np.abs(fit).max() > 0.1
    jax.tree.map(np.testing.assert_array_equal, [found["bias"], found["free"]], [updates["bias"], updates["free"]])


def test_no_input_of_the_subspace_notices_the_update_of_a_convolution():
    """By the layer's own arithmetic: an image whose patches all lie in the subspace, here a constant one."""
    layer = models.Conv(4, (3, 3), padding="VALID", use_bias=False)
    image = jnp.full((1, 5, 5, 2), 1.7)
    patch = layer.unfold(image)[0, 0]
    update = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, 2, 4)), jnp.float32)
    moved = project({"kernel": update}, {"kernel": (patch / jnp.linalg.norm(patch))[:, None]})
    assert jnp.abs(layer.apply({"params": {"kernel": update}}, image)).max() > 1
    np.testing.assert_allclose(layer.apply({"params": moved}, image), 0.0, atol=1e-5)


def test_a_bias_is_a_kernel_whose_input_is_constant():
    moved = project({"bias": jnp.ones(4)}, {"bias": jnp.ones((1, 1))})
    np.testing.assert_array_equal(moved["bias"], jnp.zeros(4))


def test_dtypes_stay():
    update = jnp.ones((2, 3), jnp.bfloat16)
    assert project(update, jnp.eye(2, 1)).dtype == jnp.bfloat16


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"whose rows are its leading axes, got \(5, 1\) for a leaf of shape \(2, 3\)"):
        project(jnp.ones((2, 3)), jnp.ones((5, 1)))
    with pytest.raises(ValueError, match="project_gpm expects bases= among"):
        optim.project_gpm().update(jnp.ones(2), optax.EmptyState())
