"""Fixed features and statistics that do not forget."""

from ctrain_jax.continual.representation._fetril import FetrilState, fetril
from ctrain_jax.continual.representation._gacil import GacilState, gacil
from ctrain_jax.continual.representation._lingocl import lingocl
from ctrain_jax.continual.representation._nmc import NmcState, nmc
from ctrain_jax.continual.representation._prd import PrdState, prd
from ctrain_jax.continual.representation._slca import SlcaState, slca

__all__ = [
    "FetrilState",
    "GacilState",
    "NmcState",
    "PrdState",
    "SlcaState",
    "fetril",
    "gacil",
    "lingocl",
    "nmc",
    "prd",
    "slca",
]
