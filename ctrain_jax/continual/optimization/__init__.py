"""The gradient, the update and the start of an experience, changed for the sake of what was learned."""

from ctrain_jax.continual.optimization._adaptive_ema import AdaptiveEmaState, adaptive_ema
from ctrain_jax.continual.optimization._agem import AgemState, agem
from ctrain_jax.continual.optimization._fast_slow import FastSlowState, fast_slow
from ctrain_jax.continual.optimization._gem import GemState, gem
from ctrain_jax.continual.optimization._gpm import GpmState, gpm
from ctrain_jax.continual.optimization._hlop import HlopState, hlop
from ctrain_jax.continual.optimization._osf import OsfState, osf
from ctrain_jax.continual.optimization._refresh import RefreshState, refresh
from ctrain_jax.continual.optimization._reinitialize import reinitialize
from ctrain_jax.continual.optimization._weight_interpolation import WeightInterpolationState, weight_interpolation

__all__ = [
    "AdaptiveEmaState",
    "AgemState",
    "FastSlowState",
    "GemState",
    "GpmState",
    "HlopState",
    "OsfState",
    "RefreshState",
    "WeightInterpolationState",
    "adaptive_ema",
    "agem",
    "fast_slow",
    "gem",
    "gpm",
    "hlop",
    "osf",
    "refresh",
    "reinitialize",
    "weight_interpolation",
]
