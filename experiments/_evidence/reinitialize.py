"""From scratch: what came before leaves no trace in what is learned next."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, distance, estimate, gate, means, runs


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.reinitialize`."""
    method = continual.reinitialize()
    orders = {
        name: _learned(method, order, seeds) for name, order in (("there", range(10)), ("back", range(9, -1, -1)))
    }
    gap = abs(np.mean(orders["there"], axis=1) - np.mean(orders["back"], axis=1))
    return [
        gate("starts of an experience after two different pasts (largest difference of a parameter)", _trace(), most=0),
        estimate(
            "task-incremental digits, 5 experiences, MLP: points between the mean accuracy right after learning in one "
            f"order of the classes and in the reverse ({means(there=orders['there'], back=orders['back'])})",
            gap,
            most=2,
        ),
    ]


def _learned(method: core.Method, order: Sequence[int], seeds: Sequence[int]) -> np.ndarray:
    """Accuracy right after each experience in percent `[S, T]`."""
    result = runs(_learner(method, list(order)), seeds)
    return 100 * np.diagonal(np.asarray(result.accuracy), axis1=-2, axis2=-1)


def _learner(method: core.Method, order: Sequence[int]) -> core.Learner:
    stream = streams.task_incremental(streams.digits(), 5, class_order=order)
    model = core.from_linen(models.MLP(10, hidden=(100,)))
    return core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=32, epochs=5)


def _trace() -> float:
    learner = _learner(continual.reinitialize(), range(10))
    data, begin = core.to_device(learner.stream), jax.jit(learner.begin)
    fresh = core.start(learner)
    past = fresh._replace(params=jax.tree.map(lambda p: 3 * p + 1, fresh.params))
    starts = [begin(state, data, 1) for state in (fresh, past)]
    return distance(*((start.params, start.opt_state) for start in starts))


CHECK = Check(
    "ctrain_jax.continual.reinitialize",
    "Bornschein, Galashov, Hemsley, Rannen-Triki et al., NEVIS'22: A Stream of 100 Tasks Sampled from 30 Years of "
    "Computer Vision Research, 2022, arXiv 2211.11747",
    claims,
    rows=(22,),
)
