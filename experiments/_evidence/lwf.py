"""LwF: the first experience is plain training; accuracy above it where tasks, or domains, follow each other."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, distance, estimate, final, forgotten, gate, means, runs


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.lwf`."""
    source = streams.fashion_mnist()

    def measured(stream, method):
        model = core.from_linen(models.MLP(10))
        return runs(core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=32, epochs=3), seeds)

    tasks, classes = streams.task_incremental(source, 5), streams.class_incremental(source, 5, heads="seen")
    naive, lwf = measured(tasks, core.identity()), measured(tasks, continual.lwf())
    accuracy, lost = (final(naive), final(lwf)), (forgotten(naive), forgotten(lwf))
    shared = (final(measured(classes, core.identity())), final(measured(classes, continual.lwf())))
    return [
        gate("the first experience is plain training (largest difference of a parameter)", _first(), most=1e-6),
        gate(
            "a network that is its own teacher has the entropy of its answer as the loss, and no gradient of it "
            "(norm of the gradient of lam=1e4)",
            _own_teacher(),
            most=1e-2,
        ),
        estimate(
            "task-incremental Split-Fashion-MNIST (10,000 rows), MLP: points of final accuracy above naive "
            f"({means(naive=accuracy[0], lwf=accuracy[1])})",
            accuracy[1] - accuracy[0],
            least=0,
        ),
        estimate(
            f"the same: points of forgetting less than naive ({means(naive=lost[0], lwf=lost[1])})",
            lost[0] - lost[1],
            least=0,
        ),
        estimate(
            "class-incremental, heads of the classes seen: points of final accuracy above naive "
            f"({means(naive=shared[0], lwf=shared[1])})",
            shared[1] - shared[0],
            least=0,
        ),
    ]


def _learner(method: core.Method) -> core.Learner:
    stream = streams.class_incremental(streams.digits(), 3)
    return core.make_learner(core.from_linen(models.MLP(10, hidden=(16,))), method, optax.sgd(0.1), stream)


def _first() -> float:
    ends = []
    for method in (core.identity(), continual.lwf()):
        learner = _learner(method)
        ends.append(core.run_experience(learner, core.start(learner), core.to_device(learner.stream), 0).params)
    return distance(*ends)


def _own_teacher() -> float:
    """The first step of the second experience, less the plain one."""
    learner, plain = _learner(continual.lwf(1e4)), _learner(core.identity())
    data = core.to_device(learner.stream)
    state = core.run_experience(learner, core.start(learner), data, 0)
    state = jax.jit(learner.begin)(state, data, 1)
    after, _ = jax.jit(learner.step)(state, data, 1, 0)
    other, _ = jax.jit(plain.step)(state._replace(method_state={}), data, 1, 0)
    return float(optax.tree.norm(jax.tree.map(lambda a, b: np.subtract(a, b) / 0.1, after.params, other.params)))


CHECK = Check(
    "ctrain_jax.continual.lwf",
    "Li and Hoiem, Learning without Forgetting, ECCV 2016, arXiv 1606.09282",
    claims,
)
