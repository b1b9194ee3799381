"""Expert Gate: experts that stay, and the share of rows that find theirs, on class-incremental Split-MNIST."""

from collections.abc import Sequence

import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import (
    Check,
    Claim,
    distance,
    estimate,
    final,
    forgotten,
    gate,
    handwritten,
    means,
    runs,
)


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.expert_gate`."""
    stream = streams.class_incremental(handwritten(data_dir, 5_000), 5)

    def learner(method):
        model = core.from_linen(models.MLP(10, hidden=(100, 100)))
        return core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=32, epochs=5)

    results = [runs(learner(m), seeds) for m in (core.identity(), continual.er(200), continual.expert_gate())]
    naive, er, own = map(final, results)
    lost = dict(zip(("naive", "er", "expert_gate"), map(forgotten, results), strict=True))
    where = "class-incremental Split-MNIST (5,000 rows) in 5 experiences of 5 epochs, MLP of 100 and 100"
    return [
        gate("experts and autoencoders of earlier experiences after later ones (largest difference)", _still(), most=0),
        estimate(
            f"{where}: points of final accuracy above naive ({means(naive=naive, expert_gate=own)})",
            own - naive,
            least=50,
        ),
        estimate(f"the same: above er with 200 rows ({means(er=er)})", own - er, least=0),
        estimate(
            f"the same: points of forgetting less than er ({means(**lost)})", lost["er"] - lost["expert_gate"], least=0
        ),
    ]


def _still() -> float:
    stream = streams.class_incremental(streams.digits(), 5)
    model = core.from_linen(models.MLP(10, hidden=(16,)))
    method = continual.expert_gate(code=20)
    learner = core.make_learner(model, method, optax.adamw(1e-3), stream, batch_size=32)
    data, state, kept = core.to_device(stream), core.start(learner), None
    for t in range(3):
        state = core.run_experience(learner, state, data, t)
        s = state.method_state["expert_gate"]
        if t == 0:
            kept = [np.array(x[0]) for x in _leaves(s)]
    return distance(kept, [np.asarray(x[0]) for x in _leaves(state.method_state["expert_gate"])])


def _leaves(s):
    return [leaf for tree in (s.experts.params, s.gates) for layer in tree.values() for leaf in layer.values()]


CHECK = Check(
    "ctrain_jax.continual.expert_gate",
    "Aljundi et al., Expert Gate: Lifelong Learning with a Network of Experts, CVPR 2017, arXiv 1611.06194",
    claims,
    rows=(291,),
    data=True,
)
