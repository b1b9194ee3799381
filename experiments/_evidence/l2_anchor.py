"""L2 anchor: nothing in the first experience; task-incremental accuracy above plain training."""

from collections.abc import Sequence

import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, distance, gate
from experiments._evidence._penalties import above_naive, plain_without


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.l2_anchor`."""
    return [
        plain_without(continual.l2_anchor(0.0)),
        gate(
            "the first experience is plain training, whatever the strength (largest difference of a parameter)",
            _first_experience(),
            most=1e-6,
        ),
        *above_naive(continual.l2_anchor(1.0), "lam=1", seeds),
    ]


def _first_experience() -> float:
    stream = streams.class_incremental(streams.digits(), 3)
    model, ends = core.from_linen(models.MLP(10, hidden=())), []
    for method in (core.identity(), continual.l2_anchor(100.0)):
        learner = core.make_learner(model, method, optax.adam(1e-2), stream)
        ends.append(core.run_experience(learner, core.start(learner), core.to_device(stream), 0).params)
    return distance(*ends)


CHECK = Check(
    "ctrain_jax.continual.l2_anchor",
    "Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017, arXiv 1612.00796 (baseline)",
    claims,
)
