"""ER: an empty memory changes nothing; class-incremental accuracy far above plain training."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import (
    SIZE,
    Check,
    Claim,
    distance,
    estimate,
    final,
    forgotten,
    gate,
    means,
    runs,
    split_fashion_mnist,
)


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.er`."""
    learner = split_fashion_mnist(continual.er(SIZE))
    naive, er = runs(split_fashion_mnist(core.identity()), seeds), runs(learner, seeds)
    accuracy, lost = (final(naive), final(er)), (forgotten(naive), forgotten(er))
    return [
        gate(
            "the first step, of an empty memory, is a plain one (largest difference of a parameter)", _step(), most=1e-6
        ),
        gate(
            "rows of the memory are of the experience that they are marked with (share of them)",
            _share(learner, er),
            least=1,
        ),
        estimate(
            f"class-incremental Split-Fashion-MNIST (10,000 rows), MLP, memory {SIZE}: points of final accuracy above "
            f"naive ({means(naive=accuracy[0], er=accuracy[1])})",
            accuracy[1] - accuracy[0],
            least=20,
        ),
        estimate(
            f"the same: points of forgetting less than naive ({means(naive=lost[0], er=lost[1])})",
            lost[0] - lost[1],
            least=20,
        ),
    ]


def _step() -> float:
    stream, model = streams.class_incremental(streams.fashion_mnist(), 5), core.from_linen(models.MLP(10))
    after = []
    for method in (core.identity(), continual.er(SIZE)):
        learner = core.make_learner(model, method, optax.sgd(0.1), stream)
        state, _ = jax.jit(learner.step)(core.start(learner), core.to_device(stream), 0, 0)
        after.append(state.params)
    return distance(*after)


def _share(learner: core.Learner, result: core.Result) -> float:
    """The share of the memories' rows that belong to the experience they are marked with."""
    train = learner.stream.experiences["train"]
    records = jax.tree.map(np.asarray, result.state.method_state["er"].buffer.records)
    good = np.zeros(records["row"].shape, bool)
    for t, size in enumerate(train.size):
        good |= (records["experience"] == t) & np.isin(records["row"], train.rows[t][:size])
    return good.mean()


CHECK = Check(
    "ctrain_jax.continual.er",
    "Chaudhry et al., On Tiny Episodic Memories in Continual Learning, 2019, arXiv 1902.10486",
    claims,
)
