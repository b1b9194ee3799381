"""Continual learning: methods that live through a stream."""

from ctrain_jax.continual.regularization import ewc
from ctrain_jax.continual.replay import derpp, er
from ctrain_jax.continual.representation import gacil, nmc

__all__ = ["derpp", "er", "ewc", "gacil", "nmc"]
