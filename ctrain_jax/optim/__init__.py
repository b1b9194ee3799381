"""Optax transforms and schedules: use them in any JAX project, they depend on jax and optax alone."""

from ctrain_jax.optim._diffgrad import diffgrad, scale_by_diffgrad
from ctrain_jax.optim._meta_schedule import meta_schedule
from ctrain_jax.optim._project_agem import project_agem
from ctrain_jax.optim._project_gem import project_gem
from ctrain_jax.optim._project_gpm import project_gpm
from ctrain_jax.optim._refined_linear_decay import last_iterate, record_gradient_norms, refined_linear_decay
from ctrain_jax.optim._sam import sam
from ctrain_jax.optim._scale_by_session import scale_by_session

__all__ = [
    "diffgrad",
    "last_iterate",
    "meta_schedule",
    "project_agem",
    "project_gem",
    "project_gpm",
    "record_gradient_norms",
    "refined_linear_decay",
    "sam",
    "scale_by_diffgrad",
    "scale_by_session",
]
