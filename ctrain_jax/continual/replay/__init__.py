"""Memories of earlier rows, used again."""

from ctrain_jax.continual.replay._derpp import DerppState, derpp
from ctrain_jax.continual.replay._er import ErState, er

__all__ = ["DerppState", "ErState", "derpp", "er"]
