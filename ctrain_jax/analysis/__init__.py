"""Numbers from weights, gradients and trajectories: pure functions that depend on jax and optax alone."""

from ctrain_jax.analysis._gradient_split import GradientSplit, gradient_split

__all__ = ["GradientSplit", "gradient_split"]
