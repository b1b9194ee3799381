"""Numbers from outputs: what a run achieved, kept and forgot, and how sure we are."""

from ctrain_jax.metrics._interval import Interval, format_interval, mean_interval
from ctrain_jax.metrics._matrix import (
    average_incremental_accuracy,
    backward_transfer,
    final_accuracy,
    forgetting,
    forward_transfer,
    learning_accuracy,
    seen_accuracy,
)

__all__ = [
    "Interval",
    "average_incremental_accuracy",
    "backward_transfer",
    "final_accuracy",
    "forgetting",
    "format_interval",
    "forward_transfer",
    "learning_accuracy",
    "mean_interval",
    "seen_accuracy",
]
