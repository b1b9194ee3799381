"""Fixed features and statistics that do not forget."""

from ctrain_jax.continual.representation._cat import CatState, cat
from ctrain_jax.continual.representation._ctp import CtpState, ctp
from ctrain_jax.continual.representation._fetril import FetrilState, fetril
from ctrain_jax.continual.representation._fscil_tricks import (
    ContrastState,
    PreassignedState,
    SubnetworkState,
    contrast,
    fscil_tricks,
    preassigned,
    pseudo_classes,
    quarter_turns,
    subnetwork,
)
from ctrain_jax.continual.representation._gacil import GacilState, gacil
from ctrain_jax.continual.representation._lingocl import lingocl
from ctrain_jax.continual.representation._nmc import NmcState, nmc
from ctrain_jax.continual.representation._prd import PrdState, prd
from ctrain_jax.continual.representation._slca import SlcaState, slca

__all__ = [
    "CatState",
    "ContrastState",
    "CtpState",
    "FetrilState",
    "GacilState",
    "NmcState",
    "PrdState",
    "PreassignedState",
    "SlcaState",
    "SubnetworkState",
    "cat",
    "contrast",
    "ctp",
    "fetril",
    "fscil_tricks",
    "gacil",
    "lingocl",
    "nmc",
    "prd",
    "preassigned",
    "pseudo_classes",
    "quarter_turns",
    "slca",
    "subnetwork",
]
