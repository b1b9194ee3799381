"""MIR in one pass: the worst harmed rows are replayed; class-incremental accuracy against naive and ER."""

from collections.abc import Sequence

import jax
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import SIZE, Check, Claim, against_er, distance, gate


def one_pass(method: core.Method) -> core.Learner:
    """The paper's kind of learner: every row once, 10 at a time and 10 more of the memory, SGD."""
    stream = streams.class_incremental(streams.fashion_mnist(), 5)
    model = core.from_linen(models.MLP(10, hidden=(400,)))
    return core.make_learner(model, method, optax.sgd(0.1), stream, batch_size=10)


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.mir`."""
    where = f"class-incremental Split-Fashion-MNIST (10,000 rows), one pass in batches of 10, MLP, memory {SIZE}"
    return [
        gate(
            "the first step, of an empty memory, is a plain one (largest difference of a parameter)", _step(), most=1e-6
        ),
        *against_er("mir", continual.mir(SIZE, lr=0.05), seeds, one_pass, where),
    ]


def _step() -> float:
    after = []
    for method in (core.identity(), continual.mir(SIZE, lr=0.05)):
        learner = one_pass(method)
        state, _ = jax.jit(learner.step)(core.start(learner), core.to_device(learner.stream), 0, 0)
        after.append(state.params)
    return distance(*after)


CHECK = Check(
    "ctrain_jax.continual.mir",
    "Aljundi et al., Online Continual Learning with Maximally Interfered Retrieval, NeurIPS 2019, arXiv 1908.04742",
    claims,
)
