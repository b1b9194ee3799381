"""What arrives, in which order, over which data: sources (data sets at rest) and scenarios (streams of them)."""

from ctrain_jax.streams._scenarios import (
    class_incremental,
    cumulative,
    domain_incremental,
    joint,
    task_incremental,
)
from ctrain_jax.streams._sources import arrays, digits, fashion_mnist
from ctrain_jax.streams._tfds import tfds
from ctrain_jax.streams._views import permuted, rotated

__all__ = [
    "arrays",
    "class_incremental",
    "cumulative",
    "digits",
    "domain_incremental",
    "fashion_mnist",
    "joint",
    "permuted",
    "rotated",
    "task_incremental",
    "tfds",
]
