"""Numbers from outputs: what a run achieved, kept and forgot, and how sure we are."""

from ctrain_jax.metrics._interval import Interval, format_interval, mean_interval
from ctrain_jax.metrics._l2_metrics import (
    L2Metrics,
    l2_metrics,
    performance_maintenance,
    performance_recovery,
    recovery_times,
    relative_performance,
    sample_efficiency,
    transfer,
)
from ctrain_jax.metrics._matrix import (
    average_incremental_accuracy,
    backward_transfer,
    final_accuracy,
    forgetting,
    forward_transfer,
    learning_accuracy,
    seen_accuracy,
)
from ctrain_jax.metrics._stability_gap import (
    StabilityGap,
    minimum_accuracy,
    stability_gap,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_accuracy,
)

__all__ = [
    "Interval",
    "L2Metrics",
    "StabilityGap",
    "average_incremental_accuracy",
    "backward_transfer",
    "final_accuracy",
    "forgetting",
    "format_interval",
    "forward_transfer",
    "l2_metrics",
    "learning_accuracy",
    "mean_interval",
    "minimum_accuracy",
    "performance_maintenance",
    "performance_recovery",
    "recovery_times",
    "relative_performance",
    "sample_efficiency",
    "seen_accuracy",
    "stability_gap",
    "transfer",
    "windowed_forgetting",
    "windowed_plasticity",
    "worst_case_accuracy",
]
