"""Continual learning, distillation and the training algorithms around them, in JAX, as pure functions."""

from ctrain_jax import continual, core, metrics, models, ops, peft, streams
from ctrain_jax._version import __version__

__all__ = ["__version__", "continual", "core", "metrics", "models", "ops", "peft", "streams"]
