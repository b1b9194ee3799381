"""Continual learning: methods that live through a stream."""

from ctrain_jax.continual.optimization import agem, gem, gpm, refresh
from ctrain_jax.continual.regularization import ewc, l2_anchor, lwf, mas, rwalk, si
from ctrain_jax.continual.replay import (
    bic,
    der,
    derpp,
    er,
    er_ace,
    gdumb,
    generative_replay,
    icarl,
    lucir,
    mir,
    scr,
    wa,
)
from ctrain_jax.continual.representation import gacil, nmc

__all__ = [
    "agem",
    "bic",
    "der",
    "derpp",
    "er",
    "er_ace",
    "ewc",
    "gacil",
    "gdumb",
    "gem",
    "generative_replay",
    "gpm",
    "icarl",
    "l2_anchor",
    "lucir",
    "lwf",
    "mas",
    "mir",
    "nmc",
    "refresh",
    "rwalk",
    "scr",
    "si",
    "wa",
]
