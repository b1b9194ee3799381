"""Numbers from outputs: what a run achieved, kept and forgot, and how sure we are."""

from ctrain_jax.metrics._accumulation_slope import accumulation_slope
from ctrain_jax.metrics._calibration import brier_score, expected_calibration_error
from ctrain_jax.metrics._cl_measures import ClMeasures, cl_measures
from ctrain_jax.metrics._compute_budget import flops_of, memory_adjusted_flops, peak_bytes_of, steps_for_budget
from ctrain_jax.metrics._confusion import OldNewAccuracy, class_accuracy, confusion, old_new_accuracy
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
    forward_transfer_over_scratch,
    harmonic_accuracy,
    intransigence,
    learning_accuracy,
    seen_accuracy,
)
from ctrain_jax.metrics._paired_comparison import PairedComparison, holm, paired_comparison
from ctrain_jax.metrics._pareto import pareto
from ctrain_jax.metrics._profile_score import performance_profile, profile_score, steps_to_target
from ctrain_jax.metrics._stability_gap import (
    StabilityGap,
    minimum_accuracy,
    stability_gap,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_accuracy,
)
from ctrain_jax.metrics._thresholdout import Thresholdout, ThresholdoutState, thresholdout
from ctrain_jax.metrics._two_phase import TwoPhase, two_phase

__all__ = [
    "ClMeasures",
    "Interval",
    "L2Metrics",
    "OldNewAccuracy",
    "PairedComparison",
    "StabilityGap",
    "Thresholdout",
    "ThresholdoutState",
    "TwoPhase",
    "accumulation_slope",
    "average_incremental_accuracy",
    "backward_transfer",
    "brier_score",
    "cl_measures",
    "class_accuracy",
    "confusion",
    "expected_calibration_error",
    "final_accuracy",
    "flops_of",
    "forgetting",
    "format_interval",
    "forward_transfer",
    "forward_transfer_over_scratch",
    "harmonic_accuracy",
    "holm",
    "intransigence",
    "l2_metrics",
    "learning_accuracy",
    "mean_interval",
    "memory_adjusted_flops",
    "minimum_accuracy",
    "old_new_accuracy",
    "paired_comparison",
    "pareto",
    "peak_bytes_of",
    "performance_maintenance",
    "performance_profile",
    "performance_recovery",
    "profile_score",
    "recovery_times",
    "relative_performance",
    "sample_efficiency",
    "seen_accuracy",
    "stability_gap",
    "steps_for_budget",
    "steps_to_target",
    "thresholdout",
    "two_phase",
    "transfer",
    "windowed_forgetting",
    "windowed_plasticity",
    "worst_case_accuracy",
]
