"""Hyper-parameters chosen in one place, and the method judged in another.

Cha and Cho, "Hyperparameters in Continual Learning: a Reality Check", 2024, arXiv 2403.09066: the generalizable
two-phase evaluation protocol. The abstract and the introduction were opened. Written from the protocol.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike


class TwoPhase(NamedTuple):
    """What a method came to."""

    name: str
    setting: Any  # the chosen one
    tuning: np.ndarray  # float64 [S], its scores where it was chosen
    evaluation: np.ndarray  # float64 [S], its scores where it is judged: what is reported


def two_phase(
    run: Callable[[str, Any, Any], ArrayLike], settings: Mapping[str, Sequence[Any]], *, tuning: Any, evaluation: Any
) -> list[TwoPhase]:
    r"""Choose a setting of each method on one stream, and report what it is worth on another one.

    .. math:: h^*_m = \arg\max_h \frac{1}{S} \sum_s A_m(h, D^{HT}_s), \qquad
              \mathrm{reported}_m = A_m(h^*_m, D^{E})

    Both streams have the same configuration (number of experiences, classes of each) and different data: other classes
    of one source, or another source. The same stream in both places is the usual practice, whose scores are too good
    by what the choice has fitted. `evaluation` is handed to `run` only after all choices are made.

    Args:
      run: `(name, setting, stream) -> [S]`, the scores of a method's seeds, higher is better; nan where a run diverged,
        and then its setting is not chosen.
      settings: {name of a method: what to choose from}.
      tuning: what is handed to `run` in the first phase: `streams.selection(...)` of a stream has no test rows.
      evaluation: the same in the second phase.

    Returns:
      One for each method, in the order of `settings`; of equally good settings the first is chosen.

    Raises:
      ValueError: a method without a setting, one all of whose settings diverged, or scores that are not `[S]`.

    Example:
      >>> from ctrain_jax import metrics
      >>> old, new = {1.0: [0.7, 0.8], 10.0: [0.9, 0.9]}, {1.0: [0.6, 0.5], 10.0: [0.5, 0.7]}
      >>> run = lambda name, lam, stream: stream[lam]
      >>> found, = metrics.two_phase(run, {"ewc": [1.0, 10.0]}, tuning=old, evaluation=new)
      >>> found.setting, found.evaluation.tolist()
      (10.0, [0.5, 0.7])

    References:
      Cha and Cho, 2024, arXiv 2403.09066.
    """

    def scores(name: str, setting: Any, stream: Any) -> np.ndarray:
        found = np.asarray(run(name, setting, stream), np.float64)
        if found.ndim != 1 or not len(found):
            raise ValueError(
                f"two_phase expects scores [S] of the seeds of {name}, got the shape {found.shape}: return one for "
                "each seed."
            )
        return found

    chosen = []
    for name, options in settings.items():
        tried = [(setting, scores(name, setting, tuning)) for setting in options]
        finite = [pair for pair in tried if np.isfinite(pair[1]).all()]
        if not finite:
            raise ValueError(
                f"two_phase expects a setting of {name} whose scores are finite, got {len(tried)} without: give others."
            )
        setting, found = max(finite, key=lambda pair: pair[1].mean())
        chosen.append((name, setting, found))
    return [TwoPhase(name, setting, found, scores(name, setting, evaluation)) for name, setting, found in chosen]
