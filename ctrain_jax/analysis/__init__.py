"""Numbers from weights, gradients, features and trajectories: pure functions that depend on jax and optax alone."""

from ctrain_jax.analysis._gradient_split import GradientSplit, gradient_split
from ctrain_jax.analysis._learning_curve_fit import (
    LearningCurveFit,
    PowerLaw,
    fit_power,
    learning_curve_fit,
    predict_power,
    should_stop,
)
from ctrain_jax.analysis._rankme import rankme
from ctrain_jax.analysis._similarity import linear_cka, procrustes

__all__ = [
    "GradientSplit",
    "LearningCurveFit",
    "PowerLaw",
    "fit_power",
    "gradient_split",
    "learning_curve_fit",
    "linear_cka",
    "predict_power",
    "procrustes",
    "rankme",
    "should_stop",
]
