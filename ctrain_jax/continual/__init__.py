"""Continual learning: methods that live through a stream."""

from ctrain_jax.continual.optimization import agem, gem, gpm, refresh, reinitialize, weight_interpolation
from ctrain_jax.continual.regularization import ewc, l2_anchor, lwf, mas, rwalk, si
from ctrain_jax.continual.replay import (
    augmentation,
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
    three_way,
    wa,
)
from ctrain_jax.continual.representation import gacil, lingocl, nmc

__all__ = [
    "agem",
    "augmentation",
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
    "lingocl",
    "lucir",
    "lwf",
    "mas",
    "mir",
    "nmc",
    "refresh",
    "reinitialize",
    "rwalk",
    "scr",
    "si",
    "three_way",
    "wa",
    "weight_interpolation",
]
