"""Continual learning, distillation and the training algorithms around them, in JAX, as pure functions."""

from ctrain_jax import analysis, continual, core, fault, losses, metrics, models, ops, optim, peft, streams
from ctrain_jax._version import __version__

__all__ = [
    "__version__",
    "analysis",
    "continual",
    "core",
    "fault",
    "losses",
    "metrics",
    "models",
    "ops",
    "optim",
    "peft",
    "streams",
]
