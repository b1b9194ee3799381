"""Losses of arrays, row by row: pure functions that depend on jax and optax alone."""

from ctrain_jax.losses._info_nce import info_nce
from ctrain_jax.losses._normalized_cross_entropy import normalized_cross_entropy
from ctrain_jax.losses._present_class_ce import present_class_ce
from ctrain_jax.losses._proxy_contrastive import proxy_contrastive
from ctrain_jax.losses._softened_cross_entropy import softened_cross_entropy
from ctrain_jax.losses._supervised_contrastive import supervised_contrastive

__all__ = [
    "info_nce",
    "normalized_cross_entropy",
    "present_class_ce",
    "proxy_contrastive",
    "softened_cross_entropy",
    "supervised_contrastive",
]
