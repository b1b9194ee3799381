"""The gradient and the update, changed for the sake of what was learned."""

from ctrain_jax.continual.optimization._agem import AgemState, agem
from ctrain_jax.continual.optimization._gem import GemState, gem
from ctrain_jax.continual.optimization._gpm import GpmState, gpm
from ctrain_jax.continual.optimization._refresh import RefreshState, refresh

__all__ = ["AgemState", "GemState", "GpmState", "RefreshState", "agem", "gem", "gpm", "refresh"]
