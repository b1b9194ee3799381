"""How a share of all weights is divided among layers.

Erdős-Rényi-Kernel: Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020, arXiv 1911.11134, after
Mocanu et al. 2018, arXiv 1707.04780.
"""

import math
from collections.abc import Mapping, Sequence

from ctrain_jax.ops._checks import check_fraction, check_positive


def erk_density(shapes: Mapping[str, Sequence[int]], density: float) -> dict[str, float]:
    r"""The density of each kernel, larger where it is small: Erdős-Rényi-Kernel.

    .. math:: d_l = \min\Big(1, \; \epsilon \, \frac{\sum_i n_i}{\prod_i n_i}\Big) \quad \text{for a kernel of shape }
              (n_1, n_2, \ldots)

    with the one :math:`\epsilon` at which all kernels together have the density that is asked for.

    Args:
        shapes: of the kernels by name, `(height, width, in, out)` or `(in, out)`.
        density: share of all their weights.

    Returns:
        The share of each kernel's weights, by name.

    Raises:
        ValueError: a density outside of (0, 1].

    Example:
        >>> erk_density({"wide": (784, 100), "square": (10, 10)}, 0.1)["square"]
        1.0
    """
    check_positive("density", density)
    check_fraction("density", density)
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / size[name] for name, shape in shapes.items()}
    left, wanted = sorted(raw, key=raw.__getitem__), density * sum(size.values())
    while left:
        scale = wanted / sum(raw[name] * size[name] for name in left)
        if scale * raw[left[-1]] <= 1:
            return {name: scale * raw[name] if name in left else 1.0 for name in shapes}
        wanted -= size[left.pop()]  # dense, and the others share what remains
    return dict.fromkeys(shapes, 1.0)
