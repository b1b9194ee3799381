"""Architecture: what a network is made of follows the stream."""

from ctrain_jax.continual.architecture._clr import clr
from ctrain_jax.continual.architecture._dkvb import dkvb
from ctrain_jax.continual.architecture._dst_cl import DstClState, dst_cl
from ctrain_jax.continual.architecture._ear import EarState, ear
from ctrain_jax.continual.architecture._expert_gate import ExpertGateState, expert_gate
from ctrain_jax.continual.architecture._exssnet import ExssnetState, exssnet
from ctrain_jax.continual.architecture._gcab import GcabState, gcab
from ctrain_jax.continual.architecture._hyperinterval import HyperintervalState, hyperinterval
from ctrain_jax.continual.architecture._mamba_fscil import MambaFscilState, mamba_fscil
from ctrain_jax.continual.architecture._mip_hypernet import mip_hypernet
from ctrain_jax.continual.architecture._mos import mos
from ctrain_jax.continual.architecture._packnet import PacknetState, packnet
from ctrain_jax.continual.architecture._recurrent_hypernetwork import recurrent_hypernetwork
from ctrain_jax.continual.architecture._sharp import sharp
from ctrain_jax.continual.architecture._supsup import supsup

__all__ = [
    "DstClState",
    "EarState",
    "ExpertGateState",
    "ExssnetState",
    "GcabState",
    "HyperintervalState",
    "MambaFscilState",
    "PacknetState",
    "clr",
    "dkvb",
    "dst_cl",
    "ear",
    "expert_gate",
    "exssnet",
    "gcab",
    "hyperinterval",
    "mamba_fscil",
    "mip_hypernet",
    "mos",
    "packnet",
    "recurrent_hypernetwork",
    "sharp",
    "supsup",
]
