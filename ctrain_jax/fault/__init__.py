"""Training that goes on when machines fail."""

from ctrain_jax.fault._checkfree import checkfree, neighbour_recover, swap_order
from ctrain_jax.fault._elaswave import Elaswave, ElaswaveState, elaswave, sample_key, simulate
from ctrain_jax.fault._universal_checkpoint import Held, UniversalCheckpoint, universal_checkpoint

__all__ = [
    "Elaswave",
    "ElaswaveState",
    "Held",
    "UniversalCheckpoint",
    "checkfree",
    "elaswave",
    "neighbour_recover",
    "sample_key",
    "simulate",
    "swap_order",
    "universal_checkpoint",
]
