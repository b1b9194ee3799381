"""DER++: with weights 0 plain training; class-incremental accuracy above plain training, and against ER."""

from collections.abc import Sequence

import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, distance, estimate, final, forgotten, gate, means, runs
from experiments._evidence.er import SIZE, split_fashion_mnist


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.derpp`."""
    methods = (core.identity(), continual.er(SIZE), continual.derpp(SIZE, alpha=0.5, beta=0.5))
    results = [runs(split_fashion_mnist(method), seeds) for method in methods]
    naive, er, derpp = map(final, results)
    lost = dict(zip(("naive", "er", "derpp"), map(forgotten, results), strict=True))
    where = f"class-incremental Split-Fashion-MNIST (10,000 rows), MLP, memory {SIZE}"
    return [
        gate("alpha=beta=0 is plain training (largest difference of a parameter)", _weightless(), most=1e-6),
        estimate(
            f"{where}: points of final accuracy above naive ({means(naive=naive, derpp=derpp)})",
            derpp - naive,
            least=20,
        ),
        estimate(f"the same: points of final accuracy above er ({means(er=er, derpp=derpp)})", derpp - er, least=0),
        estimate(
            f"the same: points of forgetting less than naive ({means(**lost)})", lost["naive"] - lost["derpp"], least=20
        ),
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
