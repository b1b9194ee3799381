"""Penalties that keep what was learned."""

from ctrain_jax.continual.regularization._ewc import EwcState, ewc

__all__ = ["EwcState", "ewc"]
