"""Memories of earlier rows, used again; and rows changed on their way."""

from ctrain_jax.continual.replay._augmentation import AugmentationState, augmentation
from ctrain_jax.continual.replay._bic import BicState, bic
from ctrain_jax.continual.replay._der import DerState, der
from ctrain_jax.continual.replay._derpp import DerppState, derpp
from ctrain_jax.continual.replay._er import ErState, er
from ctrain_jax.continual.replay._er_ace import ErAceState, er_ace
from ctrain_jax.continual.replay._gdumb import GdumbState, gdumb
from ctrain_jax.continual.replay._generative_replay import GenerativeReplayState, generative_replay
from ctrain_jax.continual.replay._gss import GssState, gss
from ctrain_jax.continual.replay._hpcr import HpcrState, hpcr
from ctrain_jax.continual.replay._icarl import IcarlState, icarl
from ctrain_jax.continual.replay._lucir import LucirState, lucir
from ctrain_jax.continual.replay._mir import MirState, mir
from ctrain_jax.continual.replay._pcr import PcrState, pcr
from ctrain_jax.continual.replay._scr import ScrState, scr
from ctrain_jax.continual.replay._three_way import ThreeWayState, three_way
from ctrain_jax.continual.replay._uer import UerState, uer
from ctrain_jax.continual.replay._wa import WaState, wa

__all__ = [
    "AugmentationState",
    "BicState",
    "DerState",
    "DerppState",
    "ErAceState",
    "ErState",
    "GdumbState",
    "GenerativeReplayState",
    "GssState",
    "HpcrState",
    "IcarlState",
    "LucirState",
    "MirState",
    "PcrState",
    "ScrState",
    "ThreeWayState",
    "UerState",
    "WaState",
    "augmentation",
    "bic",
    "der",
    "derpp",
    "er",
    "er_ace",
    "gdumb",
    "generative_replay",
    "gss",
    "hpcr",
    "icarl",
    "lucir",
    "mir",
    "pcr",
    "scr",
    "three_way",
    "uer",
    "wa",
]
