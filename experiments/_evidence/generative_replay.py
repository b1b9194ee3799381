"""Generative replay: the first experience is plain training; accuracy far above it, without a memory."""

from collections.abc import Sequence

from ctrain_jax import continual, core
from experiments._evidence._common import Check, Claim, distance, estimate, final, forgotten, gate, means, runs
from experiments._evidence.er import split_fashion_mnist


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.generative_replay`."""
    naive = runs(split_fashion_mnist(core.identity()), seeds)
    made = runs(split_fashion_mnist(continual.generative_replay()), seeds)
    accuracy, lost = (final(naive), final(made)), (forgotten(naive), forgotten(made))
    return [
        gate("the first experience is plain training (largest difference of a parameter)", _first(), most=1e-4),
        estimate(
            "class-incremental Split-Fashion-MNIST (10,000 rows), MLP, no memory: points of final accuracy above naive "
            f"({means(naive=accuracy[0], generative=accuracy[1])})",
            accuracy[1] - accuracy[0],
            least=20,
        ),
        estimate(
            f"the same: points of forgetting less than naive ({means(naive=lost[0], generative=lost[1])})",
            lost[0] - lost[1],
            least=20,
        ),
    ]


def _first() -> float:
    ends = []
    for method in (core.identity(), continual.generative_replay()):
        learner = split_fashion_mnist(method)
        data = core.to_device(learner.stream)
        ends.append(core.run_experience(learner, core.start(learner), data, 0).params)
    return distance(*ends)


CHECK = Check(
    "ctrain_jax.continual.generative_replay",
    "Shin et al., Continual Learning with Deep Generative Replay, NeurIPS 2017, arXiv 1705.08690",
    claims,
)
