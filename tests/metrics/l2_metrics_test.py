"""The tables were worked out by hand; where it says so, by the authors' package in a scratch folder."""

import jax
import numpy as np
import pytest

from ctrain_jax import metrics

NAN = np.nan
SINGLE = np.array([[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.7, 0.5, 0.9]])
# Experience 0 is trained three times, 1 twice, 2 once.
SCHEDULE = [0, 1, 0, 2, 1, 0]
BLOCKS = [[0, 2, 5], [1, 4], [3]]
R = np.array([[0.8, 0.3, 0.2], [0.6, 0.9, 0.4], [0.9, 0.5, 0.3], [0.7, 0.4, 0.8], [0.5, 0.95, 0.6], [0.85, 0.65, 0.35]])
BASELINE = np.array([0.1, 0.2, 0.25])
CURVES = np.array(
    [
        [0.1, 0.2, 0.4, 0.5, 0.7, 0.8, 0.75, 0.8, 0.85, 0.8],
        [0.3, 0.5, 0.6, 0.7, 0.85, 0.9, 0.9, 0.85, 0.9, 0.9],
        [0.4, 0.6, 0.7, 0.85, 0.9, 0.9, 0.95, 0.9, 0.9, 0.85],
        [0.4, 0.5, 0.5, 0.6, 0.65, 0.7, 0.8, 0.75, 0.8, 0.8],
        [0.5, 0.8, 0.9, 0.95, 0.9, 0.95, 0.95, 0.9, 0.95, 0.95],
        [0.6, 0.86, 0.9, 0.8, 0.85, 0.9, 0.85, 0.95, 0.9, 0.9],
    ]
)
EXPERTS = np.array(
    [
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.85, 0.8],
        [0.2, 0.4, 0.6, 0.7, 0.8, 0.8, 0.85, 0.9, 0.9, 0.85, 0.8, 0.85],
        [0.1, 0.3, 0.5, 0.6, 0.8, 0.85, 0.9, 0.9, 0.85, 0.8, 0.9, 0.85],
    ]
)


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_maintenance_of_a_table_by_hand():
    # ((0.6 - 0.9) + (0.7 - 0.9)) / 2; 0.5 - 0.8; the last one had no time to be forgotten.
    close(metrics.performance_maintenance(SINGLE), [-0.25, -0.30, NAN])
    # Experience 0: 0.6 - 0.8 after its first block, 0.7 - 0.9 and 0.5 - 0.9 after its second, nothing after its third;
    # 1: 0.5 - 0.9, 0.4 - 0.9, and 0.65 - 0.95; 2: 0.6 - 0.8 and 0.35 - 0.8.
    close(metrics.performance_maintenance(R, SCHEDULE), [-0.8 / 3, -1.2 / 3, -0.65 / 2])
    # The variant: blocks ended at 0.8, 0.9, 0.85, 0.8, 0.95, 0.9 in training.
    by_curve = metrics.performance_maintenance(R, SCHEDULE, CURVES[:, -1])
    close(by_curve, [(-0.2 - 0.15 - 0.35) / 3, -0.4, -0.325])


@pytest.mark.parametrize("schedule", [None, [0, 1, 0, 2, 1, 0]])
def test_nothing_forgotten_is_zero_and_a_constant_drop_is_counted(schedule):
    blocks = 3 if schedule is None else len(schedule)
    close(metrics.performance_maintenance(np.full((blocks, 3), 0.8), schedule)[:2], 0.0)
    # A drop of d after every block: after t - r of them the difference is -d (t - r), then the mean over t.
    d, order = 0.05, schedule or range(3)
    table, lost, level = np.zeros((blocks, 3)), [[], [], []], np.zeros(3)
    for t, trained in enumerate(order):
        level = level - d
        level[trained] = 0.9
        table[t] = level
        for j in set(order[: t + 1]) - {trained}:
            lost[j].append(0.9 - level[j])
    assert max(map(len, lost)) > 1 and max(lost[0]) > d
    want = [-np.mean(x) if x else NAN for x in lost]
    close(metrics.performance_maintenance(table, schedule), want)


def test_transfer_of_a_table_by_hand():
    forward = np.full((3, 3), NAN)
    forward[1, 2] = (0.3 - 0.2) / 0.5
    close(metrics.transfer(SINGLE), forward)
    backward = np.full((3, 3), NAN)
    backward[1, 0], backward[2, 0], backward[2, 1] = -0.3 / 1.5, 0.1 / 1.3, -0.3 / 1.3
    close(metrics.transfer(SINGLE, direction="backward"), backward)
    backward[1, 0], backward[2, 0], backward[2, 1] = 0.6 / 0.9, 0.7 / 0.6, 0.5 / 0.8
    close(metrics.transfer(SINGLE, direction="backward", kind="ratio"), backward)


def test_transfer_of_repeated_blocks_by_the_package():
    forward, backward = np.full((2, 3, 3), NAN)
    forward[0, 1], forward[0, 2], forward[1, 2] = 0.2, -0.1111111111111111, 0.3333333333333333
    close(metrics.transfer(R, SCHEDULE, BASELINE), forward)
    # Without the baseline the first block of experience 0 is unknown, and its second one counts for 2.
    forward[0, 1], forward[0, 2] = NAN, -0.1428571428571429
    close(metrics.transfer(R, SCHEDULE), forward)
    backward[0, 1], backward[0, 2], backward[1, 0] = -0.2857142857142857, -0.2631578947368421, -0.1428571428571429
    backward[1, 2], backward[2, 0], backward[2, 1] = -0.1428571428571429, -0.125, -0.1111111111111111
    close(metrics.transfer(R, SCHEDULE, BASELINE, direction="backward"), backward)
    backward[0, 1], backward[0, 2], backward[1, 0] = 0.5555555555555556, 0.5833333333333334, 0.75
    backward[1, 2], backward[2, 0], backward[2, 1] = 0.75, 0.7777777777777777, 0.8
    close(metrics.transfer(R, SCHEDULE, kind="ratio", direction="backward"), backward)


def test_no_change_has_contrast_0_and_ratio_1_and_zeros_have_none():
    same = np.full((3, 3), 0.4)
    for direction in ("forward", "backward"):
        contrast = metrics.transfer(same, baseline=same[0], direction=direction)
        ratio = metrics.transfer(same, baseline=same[0], kind="ratio", direction=direction)
        assert np.isfinite(contrast).sum() == np.isfinite(ratio).sum() == 3
        assert np.nanmax(np.abs(contrast)) == 0 and np.nanmin(ratio) == np.nanmax(ratio) == 1
        assert np.isnan(metrics.transfer(0 * same, baseline=same[0] * 0, kind="ratio", direction=direction)).all()
        assert np.isnan(metrics.transfer(0 * same, baseline=same[0] * 0, direction=direction)).all()


def test_the_first_change_that_is_defined_counts():
    # Experience 0 comes twice, and 1 is at 0 before its first block: (0.3 - 0) / 0.3, no ratio, then 0.6 / 0.3.
    table, schedule, baseline = [[0.5, 0.3], [0.5, 0.6]], [0, 0], [0.1, 0.0]
    close(metrics.transfer(table, schedule, baseline), [[NAN, 1], [NAN, NAN]])
    close(metrics.transfer(table, schedule, baseline, kind="ratio"), [[NAN, 2], [NAN, NAN]])
    close(metrics.transfer(table[:1], [0], baseline, kind="ratio"), [[NAN, NAN], [NAN, NAN]])


def test_identical_curves_have_relative_performance_and_efficiency_1():
    close(metrics.relative_performance(EXPERTS, EXPERTS), np.ones(3))
    close(metrics.sample_efficiency(EXPERTS, EXPERTS), np.ones(3))


def test_relative_performance_is_over_what_both_have():
    # 0.1 + ... + 0.8 of the first curve is 5.9; of the expert, in ten steps, 5.35.
    close(metrics.relative_performance(CURVES[0], EXPERTS[0]), 5.9 / 5.35)
    ragged = np.r_[CURVES[0, :4], NAN, NAN]
    close(metrics.relative_performance(ragged, EXPERTS[0]), 1.2 / 1.0)
    close(metrics.relative_performance(EXPERTS[0], ragged), 1.0 / 1.2)


@pytest.mark.parametrize("window", [None, 1, 4, 7])
def test_twice_the_experience_is_half_the_efficiency(window):
    # Twice as long, the default window is twice as long as well; a fixed one reaches the plateau after half of it,
    # from ceil(w / 2) steps before n on.
    soon, late = (np.minimum(np.arange(n) / k, 1.0) for n, k in ((60, 20), (120, 40)))
    lag = 0 if window == 1 else -(-(window or 0) // 2)
    want = 0.5 if window is None else (20 + lag) / (40 + lag)
    close(metrics.sample_efficiency(late, soon, window), want)
    close(metrics.sample_efficiency(late / 2, soon, window), want / 2)


def test_the_default_window_has_at_most_100_steps():
    soon, late = (np.minimum(np.arange(n) / k, 1.0) for n, k in ((900, 300), (1800, 600)))
    close(metrics.sample_efficiency(late, soon), 350 / 650)


def test_a_curve_that_never_learned_has_no_efficiency():
    up, down, flat = np.linspace(0.1, 0.9, 14), np.linspace(0.9, 0.1, 14), np.full(14, 0.3)
    close(metrics.sample_efficiency(np.stack([up, down, 0.1 * up, flat]), up), [1, 0, 0, NAN])
    assert np.isnan(metrics.sample_efficiency(up, flat))


def test_recovery_by_hand():
    # Blocks 0, 2 and 5 end at 0.8, 0.85 and 0.9: 0.85 at step 3 is the first at 0.8 or above, 0.86 at step 1.
    times = metrics.recovery_times(CURVES[[0, 2, 5]])
    close(times, [3, 1])
    close(metrics.performance_recovery(times), 2)
    close(metrics.recovery_times([[0.1, 0.9], [0.2, 0.8]]), [3])
    # The mean of the last tenth: of 20 steps, two, (0.2 + 0.6) / 2.
    close(metrics.recovery_times([[*[0.0] * 18, 0.2, 0.6], [*[0.0] * 5, *[0.41] * 15]]), [5])
    close(metrics.recovery_times([[0.1, 0.9], [0.2, 0.9]]), [1])
    # Slopes -3, -1.5, 0, 1 / 3, 1 / 2 and 4; their median is not their mean.
    close(metrics.performance_recovery([2, 6, 3, 3]), -1 / 6)
    assert metrics.performance_recovery([5, 4, 3, 2]) == 1 and metrics.performance_recovery([2, 3, 4]) == -1


def test_all_of_a_run_by_the_package():
    run = metrics.l2_metrics(R, SCHEDULE, baseline=BASELINE, curves=CURVES, experts=EXPERTS)
    efficiency = [metrics.sample_efficiency(CURVES[b].ravel(), e) for b, e in zip(BLOCKS, EXPERTS, strict=True)]
    close(efficiency, [0.31321839080459773, 0.48611111111111116, 0.888888888888889])
    relative = [0.9857142857142857, 1.0057803468208093, 0.9848484848484849]
    backward = [-2 / 7, -5 / 19, -1 / 7, -1 / 7, -1 / 8, -1 / 9]
    want = [
        -(0.8 / 3 + 1.2 / 3 + 0.65 / 2) / 3,
        (0.2 - 1 / 9 + 1 / 3) / 3,
        np.mean(backward),
        np.mean(relative),
        np.mean(efficiency),
        2.0,
    ]
    for got, value in zip(run, want, strict=True):
        close(got, value)
    only = metrics.l2_metrics(SINGLE, curves=CURVES[:3])
    assert np.isnan([only.relative_performance, only.sample_efficiency, only.performance_recovery]).all()
    close(only.performance_maintenance, -0.275)
    close(metrics.l2_metrics(SINGLE, kind="ratio").forward_transfer, 1.5)


def test_seeds_are_leading_axes_and_everything_jits():
    rng = np.random.default_rng(0)
    shapes = {"matrix": (6, 3), "baseline": (3,), "curves": (6, 10), "experts": (3, 12)}
    given = {k: rng.uniform(0.1, 1, (2, 4, *shape)).astype(np.float32) for k, shape in shapes.items()}

    def run(given):
        return metrics.l2_metrics(given["matrix"], SCHEDULE, **{k: given[k] for k in list(shapes)[1:]})

    got = jax.jit(run)(given)
    assert all(x.shape == (2, 4) for x in got)
    one = run(jax.tree.map(lambda x: x[1, 2], given))
    for many, single in zip(got, one, strict=True):
        np.testing.assert_allclose(many[1, 2], single, rtol=1e-5, atol=1e-6)


def test_the_future_may_be_unknown_to_maintenance():
    known = np.where(np.tri(3, dtype=bool), SINGLE, NAN)
    close(metrics.performance_maintenance(known), [-0.25, -0.30, NAN])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: metrics.performance_maintenance(np.zeros(3)), r"shape \[\.\.\., T, E\]"),
        (lambda: metrics.performance_maintenance(R), "T=6 blocks of E=3"),
        (lambda: metrics.performance_maintenance(R, [0, 1]), "each of 6 blocks"),
        (lambda: metrics.transfer(R, [0, 1, 2, 3, 0, 1]), "whole number below 3"),
        (lambda: metrics.transfer(R, [0.0, 1, 2, 2, 0, 1]), "whole number below 3"),
        (lambda: metrics.performance_maintenance(SINGLE, learned=np.zeros(2)), "each training block, 3"),
        (lambda: metrics.transfer(SINGLE, baseline=np.zeros(2)), "each experience, 3"),
        (lambda: metrics.transfer(SINGLE, kind="difference"), "kind must be"),
        (lambda: metrics.transfer(SINGLE, direction="up"), "direction must be"),
        (lambda: metrics.l2_metrics(SINGLE, curves=CURVES), "curves expects"),
        (lambda: metrics.l2_metrics(SINGLE, curves=CURVES[:3], experts=EXPERTS[:2]), "experts expects"),
        (lambda: metrics.relative_performance([], [1.0]), "a step or more"),
        (lambda: metrics.sample_efficiency(EXPERTS, EXPERTS, 0), "window"),
        (lambda: metrics.recovery_times(CURVES[:1]), "K >= 2"),
        (lambda: metrics.performance_recovery([3.0]), "at least two times"),
    ],
)
def test_what_does_not_fit_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
