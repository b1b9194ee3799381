"""Learning rates over many stages: each stage warms up again, to a peak that a global schedule lowers.

The meta-schedules of Roth, Udandarao, Dziadzio et al., "A Practitioner's Guide to Continual Multimodal Pretraining",
2024, arXiv 2408.14471 (FoMo-in-Flux). Opened at the source: `base_continual_learner.py` in a copy of
ExplainableML/fomo_in_flux; the paper was not. Where we differ: the number of stages is known, so that the peaks lie on
one curve (the authors' cosine stretches anew over the stages so far); within a stage the rate falls as a cosine under
either curve (theirs falls as an inverse root under that one, with a linear end); it rises from `end_value`.
"""

import math
from collections.abc import Sequence

import numpy as np
import optax

from ctrain_jax.ops import check_choice, check_fraction, check_non_negative, check_positive, check_size


def meta_schedule(
    stage_lens: Sequence[int],
    peak_value: float,
    *,
    outer: str = "cosine",
    warmup: float = 0.1,
    end_value: float = 0.0,
) -> optax.Schedule:
    r"""A warmed-up cosine for each stage, whose peaks lie on one curve over all stages.

    With :math:`s` the step since the first peak, :math:`S` the steps from there to the end, :math:`w` those before it,

    .. math:: c(s) = e + (p - e) \cdot \tfrac{1}{2} \left(1 + \cos \frac{\pi s}{S}\right)
              \quad \text{or} \quad c(s) = e + (p - e) \sqrt{\frac{w}{w + s}}

    Stage :math:`k` rises linearly from :math:`e` to :math:`c` at the step of its peak, and falls to :math:`e` as a
    cosine. After the last stage it stays there.

    Args:
      stage_lens: steps of each stage, as `learner.spec.steps`.
      peak_value: :math:`p`, the peak of the first stage, above 0.
      outer: "cosine" or "invsqrt", the curve of the peaks.
      warmup: the share of a stage in which the rate rises, rounded up; from 0 to below 1.
      end_value: :math:`e`, where each stage starts and ends; at most `peak_value`.

    Returns:
      The schedule, of the number of steps taken.

    Raises:
      ValueError: no stage, one that is all warmup, a value out of its range.

    Example:
      >>> plan = meta_schedule([10, 10], 1.0)
      >>> [round(float(plan(step)), 2) for step in (0, 1, 9, 10, 11, 19, 20)]
      [0.0, 1.0, 0.03, 0.0, 0.46, 0.01, 0.0]
    """
    check_choice("outer", outer, ("cosine", "invsqrt"))
    check_positive("peak_value", peak_value)
    check_non_negative("end_value", end_value)
    check_fraction("warmup", warmup)
    lens = list(stage_lens)
    if not lens or end_value > peak_value:
        raise ValueError(
            f"meta_schedule expects a stage and an end_value of at most peak_value, got {lens} and {end_value} for "
            f"{peak_value}: give the steps of each stage, and a lower end_value."
        )
    for length in lens:
        check_size("Each stage of stage_lens", length)
    rise = [math.ceil(warmup * length) for length in lens]
    short = [length for length, own in zip(lens, rise, strict=True) if own >= length]
    if short:
        raise ValueError(f"warmup of {warmup} leaves no step after it in a stage of {short[0]}: lower it.")
    starts = np.cumsum([0, *lens])
    since = starts[:-1] + rise - rise[0]
    if outer == "cosine":
        share = (1 + np.cos(np.pi * since / (starts[-1] - rise[0]))) / 2
    else:
        first = max(rise[0], 1)
        share = np.sqrt(first / (first + since))
    peaks = end_value + (peak_value - end_value) * share
    stages = [
        optax.warmup_cosine_decay_schedule(end_value, float(peak), own, length, end_value)
        for peak, own, length in zip(peaks, rise, lens, strict=True)
    ]
    return optax.join_schedules(stages, starts[1:-1].tolist())
