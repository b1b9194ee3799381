"""The scan against the recurrence, a position after the other."""

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.ops import selective_scan


def test_it_is_the_recurrence_and_so_is_its_gradient():
    rng = np.random.default_rng(0)
    x, delta = rng.normal(size=(2, 3, 7, 4)), rng.uniform(0.1, 1, size=(2, 3, 7, 4))
    a, d = -rng.uniform(0.5, 2, size=(4, 5)), rng.normal(size=4)
    b, c = rng.normal(size=(2, 3, 7, 5)), rng.normal(size=(2, 3, 7, 5))

    def one_by_one(x, delta, a, b, c, d):
        h, y = jnp.zeros((2, 3, 4, 5)), []
        for t in range(7):
            h = jnp.exp(delta[..., t, :, None] * a) * h + (delta * x)[..., t, :, None] * b[..., t, None, :]
            y.append(jnp.sum(h * c[..., t, None, :], -1) + d * x[..., t, :])
        return jnp.stack(y, -2)

    given = tuple(map(jnp.asarray, (x, delta, a, b, c, d)))
    weights = jnp.asarray(rng.normal(size=x.shape))

    def both(scan):
        def run(given):
            y, back = jax.vjp(scan, *given)
            return y, back(weights)

        return jax.jit(run)(given)

    (y, own), (answer, expected) = map(both, (selective_scan, one_by_one))
    np.testing.assert_allclose(y, answer, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-3, atol=1e-4), own, expected)


def test_without_time_nothing_enters_and_what_passes_by_stays():
    x = jnp.arange(6.0).reshape(3, 2)
    y = jax.jit(selective_scan)(
        x, jnp.zeros((3, 2)), -jnp.ones((2, 1)), jnp.ones((3, 1)), jnp.ones((3, 1)), jnp.array([2.0, 3.0])
    )
    np.testing.assert_array_equal(y, x * jnp.array([2.0, 3.0]))
