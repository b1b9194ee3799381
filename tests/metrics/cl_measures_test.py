"""All measures of a run by hand, and what must hold between them for any matrix."""

import jax
import numpy as np
import pytest

from ctrain_jax import metrics

R = np.array([[0.90, 0.99, 0.30], [0.95, 0.80, 0.97], [0.60, 0.50, 0.70]])
REFERENCES = {"joint": [0.90, 0.95, 0.85], "scratch": [0.85, 0.90, 0.40], "baseline": [0.40, 0.10, 0.20]}


def loops(matrix, joint, scratch, baseline):
    """The definitions of the survey, counted from 1 as it does."""
    num = len(matrix)

    def a(k, j):
        return matrix[k - 1][j - 1]

    def average(k):
        return sum(a(k, j) for j in range(1, k + 1)) / k

    before, after = range(1, num), range(2, num + 1)
    return [
        average(num),
        sum(average(k) for k in range(1, num + 1)) / num,
        sum(max(a(i, j) for i in range(j, num)) - a(num, j) for j in before) / (num - 1),
        sum(a(num, j) - a(j, j) for j in before) / (num - 1),
        sum(joint[k - 1] - a(k, k) for k in range(1, num + 1)) / num,
        sum(a(j, j) - scratch[j - 1] for j in after) / (num - 1),
        sum(a(j - 1, j) - baseline[j - 1] for j in after) / (num - 1),
    ]


def test_a_matrix_by_hand():
    # As in matrix_test.py, where each number is worked out.
    by_hand = [0.60, 2.375 / 3, 0.325, -0.30, 0.10, 0.10, 0.83]
    np.testing.assert_allclose(metrics.cl_measures(R, **REFERENCES), by_hand, rtol=1e-5)
    np.testing.assert_allclose(loops(R, **REFERENCES), by_hand, rtol=1e-9)


def test_what_has_no_reference_is_unknown_and_the_rest_is_not():
    alone = metrics.cl_measures(np.where(np.tri(3, dtype=bool), R, np.nan))
    assert [bool(np.isnan(x)) for x in alone] == [False] * 4 + [True] * 3
    np.testing.assert_array_equal(alone[:4], metrics.cl_measures(R, **REFERENCES)[:4])


def test_seeds_are_a_leading_axis_compiled_and_mapped():
    rng = np.random.default_rng(0)
    matrix, references = rng.uniform(size=(4, 6, 6)), {name: rng.uniform(size=(4, 6)) for name in REFERENCES}
    several = jax.jit(metrics.cl_measures)(matrix, **references)
    mapped = jax.vmap(lambda m, r: metrics.cl_measures(m, **r))(matrix, references)
    for seed in range(4):
        want = loops(matrix[seed], **{name: x[seed] for name, x in references.items()})
        np.testing.assert_allclose([x[seed] for x in several], want, rtol=1e-4)
        np.testing.assert_allclose([x[seed] for x in mapped], want, rtol=1e-4)
    # The largest of a column since it was trained is at least that just after training.
    assert np.all(several.forgetting >= -several.backward_transfer - 1e-6)
    assert np.any(several.forgetting > -several.backward_transfer + 0.05)


def test_forgetting_is_minus_backward_transfer_where_experiences_peak_when_learned():
    matrix = np.random.default_rng(1).uniform(size=(5, 5)) * 0.5 + 0.5 * np.eye(5)
    run = metrics.cl_measures(matrix)
    np.testing.assert_allclose(run.forgetting, -run.backward_transfer, rtol=1e-6)


def test_references_of_another_length_are_refused():
    with pytest.raises(ValueError, match="joint expects one accuracy for each of the 3 experiences"):
        metrics.cl_measures(R, joint=[0.9, 0.9])
    with pytest.raises(ValueError, match="at least 2 experiences"):
        metrics.cl_measures([[0.9]])
