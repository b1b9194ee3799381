"""What arrives, in which order, over which data: sources (data sets at rest) and scenarios (streams of them)."""

from ctrain_jax.streams._corrupted import corrupted
from ctrain_jax.streams._drift import drifting, hyperplane, sea, series
from ctrain_jax.streams._few_shot_class_incremental import few_shot_class_incremental
from ctrain_jax.streams._generalized_class_incremental import generalized_class_incremental
from ctrain_jax.streams._nevis import nevis
from ctrain_jax.streams._noise import imbalanced, label_noise
from ctrain_jax.streams._on_host import on_host
from ctrain_jax.streams._order_stream import order_stream
from ctrain_jax.streams._power_law import power_law
from ctrain_jax.streams._scenarios import (
    class_incremental,
    cumulative,
    domain_incremental,
    joint,
    task_incremental,
)
from ctrain_jax.streams._scole import scole
from ctrain_jax.streams._selection import only_classes, selection
from ctrain_jax.streams._si_blurry import si_blurry
from ctrain_jax.streams._sources import arrays, digits, fashion_mnist
from ctrain_jax.streams._text import Tokenizer, byte_pairs, text
from ctrain_jax.streams._tfds import tfds
from ctrain_jax.streams._views import permuted, rotated

__all__ = [
    "Tokenizer",
    "arrays",
    "byte_pairs",
    "class_incremental",
    "corrupted",
    "cumulative",
    "digits",
    "domain_incremental",
    "drifting",
    "fashion_mnist",
    "few_shot_class_incremental",
    "generalized_class_incremental",
    "hyperplane",
    "imbalanced",
    "joint",
    "label_noise",
    "nevis",
    "on_host",
    "only_classes",
    "order_stream",
    "permuted",
    "power_law",
    "rotated",
    "scole",
    "sea",
    "selection",
    "series",
    "si_blurry",
    "task_incremental",
    "text",
    "tfds",
]
