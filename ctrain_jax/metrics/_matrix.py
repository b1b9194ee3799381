"""Numbers of a whole run, read off its accuracy matrix.

`R[i, j]` is the accuracy on experience `j` after training on experience `i`, in [0, 1]. Both count from 0 here, and
from 1 in the papers. Leading axes (seeds) are kept. Entries above the diagonal, experiences that were not trained on
yet, are read by `forward_transfer` alone, so they may be nan when it is not asked for.

Two numbers go by the name of forward transfer: `forward_transfer` looks at an experience just before it is trained on
and subtracts an untrained learner, `forward_transfer_over_scratch` just after, and subtracts one that was trained on it
alone.

References:
    Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", arXiv 1706.08840, 2017.
    Chaudhry et al., "Riemannian Walk for Incremental Learning", arXiv 1801.10112, 2018.
    Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning", arXiv 1611.07725, 2017.
    Riemer et al., "Learning to Learn without Forgetting by Maximizing Transfer and Minimizing Interference",
    arXiv 1810.11910, 2019.
    Wang, Zhang, Su and Zhu, "A Comprehensive Survey of Continual Learning: Theory, Method and Application", arXiv
    2302.00487, 2023.
"""

import jax
import jax.numpy as jnp


def final_accuracy(matrix: jax.typing.ArrayLike) -> jax.Array:
    r"""Mean accuracy over all experiences when the stream is over (ACC of Lopez-Paz and Ranzato, 2017).

    .. math:: \mathrm{ACC} = \frac{1}{E} \sum_{j=0}^{E-1} R_{T-1,j}

    Args:
      matrix: `[..., T, E]`, accuracies in [0, 1]; any `T` and `E`, so a joint run (`T = 1`) has one too.

    Returns:
      `[...]`, in [0, 1].

    Raises:
      ValueError: if the matrix has fewer than two axes or is empty.

    Example:
      >>> import jax.numpy as jnp
      >>> from ctrain_jax import metrics
      >>> R = jnp.array([[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.7, 0.5, 0.9]])
      >>> print(f"{metrics.final_accuracy(R):.3f}")   # (0.7 + 0.5 + 0.9) / 3
      0.700

    References:
      arXiv 1706.08840, 2017, section 2, equation 2.
    """
    return jnp.mean(_matrix(matrix)[..., -1, :], axis=-1)


def average_incremental_accuracy(matrix: jax.typing.ArrayLike) -> jax.Array:
    r"""Accuracy on the experiences seen so far, averaged over the stream (Rebuffi et al., 2017).

    .. math:: \mathrm{AIA} = \frac{1}{T} \sum_{i=0}^{T-1} \frac{1}{i + 1} \sum_{j=0}^{i} R_{i,j}

    iCaRL pools the test images of all classes seen so far; the two agree when experiences have test sets of one size.

    Args:
      matrix: `[..., T, T]`, accuracies in [0, 1].

    Returns:
      `[...]`, in [0, 1].

    Raises:
      ValueError: if the matrix is not square.

    Example:
      >>> import jax.numpy as jnp
      >>> from ctrain_jax import metrics
      >>> R = jnp.array([[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.7, 0.5, 0.9]])
      >>> print(f"{metrics.average_incremental_accuracy(R):.3f}")   # (0.9 + 0.7 + 0.7) / 3
      0.767

    References:
      arXiv 1611.07725, 2017 (average incremental accuracy).
    """
    return jnp.mean(seen_accuracy(matrix), axis=-1)


def seen_accuracy(matrix: jax.typing.ArrayLike) -> jax.Array:
    r"""Mean accuracy over the experiences seen so far, after each experience: the curve under which the average
    incremental accuracy is the area.

    .. math:: A_i = \frac{1}{i + 1} \sum_{j=0}^{i} R_{i,j}

    Args:
      matrix: `[..., T, T]`, accuracies in [0, 1].

    Returns:
      `[..., T]`, in [0, 1]; its last entry is the final accuracy.

    Raises:
      ValueError: if the matrix is not square.

    Example:
      >>> import jax.numpy as jnp
      >>> from ctrain_jax import metrics
      >>> R = jnp.array([[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.7, 0.5, 0.9]])
      >>> print([f"{a:.3f}" for a in metrics.seen_accuracy(R)])   # 0.9, (0.6 + 0.8) / 2, (0.7 + 0.5 + 0.9) / 3
      ['0.900', '0.700', '0.700']

    References:
      arXiv 1611.07725, 2017.
    """
    matrix = _square(matrix, "seen_accuracy", least=1)
    num = matrix.shape[-1]
    seen = jnp.tri(num, dtype=bool)
    return jnp.sum(jnp.where(seen, matrix, 0), axis=-1) / jnp.arange(1, num + 1)


def harmonic_accuracy(matrix: jax.typing.ArrayLike) -> jax.Array:
    r"""Harmonic mean of the accuracy on base classes and on new ones, after each session (Peng et al., 2022).

    With the first experience as the base,

    .. math:: H_i = \frac{2 \, R_{i,0} \, N_i}{R_{i,0} + N_i}, \qquad N_i = \frac{1}{i} \sum_{j=1}^{i} R_{i,j},
              \qquad i \ge 1

    Where the base has most of the classes, a learner that never names a new one has a high mean accuracy, and 0 here.
    Papers pool the test rows of the new classes; the two agree when sessions have test sets of one size.

    Args:
      matrix: `[..., T, T]` with `T >= 2`, accuracies in [0, 1].

    Returns:
      `[..., T - 1]`, in [0, 1]; 0 where both are 0.

    Raises:
      ValueError: if the matrix is not square or has one experience.

    Example:
      >>> import jax.numpy as jnp
      >>> from ctrain_jax import metrics
      >>> R = jnp.array([[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.7, 0.5, 0.9]])
      >>> print([f"{h:.3f}" for h in metrics.harmonic_accuracy(R)])   # of 0.6 and 0.8, of 0.7 and (0.5 + 0.9) / 2
      ['0.686', '0.700']

    References:
      Peng et al., "Few-Shot Class-Incremental Learning from an Open-Set Perspective", arXiv 2208.00147, 2022.
    """
    matrix = _square(matrix, "harmonic_accuracy", least=2)
    num = matrix.shape[-1]
    base, place = matrix[..., 1:, 0], jnp.arange(1, num)
    novel = jnp.sum(jnp.where(jnp.tri(num - 1, dtype=bool), matrix[..., 1:, 1:], 0), axis=-1) / place
    both = base + novel
    return jnp.where(both > 0, 2 * base * novel / jnp.where(both > 0, both, 1.0), 0.0)


def forgetting(matrix: jax.typing.ArrayLike) -> jax.Array:
    r"""How far each experience fell from its best accuracy by the end of the stream (Chaudhry et al., 2018).

    .. math:: F = \frac{1}{T-1} \sum_{j=0}^{T-2} \left( \max_{j \le i \le T-2} R_{i,j} - R_{T-1,j} \right)

    The paper defines :math:`R_{i,j}` for :math:`j \le i` only, so what was known before an experience was trained on
    does not count as a peak. The last experience cannot be forgotten yet and is left out. Negative when the last
    experience improved the earlier ones.

    Args:
      matrix: `[..., T, T]` with `T >= 2`, accuracies in [0, 1].

    Returns:
      `[...]`, in [-1, 1]; lower is better.

    Raises:
      ValueError: if the matrix is not square or has one experience.

    Example:
      >>> import jax.numpy as jnp
      >>> from ctrain_jax import metrics
      >>> R = jnp.array([[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.7, 0.5, 0.9]])
      >>> print(f"{metrics.forgetting(R):.3f}")   # ((0.9 - 0.7) + (0.8 - 0.5)) / 2
      0.250

    References:
      arXiv 1801.10112, 2018 (forgetting measure).
    """
    matrix = _square(matrix, "forgetting", least=2)
    trained = jnp.tri(matrix.shape[-1], dtype=bool)
    best = jnp.max(jnp.where(trained, matrix, -jnp.inf)[..., :-1, :-1], axis=-2)
    return jnp.mean(best - matrix[..., -1, :-1], axis=-1)


def backward_transfer(matrix: jax.typing.ArrayLike) -> jax.Array:
    r"""What later training did to the experiences before it (BWT of Lopez-Paz and Ranzato, 2017).

    .. math:: \mathrm{BWT} = \frac{1}{T-1} \sum_{j=0}^{T-2} \left( R_{T-1,j} - R_{j,j} \right)

    Args:
      matrix: `[..., T, T]` with `T >= 2`, accuracies in [0, 1].

    Returns:
      `[...]`, in [-1, 1]; negative means forgetting.

    Raises:
      ValueError: if the matrix is not square or has one experience.

    Example:
      >>> import jax.numpy as jnp
      >>> from ctrain_jax import metrics
      >>> R = jnp.array([[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.7, 0.5, 0.9]])
      >>> print(f"{metrics.backward_transfer(R):.3f}")   # ((0.7 - 0.9) + (0.5 - 0.8)) / 2
      -0.250

    References:
      arXiv 1706.08840, 2017, section 2, equation 3.
    """
    matrix = _square(matrix, "backward_transfer", least=2)
    learned = jnp.diagonal(matrix, axis1=-2, axis2=-1)
    return jnp.mean((matrix[..., -1, :] - learned)[..., :-1], axis=-1)


def forward_transfer(matrix: jax.typing.ArrayLike, baseline: jax.typing.ArrayLike) -> jax.Array:
    r"""What earlier training did for the experiences after it (FWT of Lopez-Paz and Ranzato, 2017).

    .. math:: \mathrm{FWT} = \frac{1}{T-1} \sum_{j=1}^{T-1} \left( R_{j-1,j} - b_j \right)

    Args:
      matrix: `[..., T, T]` with `T >= 2`, accuracies in [0, 1]; entries just above the diagonal are read.
      baseline: `[..., T]`, accuracy of the untrained learner on each experience.

    Returns:
      `[...]`, in [-1, 1]; positive means that experiences were partly solved before they were trained on.

    Raises:
      ValueError: if the matrix is not square or has one experience, or the baseline has another length.

    Example:
      >>> import jax.numpy as jnp
      >>> from ctrain_jax import metrics
      >>> R = jnp.array([[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.7, 0.5, 0.9]])
      >>> b = jnp.array([0.3, 0.2, 0.1])
      >>> print(f"{metrics.forward_transfer(R, b):.3f}")   # ((0.1 - 0.2) + (0.3 - 0.1)) / 2
      0.050

    References:
      arXiv 1706.08840, 2017, section 2, equation 4.
    """
    matrix = _square(matrix, "forward_transfer", least=2)
    baseline = _reference("baseline", baseline, matrix, "evaluate the untrained learner on every experience")
    before = jnp.diagonal(matrix, offset=1, axis1=-2, axis2=-1)
    return jnp.mean(before - baseline[..., 1:], axis=-1)


def forward_transfer_over_scratch(matrix: jax.typing.ArrayLike, scratch: jax.typing.ArrayLike) -> jax.Array:
    r"""What earlier training did for learning the experiences after it (FWT of Wang et al., 2023).

    .. math:: \mathrm{FWT} = \frac{1}{T-1} \sum_{j=1}^{T-1} \left( R_{j,j} - \tilde a_j \right)

    Args:
      matrix: `[..., T, T]` with `T >= 2`, accuracies in [0, 1].
      scratch: `[..., T]`, accuracy on each experience of a learner that started anew and was trained on it alone.

    Returns:
      `[...]`, in [-1, 1]; negative where what was kept of the past stands in the way of the new.

    Raises:
      ValueError: if the matrix is not square or has one experience, or `scratch` has another length.

    Example:
      >>> import jax.numpy as jnp
      >>> from ctrain_jax import metrics
      >>> R = jnp.array([[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.7, 0.5, 0.9]])
      >>> scratch = jnp.array([0.9, 0.9, 0.7])
      >>> print(f"{metrics.forward_transfer_over_scratch(R, scratch):.3f}")   # ((0.8 - 0.9) + (0.9 - 0.7)) / 2
      0.050

    References:
      arXiv 2302.00487, 2023, section 2.3.
    """
    matrix = _square(matrix, "forward_transfer_over_scratch", least=2)
    scratch = _reference("scratch", scratch, matrix, "train a learner on each experience alone")
    learned = jnp.diagonal(matrix, axis1=-2, axis2=-1)
    return jnp.mean((learned - scratch)[..., 1:], axis=-1)


def intransigence(matrix: jax.typing.ArrayLike, joint: jax.typing.ArrayLike) -> jax.Array:
    r"""How much less is learned of an experience than without a past to keep (IM of Chaudhry et al., 2018).

    .. math:: I = \frac{1}{T} \sum_{k=0}^{T-1} \left( a^*_k - R_{k,k} \right)

    The paper has one number for each experience; this is their mean, as that of `forgetting` is.

    Args:
      matrix: `[..., T, T]`, accuracies in [0, 1].
      joint: `[..., T]`, :math:`a^*_k`: accuracy on experience `k` of a learner that was trained on the data of
        experiences 0 to `k` together, as on the stream `cumulative`.

    Returns:
      `[...]`, in [-1, 1]; lower is better, and negative where learning one after the other helps.

    Raises:
      ValueError: if the matrix is not square, or `joint` has another length.

    Example:
      >>> import jax.numpy as jnp
      >>> from ctrain_jax import metrics
      >>> R = jnp.array([[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.7, 0.5, 0.9]])
      >>> joint = jnp.array([0.9, 0.95, 0.85])
      >>> print(f"{metrics.intransigence(R, joint):.3f}")   # (0 + 0.15 - 0.05) / 3
      0.033

    References:
      arXiv 1801.10112, 2018 (intransigence measure).
    """
    matrix = _square(matrix, "intransigence", least=1)
    joint = _reference("joint", joint, matrix, "train a learner on experiences 0 to k together, for each k")
    return jnp.mean(joint - jnp.diagonal(matrix, axis1=-2, axis2=-1), axis=-1)


def learning_accuracy(matrix: jax.typing.ArrayLike) -> jax.Array:
    r"""How well each experience was learned when it was trained on (LA of Riemer et al., 2019).

    .. math:: \mathrm{LA} = \frac{1}{T} \sum_{i=0}^{T-1} R_{i,i}

    Args:
      matrix: `[..., T, T]`, accuracies in [0, 1].

    Returns:
      `[...]`, in [0, 1].

    Raises:
      ValueError: if the matrix is not square.

    Example:
      >>> import jax.numpy as jnp
      >>> from ctrain_jax import metrics
      >>> R = jnp.array([[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.7, 0.5, 0.9]])
      >>> print(f"{metrics.learning_accuracy(R):.3f}")   # (0.9 + 0.8 + 0.9) / 3
      0.867

    References:
      arXiv 1810.11910, 2019 (learning accuracy).
    """
    matrix = _square(matrix, "learning_accuracy", least=1)
    return jnp.mean(jnp.diagonal(matrix, axis1=-2, axis2=-1), axis=-1)


def _matrix(matrix: jax.typing.ArrayLike) -> jax.Array:
    matrix = jnp.asarray(matrix)
    if matrix.ndim < 2 or 0 in matrix.shape[-2:]:
        raise ValueError(
            f"An accuracy matrix has shape [..., T, E] with at least one experience, got shape {matrix.shape}: put one "
            "row for each experience trained on and one column for each experience tested on."
        )
    return matrix


def _square(matrix: jax.typing.ArrayLike, name: str, *, least: int) -> jax.Array:
    matrix = _matrix(matrix)
    rows, columns = matrix.shape[-2:]
    if rows != columns or rows < least:
        raise ValueError(
            f"{name} compares experiences over time and needs a square accuracy matrix of at least {least} "
            f"experience{'s' if least > 1 else ''}, got T={rows} rows and E={columns} columns: use final_accuracy for "
            "a joint run."
        )
    return matrix


def _reference(name: str, value: jax.typing.ArrayLike, matrix: jax.Array, advice: str) -> jax.Array:
    value = jnp.asarray(value)
    if value.shape[-1:] != matrix.shape[-1:]:
        raise ValueError(
            f"{name} expects one accuracy for each of the {matrix.shape[-1]} experiences, got shape {value.shape}: "
            f"{advice}."
        )
    return value
