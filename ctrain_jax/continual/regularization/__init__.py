"""Penalties that keep what was learned."""

from ctrain_jax.continual.regularization._binary_variational import BinaryVariationalState, binary_variational
from ctrain_jax.continual.regularization._ewc import EwcState, ewc
from ctrain_jax.continual.regularization._feature_distillation import (
    FeatureDistillationState,
    feature_distillation,
)
from ctrain_jax.continual.regularization._l2_anchor import L2AnchorState, l2_anchor
from ctrain_jax.continual.regularization._local_loss import local_loss
from ctrain_jax.continual.regularization._lwf import LwfState, lwf
from ctrain_jax.continual.regularization._mas import MasState, mas
from ctrain_jax.continual.regularization._ovor import OvorState, ovor
from ctrain_jax.continual.regularization._rwalk import RwalkState, rwalk
from ctrain_jax.continual.regularization._selfless import SelflessState, selfless
from ctrain_jax.continual.regularization._si import SiState, si
from ctrain_jax.continual.regularization._task_free_mas import TaskFreeMasState, task_free_mas

__all__ = [
    "BinaryVariationalState",
    "EwcState",
    "FeatureDistillationState",
    "L2AnchorState",
    "LwfState",
    "MasState",
    "OvorState",
    "RwalkState",
    "SelflessState",
    "SiState",
    "TaskFreeMasState",
    "binary_variational",
    "ewc",
    "feature_distillation",
    "l2_anchor",
    "local_loss",
    "lwf",
    "mas",
    "ovor",
    "rwalk",
    "selfless",
    "si",
    "task_free_mas",
]
