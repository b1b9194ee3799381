"""DER: DER++ without labels; class-incremental accuracy above plain training, and against ER."""

from collections.abc import Sequence

import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import SIZE, Check, Claim, against_er, distance, gate


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.der`."""
    without_labels = continual.derpp(50, alpha=0.5, beta=0.0)._replace(name="der")  # the name seeds its draws
    return [
        gate(
            "it is derpp with beta=0 (largest difference of a parameter)",
            distance(_after(continual.der(50, alpha=0.5)), _after(without_labels)),
            most=1e-5,
        ),
        gate(
            "alpha=0 is plain training (largest difference of a parameter)",
            distance(_after(continual.der(50, alpha=0.0)), _after(core.identity())),
            most=1e-6,
        ),
        *against_er("der", continual.der(SIZE, alpha=0.5), seeds),
    ]


def _after(method: core.Method) -> optax.Params:
    stream = streams.class_incremental(streams.digits(), 3)
    model = core.from_linen(models.MLP(10, hidden=(32,)))
    return core.run_stream(core.make_learner(model, method, optax.sgd(1e-1), stream)).state.params


CHECK = Check(
    "ctrain_jax.continual.der",
    "Buzzega et al., Dark Experience for General Continual Learning, NeurIPS 2020, arXiv 2004.07211",
    claims,
)
