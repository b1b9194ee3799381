"""Helpers of the families: pure functions of arrays and pytrees."""

from ctrain_jax.ops._buffers import Buffer, BufferState, class_balanced, greedy_balanced, reservoir, ring, wait_for
from ctrain_jax.ops._checks import check_choice, check_fraction, check_non_negative, check_positive, check_size
from ctrain_jax.ops._exemplars import Exemplars, ExemplarState, exemplars, holds
from ctrain_jax.ops._fisher import absolute_gradients, fisher_diagonal
from ctrain_jax.ops._herding import herding
from ctrain_jax.ops._memory import Memory, append_rows, memory
from ctrain_jax.ops._permutation import permute_index

__all__ = [
    "Buffer",
    "BufferState",
    "ExemplarState",
    "Exemplars",
    "Memory",
    "absolute_gradients",
    "append_rows",
    "check_choice",
    "check_fraction",
    "check_non_negative",
    "check_positive",
    "check_size",
    "class_balanced",
    "exemplars",
    "fisher_diagonal",
    "greedy_balanced",
    "herding",
    "holds",
    "memory",
    "permute_index",
    "reservoir",
    "ring",
    "wait_for",
]
