"""The measures of lifelong learning of the L2M program: memory, transfer, and learners compared with experts.

Baker, New, Aguilar-Simon et al., "A Domain-Agnostic Approach for Characterization of Lifelong Learning Systems", 2023,
arXiv 2301.07799; the specification is New, Baker, Nguyen and Vallabha, "Lifelong Learning Metrics", 2022, arXiv
2201.08278. Opened at the source: all metric classes, the smoothing and the aggregation of the authors' package
(lifelong-learning-systems/l2metrics, 2022). Neither paper was opened.

Training blocks alternate with evaluations of all experiences: `R[t, j]` is the performance on experience `j` after
block `t`, and `schedule[t]` the experience that block `t` trained, which may come again. Higher is better, everything
counts from 0, leading axes (seeds) are kept, and what is not defined is nan: means go over what is.

Where we differ: the package first smooths its training curves, clamps them to their 10 and 90 percent quantiles and
maps them to [1, 101], from where ratios never divide by 0. Here numbers are taken as they come.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ctrain_jax.ops import check_choice, check_size


class L2Metrics(NamedTuple):
    """The numbers of a whole run, each `[...]`: means over what is defined, nan where nothing is."""

    performance_maintenance: jax.Array  # 0: nothing is forgotten; in units of the matrix
    forward_transfer: jax.Array  # contrast in [-1, 1], 0: none; or ratio, 1: none
    backward_transfer: jax.Array  # the same
    relative_performance: jax.Array  # 1: as good as the experts
    sample_efficiency: jax.Array  # 1: as fast and as high as the experts
    performance_recovery: jax.Array  # steps by which recovery gets quicker each time


def l2_metrics(
    matrix: ArrayLike,
    schedule: Sequence[int] | None = None,
    *,
    baseline: ArrayLike | None = None,
    curves: ArrayLike | None = None,
    experts: ArrayLike | None = None,
    kind: str = "contrast",
) -> L2Metrics:
    """All measures of a run: the mean over experiences, of transfer over pairs of them.

    The training curve of an experience is that of all its blocks, one after the other.

    Args:
      matrix: `[..., T, E]`, performance after each block.
      schedule: int `[T]`, static: the experience that each block trained; by default the `T = E` experiences in order.
      baseline: `[..., E]`, performance before training; without it the first block has no transfer.
      curves: `[..., T, N]`, performance while each block is trained, on its own experience. The last three measures
        need them.
      experts: `[..., E, M]`, training curve of a learner of each experience alone; the two before the last need them.
      kind: of transfer, "contrast" or "ratio".

    Returns:
      Six numbers, each `[...]`.

    Raises:
      ValueError: shapes that do not belong together, or what the single measures refuse.

    Example:
      >>> from ctrain_jax import metrics
      >>> run = metrics.l2_metrics([[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.7, 0.5, 0.9]])
      >>> print(*(f"{x:.3f}" for x in run))  # the contrasts: (1 -> 2), and the mean of (1 -> 0), (2 -> 0), (2 -> 1)
      -0.275 0.200 -0.118 nan nan nan

    References:
      arXiv 2301.07799, 2023.
    """
    matrix, order = _blocks(matrix, schedule)
    num_blocks, num_experiences = matrix.shape[-2:]
    ahead, back = (transfer(matrix, schedule, baseline, kind=kind, direction=d) for d in ("forward", "backward"))
    relative, efficiency, recovery = [], [], []
    alone = None if experts is None else _check_shape("experts", experts, -2, num_experiences, "experience")
    if curves is not None:
        blocks = _check_shape("curves", curves, -2, num_blocks, "training block")
        for j in np.unique(order):
            own = blocks[..., order == j, :]
            if alone is not None:
                whole, expert = own.reshape(*own.shape[:-2], -1), alone[..., j, :]
                relative.append(relative_performance(whole, expert))
                efficiency.append(sample_efficiency(whole, expert))
            if own.shape[-2] > 2:
                recovery.append(performance_recovery(recovery_times(own)))
    unknown = jnp.full(matrix.shape[:-2], jnp.nan)
    return L2Metrics(
        jnp.nanmean(performance_maintenance(matrix, schedule), -1),
        *(jnp.nanmean(pairs, (-2, -1)) for pairs in (ahead, back)),
        *(jnp.nanmean(jnp.stack(x), 0) if x else unknown for x in (relative, efficiency, recovery)),
    )


def performance_maintenance(
    matrix: ArrayLike, schedule: Sequence[int] | None = None, learned: ArrayLike | None = None
) -> jax.Array:
    r"""How far each experience is from where its latest training left it (PM).

    .. math:: \mathrm{PM}_j = \operatorname{mean}_t \left( R_{t,j} - R_{r(t,j),\,j} \right), \qquad
              r(t, j) = \max \{ r \le t : \mathrm{schedule}_r = j \}

    over the evaluations :math:`t > r(t, j)`, those that do not follow training on `j` itself.

    Args:
      matrix: `[..., T, E]`; what comes before the first training on an experience is not read, and may be nan.
      schedule: int `[T]`, static: the experience that each block trained; by default the `T = E` experiences in order.
      learned: `[..., T]`, performance at the end of each training block, such as the mean of the last tenth of its
        curve, in the place of :math:`R_{r,j}`: the package's variant "mrtlp" of its default "mrlep".

    Returns:
      `[..., E]`, 0 where nothing is forgotten, negative where something is; nan for an experience that was never
      trained, or trained last.

    Raises:
      ValueError: shapes that do not belong together, a schedule of something else than experiences.

    Example:
      >>> from ctrain_jax import metrics
      >>> R = [[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.7, 0.5, 0.9]]
      >>> print(*(f"{x:.2f}" for x in metrics.performance_maintenance(R)))  # (-0.3 - 0.2) / 2, and 0.5 - 0.8
      -0.25 -0.30 nan

    References:
      arXiv 2301.07799, 2023; `PerformanceMaintenance` of the package.
    """
    matrix, order = _blocks(matrix, schedule)
    num_blocks, num_experiences = matrix.shape[-2:]
    block, experience = np.arange(num_blocks)[:, None], np.arange(num_experiences)
    latest = np.maximum.accumulate(np.where(order[:, None] == experience, block, -1), axis=0)
    later, latest = (latest >= 0) & (latest < block), np.maximum(latest, 0)
    if learned is None:
        reference = matrix[..., latest, experience]
    else:
        reference = _check_shape("learned", learned, -1, num_blocks, "training block")[..., latest]
    num = later.sum(0)
    return jnp.sum(jnp.where(later, matrix - reference, 0.0), -2) / np.where(num, num, np.nan)


def transfer(
    matrix: ArrayLike,
    schedule: Sequence[int] | None = None,
    baseline: ArrayLike | None = None,
    *,
    kind: str = "contrast",
    direction: str = "forward",
) -> jax.Array:
    r"""What training on one experience did for another, on which it was not trained (FT, BT).

    .. math:: \text{contrast: } \frac{p_2 - p_1}{p_1 + p_2}, \qquad \text{ratio: } \frac{p_2}{p_1}

    where :math:`p_1, p_2` are the evaluations of experience `j` just before and just after a block of `i`: forward
    where `j` was not trained on yet, backward where it was. Of several such blocks the first one that is defined
    counts, as in the package.

    Args:
      matrix: `[..., T, E]`.
      schedule: int `[T]`, static: the experience that each block trained; by default the `T = E` experiences in order.
      baseline: `[..., E]`, performance before training; without it the first block has no transfer.
      kind: "contrast" or "ratio" (what the program of the package reports unless told otherwise).
      direction: "forward" or "backward".

    Returns:
      `[..., E, E]`: entry `[i, j]` from `i` to `j`; nan where there is no such pair and where the denominator is 0.

    Raises:
      ValueError: shapes that do not belong together, a schedule of something else than experiences, another `kind` or
        `direction`.

    Example:
      >>> from ctrain_jax import metrics
      >>> R = [[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.7, 0.5, 0.9]]
      >>> print(f"{metrics.transfer(R)[1, 2]:.3f}")  # (0.3 - 0.2) / (0.2 + 0.3)
      0.200
      >>> print(f"{metrics.transfer(R, kind='ratio', direction='backward')[2, 1]:.3f}")  # 0.5 / 0.8
      0.625

    References:
      arXiv 2301.07799, 2023; `Transfer` of the package.
    """
    check_choice("kind", kind, ("contrast", "ratio"))
    check_choice("direction", direction, ("forward", "backward"))
    matrix, order = _blocks(matrix, schedule)
    num_blocks, num_experiences = matrix.shape[-2:]
    if baseline is None:
        baseline = jnp.full(num_experiences, jnp.nan)
    baseline = _check_shape("baseline", baseline, -1, num_experiences, "experience")
    start = jnp.broadcast_to(baseline, matrix[..., 0, :].shape)
    before = jnp.concatenate([start[..., None, :], matrix[..., :-1, :]], -2)
    over, under = (matrix - before, before + matrix) if kind == "contrast" else (matrix, before)
    change = over / jnp.where(under == 0, jnp.nan, under)
    block, trained = np.arange(num_blocks)[:, None], order[:, None] == np.arange(num_experiences)
    first = np.where(trained.any(0), trained.argmax(0), num_blocks)
    change = jnp.where(block < first if direction == "forward" else (block > first) & ~trained, change, jnp.nan)
    pairs = jnp.full((*matrix.shape[:-2], num_experiences, num_experiences), jnp.nan)
    for t in reversed(range(num_blocks)):
        value = change[..., t, :]
        pairs = pairs.at[..., order[t], :].set(jnp.where(jnp.isnan(value), pairs[..., order[t], :], value))
    return pairs


def relative_performance(curve: ArrayLike, expert: ArrayLike) -> jax.Array:
    r"""Area under a training curve by that of an expert, a learner of this experience alone (RP).

    .. math:: \mathrm{RP} = \sum_n c_n \Big/ \sum_n e_n \qquad \text{over the steps that both have}

    Args:
      curve: `[..., N]`, performance while one experience is trained, in all its blocks. nan is no step: curves of
        several lengths may be filled up with it.
      expert: `[..., M]`, the same of the expert, in steps of the same size.

    Returns:
      `[...]`; 1: as good as the expert.

    Raises:
      ValueError: a curve without a step.

    Example:
      >>> from ctrain_jax import metrics
      >>> print(f"{metrics.relative_performance([0.2, 0.4, 0.6], [0.2, 0.6, 0.8, 0.9]):.2f}")  # 1.2 / 1.6
      0.75

    References:
      arXiv 2301.07799, 2023; `STERelativePerf` of the package.
    """
    curve, expert = _curve(curve), _curve(expert)
    num = min(curve.shape[-1], expert.shape[-1])
    curve, expert = curve[..., :num], expert[..., :num]
    both = ~jnp.isnan(curve) & ~jnp.isnan(expert)
    return jnp.sum(jnp.where(both, curve, 0.0), -1) / jnp.sum(jnp.where(both, expert, 0.0), -1)


def sample_efficiency(curve: ArrayLike, expert: ArrayLike, window: int | None = None) -> jax.Array:
    r"""How high and how soon a training curve saturates, compared with that of an expert (SE).

    .. math:: \mathrm{SE} = \frac{\max_n \tilde c_n}{\max_n \tilde e_n} \cdot
              \frac{\operatorname{argmax}_n \tilde e_n}{\operatorname{argmax}_n \tilde c_n}

    of the moving averages :math:`\tilde c, \tilde e`, with the curves reflected at both ends. As in the package, a
    curve that falls (the slope of its least-squares line is negative) or that does not reach a fifth of the expert's
    height has an efficiency of 0; the package leaves some of the falling ones out.

    Args:
      curve: `[..., N]`, performance while one experience is trained, in all its blocks.
      expert: `[..., M]`, the same of an expert, a learner of this experience alone, in steps of the same size.
      window: steps of the moving average; below 3 there is none. By default, and for a curve that is shorter, a fifth
        of the curve's length, at most 100.

    Returns:
      `[...]`; 1: as high and as soon as the expert. nan where a curve that does not fall is highest at its start.

    Raises:
      ValueError: a curve without a step, a `window` below 1.

    Example:
      >>> from ctrain_jax import metrics
      >>> late, soon = [0.0, 0.2, 0.4, 0.6, 0.8, 0.8], [0.0, 0.4, 0.8, 0.8, 0.8, 0.8]
      >>> print(f"{metrics.sample_efficiency(late, soon):.2f}")  # steps 4 and 2
      0.50

    References:
      arXiv 2301.07799, 2023; `SampleEfficiency` and `get_block_saturation_perf` of the package.
    """
    curve, expert = _curve(curve), _curve(expert)
    if window is not None:
        check_size("window", window)
    (height, steps), (full, needed) = (_saturation(c, window) for c in (curve, expert))
    step = np.arange(curve.shape[-1])
    falls = jnp.sum((step - step.mean()) * (curve - curve[..., :1]), -1) < 0  # exactly 0 of a constant
    value = height / full * needed / jnp.where(steps == 0, jnp.nan, steps)
    return jnp.where(needed == 0, jnp.nan, jnp.where(falls | (height < 0.2 * full), 0.0, value))


def recovery_times(curves: ArrayLike) -> jax.Array:
    """Steps that each block of one experience needs to get back to where the block before it ended.

    Args:
      curves: `[..., K, N]`, performance in the blocks that trained this experience, in their order.

    Returns:
      `[..., K - 1]`: the first step, from 0, at which the mean of the last tenth of the block before is reached;
      `N + 1` where it is not.

    Raises:
      ValueError: fewer than two blocks, or blocks without a step.

    Example:
      >>> from ctrain_jax import metrics
      >>> print(metrics.recovery_times([[0.0, 0.5, 0.8], [0.1, 0.6, 0.9], [0.2, 0.9, 1.0]]))
      [2. 1.]

    References:
      arXiv 2301.07799, 2023; `RecoveryTime` and `get_terminal_perf` of the package.
    """
    curves = jnp.asarray(curves)
    if curves.ndim < 2 or curves.shape[-2] < 2 or curves.shape[-1] == 0:
        raise ValueError(
            f"recovery_times expects curves [..., K, N] of K >= 2 blocks, got shape {curves.shape}: an experience that "
            "is trained once has nothing to recover."
        )
    num = curves.shape[-1]
    level = jnp.mean(curves[..., :-1, int((1 - 0.1) * num) :], -1, keepdims=True)
    back = curves[..., 1:, :] >= level
    return jnp.where(back.any(-1), jnp.argmax(back, -1), num + 1.0)


def performance_recovery(times: ArrayLike) -> jax.Array:
    r"""How much quicker a learner recovers each time that an experience comes back (PR).

    .. math:: \mathrm{PR} = -\operatorname{median}_{i < j} \frac{\tau_j - \tau_i}{j - i}

    Minus the Theil-Sen slope: positive where recovery becomes quicker.

    Args:
      times: `[..., K]`, steps to recover, from `recovery_times`.

    Returns:
      `[...]`, in steps.

    Raises:
      ValueError: fewer than two times.

    Example:
      >>> from ctrain_jax import metrics
      >>> print(metrics.performance_recovery([9.0, 6.0, 5.0]))  # slopes -3, -2 and -1
      2.0

    References:
      arXiv 2301.07799, 2023; `PerformanceRecovery` of the package. Sen, JASA 63, 1968.
    """
    times = jnp.asarray(times, float)
    if times.ndim < 1 or times.shape[-1] < 2:
        raise ValueError(
            f"performance_recovery expects at least two times [..., K], got shape {times.shape}: train the experience "
            "in three blocks or more."
        )
    i, j = np.triu_indices(times.shape[-1], 1)
    return -jnp.median((times[..., j] - times[..., i]) / (j - i), -1)


def _saturation(curve: jax.Array, window: int | None) -> tuple[jax.Array, jax.Array]:
    """The highest moving average, and its first step."""
    num = curve.shape[-1]
    if window is None or window > num:
        window = min(num // 5, 100)
    if window > 2:
        sides = [(0, 0)] * (curve.ndim - 1)
        whole = jnp.pad(curve, [*sides, (window - 1, window - 1)], mode="reflect")
        shape = (*(1 for _ in sides), window)
        mean = jax.lax.reduce_window(whole, 0.0, jax.lax.add, shape, (1,) * curve.ndim, "valid") / window
        # The package's alignment: step n is the mean of n - ceil(window / 2) to n + floor(window / 2) - 1.
        start = (window - 2) // 2
        curve = mean[..., start : start + num]
    return jnp.max(curve, -1), jnp.argmax(curve, -1)


def _blocks(matrix: ArrayLike, schedule: Sequence[int] | None) -> tuple[jax.Array, np.ndarray]:
    matrix = jnp.asarray(matrix)
    if matrix.ndim < 2 or 0 in matrix.shape[-2:]:
        raise ValueError(
            f"A matrix has shape [..., T, E], got shape {matrix.shape}: put one row for each training block and one "
            "column for each experience."
        )
    num_blocks, num_experiences = matrix.shape[-2:]
    if schedule is None:
        if num_blocks != num_experiences:
            raise ValueError(
                f"Without a schedule each experience is trained once and in order, got T={num_blocks} blocks of "
                f"E={num_experiences} experiences: give the experience that each block trained."
            )
        return matrix, np.arange(num_blocks)
    order = np.asarray(schedule)
    known = np.issubdtype(order.dtype, np.integer) and np.isin(order, np.arange(num_experiences)).all()
    if order.shape != (num_blocks,) or not known:
        raise ValueError(
            f"A schedule expects one whole number below {num_experiences} for each of {num_blocks} blocks, got "
            f"{schedule}: give the experience that each block trained, counted from 0."
        )
    return matrix, order


def _check_shape(name: str, value: ArrayLike, axis: int, num: int, what: str) -> jax.Array:
    value = jnp.asarray(value)
    if value.ndim < -axis or value.shape[axis] != num:
        raise ValueError(
            f"{name} expects one entry along axis {axis} for each {what}, {num} of them, got shape {value.shape}: "
            "give them in order."
        )
    return value


def _curve(curve: ArrayLike) -> jax.Array:
    curve = jnp.asarray(curve, float)
    if curve.ndim < 1 or curve.shape[-1] == 0:
        raise ValueError(f"A curve expects shape [..., N] with a step or more, got shape {curve.shape}: record it.")
    return curve
