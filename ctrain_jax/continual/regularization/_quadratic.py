"""The penalty that the methods of this folder share: a weighted squared distance to an anchor."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def quadratic(importance: Any, params: Any, anchor: Any) -> jax.Array:
    r""":math:`\sum_i \Omega_i (\theta_i - \theta^*_i)^2` over all entries of three trees of one structure."""
    terms = jax.tree.map(lambda o, p, a: jnp.sum(o * jnp.square(p - a)), importance, params, anchor)
    return jnp.asarray(optax.tree.sum(terms))
