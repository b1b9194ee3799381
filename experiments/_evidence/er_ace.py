"""ER-ACE: the first experience is plain; class-incremental accuracy above plain training, and against ER."""

from collections.abc import Sequence

import jax
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import SIZE, Check, Claim, against_er, distance, gate


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.er_ace`."""
    return [
        gate("the first experience is plain training (largest difference of a parameter)", _first(), most=1e-6),
        *against_er("er_ace", continual.er_ace(SIZE), seeds),
    ]


def _first() -> float:
    stream = streams.class_incremental(streams.fashion_mnist(), 5)
    model, after = core.from_linen(models.MLP(10, norm="batch")), []
    for method in (core.identity(), continual.er_ace(SIZE)):
        learner = core.make_learner(model, method, optax.sgd(0.1), stream)
        chunk = jax.jit(learner.chunk)
        state, _ = chunk(core.start(learner), core.to_device(stream), 0, 0, learner.spec.steps[0])
        after.append((state.params, state.model_state))
    return distance(*after)


CHECK = Check(
    "ctrain_jax.continual.er_ace",
    "Caccia et al., New Insights on Reducing Abrupt Representation Change in Online Continual Learning, ICLR 2022, "
    "arXiv 2104.05025",
    claims,
)
