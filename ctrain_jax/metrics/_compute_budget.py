"""What a function costs, as XLA counts it, and how many steps a budget pays for.

FLOPs are the cost of a learner in NEVIS'22 (Bornschein et al., 2022, arXiv 2211.11747), whose code
(`training/resources.py` of google-deepmind/dm_nevis, opened) asks XLA as well, of the compiled program. Memory-adjusted
FLOPs are those of FoMo-in-Flux: Roth, Udandarao, Dziadzio et al., "A Practitioner's Guide to Continual Multimodal
Pretraining", 2024, arXiv 2408.14471; `flops_computation.py` of a copy of ExplainableML/fomo_in_flux was opened, which
counts the FLOPs of a step and of both ends of a stage; the paper, which by the ledger of the project multiplies them
by relative peak memory, was not.

Where we differ: FLOPs are counted before XLA optimises, so that the number is that of the algorithm on every backend
and costs no compilation; what the memory is relative to is an argument.
"""

import math
from collections.abc import Callable
from typing import Any

import jax

from ctrain_jax.ops import check_non_negative, check_positive


def flops_of(function: Callable[..., Any], *args: Any) -> float | None:
    """Floating-point operations of one call, as XLA counts them before it optimises; nothing is run.

    A product of `[m, k]` and `[k, n]` is `2 m k n`. The body of a loop (`lax.scan`, `fori_loop`, `lax.map`) counts
    once, whatever its length: ask for one step, and multiply.

    Args:
      function: of arrays, compiled or not.
      *args: its arguments, or `jax.ShapeDtypeStruct` in their place.

    Returns:
      The number; None where the backend does not count.

    Example:
      >>> import jax.numpy as jnp
      >>> from ctrain_jax import metrics
      >>> metrics.flops_of(jnp.matmul, jnp.ones((3, 4)), jnp.ones((4, 5)))
      120.0

    References:
      arXiv 2211.11747, 2022.
    """
    found = jax.jit(function).lower(*args).cost_analysis()
    return None if not found or "flops" not in found else float(found["flops"])


def peak_bytes_of(function: Callable[..., Any], *args: Any) -> int | None:
    """Bytes of one call on one device: arguments, results and what is between them; it is compiled, not run.

    Args:
      function: of arrays, compiled or not.
      *args: its arguments, or `jax.ShapeDtypeStruct` in their place.

    Returns:
      The number; None where the backend does not say.

    Example:
      >>> import jax.numpy as jnp
      >>> from ctrain_jax import metrics
      >>> metrics.peak_bytes_of(lambda x: x + 1, jnp.ones(256, jnp.float32))   # 1,024 in, 1,024 out
      2048
    """
    found = jax.jit(function).lower(*args).compile().memory_analysis()
    if found is None:
        return None
    whole = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return int(whole - found.alias_size_in_bytes)


def memory_adjusted_flops(function: Callable[..., Any], *args: Any, reference_bytes: float) -> float | None:
    r"""FLOPs of one call times its peak memory, relative to that of a reference.

    .. math:: \mathrm{MAF} = F \cdot \frac{M}{M_0}

    Args:
      function: one step of a method, as in `flops_of`.
      *args: its arguments.
      reference_bytes: :math:`M_0`, `peak_bytes_of` the method that the others are compared with (plain fine-tuning,
        say), above 0.

    Returns:
      The number; None where the backend does not say.

    Raises:
      ValueError: a `reference_bytes` that is not above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from ctrain_jax import metrics
      >>> step, x = lambda x: x + 1, jnp.ones(256, jnp.float32)
      >>> metrics.memory_adjusted_flops(step, x, reference_bytes=4096), metrics.flops_of(step, x)
      (128.0, 256.0)

    References:
      arXiv 2408.14471, 2024.
    """
    check_positive("reference_bytes", reference_bytes)
    flops, peak = flops_of(function, *args), peak_bytes_of(function, *args)
    return None if flops is None or peak is None else flops * peak / float(reference_bytes)


def steps_for_budget(budget: float, step: float, fixed: float = 0.0) -> int:
    r"""How many steps a budget of compute pays for: the most :math:`n` with :math:`c + n s \le b`.

    Less than one step is left over: of a budget of 20 steps or more, at least 95 percent are used.

    Args:
      budget: :math:`b`, of a stage, in any unit, above 0.
      step: :math:`s`, the cost of a step in the same unit, above 0.
      fixed: :math:`c`, what the stage costs besides its steps (Fisher information, a choice of where to start).

    Returns:
      The number of steps, at least 1.

    Raises:
      ValueError: a `budget` or `step` that is not above 0, a negative `fixed`, or a budget that pays for no step.

    Example:
      >>> from ctrain_jax import metrics
      >>> metrics.steps_for_budget(1000.0, 30.0), metrics.steps_for_budget(1000.0, 30.0, fixed=200.0)
      (33, 26)

    References:
      arXiv 2408.14471, 2024.
    """
    check_positive("budget", budget)
    check_positive("step", step)
    check_non_negative("fixed", fixed)
    num = math.floor((budget - fixed) / step)
    while num > 0 and fixed + num * step > budget:  # the quotient may have been rounded up
        num -= 1
    if num < 1:
        raise ValueError(
            f"steps_for_budget expects a budget that pays for a step, got {budget} for a step of {step} and {fixed} "
            "besides: raise the budget."
        )
    return num
