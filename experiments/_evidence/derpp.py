"""DER++: with weights 0 plain training; class-incremental accuracy above plain training, and against ER."""

from collections.abc import Sequence

import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import SIZE, Check, Claim, against_er, distance, gate


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.derpp`."""
    return [
        gate("alpha=beta=0 is plain training (largest difference of a parameter)", _weightless(), most=1e-6),
        *against_er("derpp", continual.derpp(SIZE, alpha=0.5, beta=0.5), seeds),
    ]


def _weightless() -> float:
    stream = streams.class_incremental(streams.digits(), 3)
    after = []
    for method in (core.identity(), continual.derpp(50, alpha=0.0, beta=0.0)):
        model = core.from_linen(models.MLP(10, hidden=(32,)))
        learner = core.make_learner(model, method, optax.sgd(1e-1), stream)
        after.append(core.run_stream(learner).state.params)
    return distance(*after)


CHECK = Check(
    "ctrain_jax.continual.derpp",
    "Buzzega et al., Dark Experience for General Continual Learning, NeurIPS 2020, arXiv 2004.07211",
    claims,
)
