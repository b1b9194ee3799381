"""Helpers of the families: pure functions of arrays and pytrees."""

from ctrain_jax.ops._augment import color_jitter, random_crop, random_flip
from ctrain_jax.ops._bilinear import bilinear
from ctrain_jax.ops._buffers import Buffer, BufferState, class_balanced, greedy_balanced, reservoir, ring, wait_for
from ctrain_jax.ops._checks import (
    check_choice,
    check_fraction,
    check_non_negative,
    check_pattern,
    check_positive,
    check_size,
    check_wrapped,
)
from ctrain_jax.ops._class_gaussians import ClassGaussians, add_to_gaussians, class_gaussians, gaussian_sampler
from ctrain_jax.ops._density import erk_density
from ctrain_jax.ops._each_row import each_row, labeled_features
from ctrain_jax.ops._exemplars import Exemplars, ExemplarState, exemplars, holds
from ctrain_jax.ops._fisher import absolute_gradients, fisher_diagonal
from ctrain_jax.ops._hdc import hdc_encode
from ctrain_jax.ops._herding import herding
from ctrain_jax.ops._interval_bounds import interval_bounds
from ctrain_jax.ops._linear_head import LinearHead, fit_head
from ctrain_jax.ops._masks import straight_through, top_k_mask
from ctrain_jax.ops._matrix import matrix_shape
from ctrain_jax.ops._memory import Memory, append_rows, memory
from ctrain_jax.ops._mip_encode import mip_encode
from ctrain_jax.ops._mix import cutmix, mixup
from ctrain_jax.ops._naswot import naswot
from ctrain_jax.ops._permutation import permute_index
from ctrain_jax.ops._rand_augment import rand_augment
from ctrain_jax.ops._restart import restart
from ctrain_jax.ops._ridge import ridge
from ctrain_jax.ops._selective_scan import selective_scan
from ctrain_jax.ops._targets import hierarchical_targets, simplex_targets, unit

__all__ = [
    "Buffer",
    "BufferState",
    "ClassGaussians",
    "ExemplarState",
    "Exemplars",
    "LinearHead",
    "Memory",
    "absolute_gradients",
    "add_to_gaussians",
    "append_rows",
    "bilinear",
    "check_choice",
    "check_fraction",
    "check_non_negative",
    "check_pattern",
    "check_positive",
    "check_size",
    "check_wrapped",
    "class_balanced",
    "class_gaussians",
    "color_jitter",
    "cutmix",
    "erk_density",
    "each_row",
    "exemplars",
    "fisher_diagonal",
    "fit_head",
    "gaussian_sampler",
    "greedy_balanced",
    "hdc_encode",
    "herding",
    "hierarchical_targets",
    "holds",
    "interval_bounds",
    "labeled_features",
    "matrix_shape",
    "memory",
    "mip_encode",
    "mixup",
    "naswot",
    "permute_index",
    "rand_augment",
    "random_crop",
    "random_flip",
    "reservoir",
    "restart",
    "ridge",
    "ring",
    "selective_scan",
    "simplex_targets",
    "straight_through",
    "top_k_mask",
    "unit",
    "wait_for",
]
