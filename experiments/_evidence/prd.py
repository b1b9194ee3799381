"""PRD: what does not move whom; Split-MNIST by tasks, against no distillation and against plain training."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, ops, streams
from ctrain_jax.continual.representation import _prd
from experiments._evidence._common import Check, Claim, distance, estimate, final, gate, handwritten, means, runs

ROWS, TESTS = 3_000, 1_000


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.prd`."""
    source = handwritten(data_dir, ROWS)
    source = source._replace(test={name: leaf[:TESTS] for name, leaf in source.test.items()})
    digits, clothes = streams.task_incremental(source, 5), streams.task_incremental(streams.fashion_mnist(), 5)
    classes = streams.class_incremental(streams.fashion_mnist(), 5, heads="seen")
    plain, ours = core.identity(), continual.prd()

    def measured(stream, model, **methods):
        learner = functools.partial(core.make_learner, core.from_linen(model), batch_size=32)
        epochs = 5 if stream is digits else 3
        return {
            name: final(runs(learner(method, optax.adam(1e-3), stream, epochs=epochs), seeds))
            for name, method in methods.items()
        }

    small = measured(digits, models.CNN(10, widths=(4, 8, 16)), naive=plain, without=continual.prd(0.0), prd=ours)
    tasks = measured(clothes, models.MLP(10), naive=plain, prd=ours)
    shared = measured(classes, models.MLP(10, hidden=(128,)), naive=plain, prd=ours)
    where = f"task-incremental Split-MNIST ({len(source.train['labels'])} rows), CNN"
    return [
        gate(
            "a network that is its own teacher: gradient of the distillation (largest entry)",
            _difference({"beta": 0.0}, {"beta": 1000.0}) / 1000,
            most=1e-6,
        ),
        gate(
            "gradient of the prototypes' loss below the head (largest entry)",
            _difference({"alpha": 0.0}, {"alpha": 1000.0}, below=True) / 1000,
            most=0,
        ),
        gate("one rotation of features and prototypes changes the distillation by (largest)", _turned(), most=1e-5),
        estimate(
            f"{where}: points of final accuracy above beta=0 ({means(**small)})",
            small["prd"] - small["without"],
            least=3,
        ),
        estimate("the same: above naive", small["prd"] - small["naive"], least=5),
        estimate(
            "task-incremental Split-Fashion-MNIST (10,000 rows), MLP: points of final accuracy above naive "
            f"({means(**tasks)})",
            tasks["prd"] - tasks["naive"],
            least=0,
        ),
        estimate(
            "class-incremental, heads of the classes seen, 128 hidden units: points of final accuracy above naive "
            f"({means(**shared)})",
            shared["prd"] - shared["naive"],
            least=5,
        ),
    ]


def _difference(*arguments: dict[str, float], below: bool = False) -> float:
    """The largest, between gradients of the first step of the second experience, both from the same start."""
    ends = []
    for given in arguments:
        learner = core.make_learner(
            core.from_linen(models.MLP(10, hidden=(16,))),
            continual.prd(**given),
            optax.sgd(1.0),
            streams.class_incremental(streams.digits(), 3),
        )
        data = core.to_device(learner.stream)
        state = jax.jit(learner.begin)(core.start(learner), data, 1)
        params = jax.jit(learner.step)(state, data, 1, 0)[0].params
        ends.append({name: leaf for name, leaf in params.items() if not below or name != "head"})
    return distance(*ends)


def _turned() -> float:
    rng = np.random.default_rng(0)
    (z, old_z), (p, old_p) = rng.normal(size=(2, 32, 8)), rng.normal(size=(2, 5, 8))
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]

    def distances(turn):
        now, then = (ops.unit(a @ turn) @ ops.unit(b @ turn).T for a, b in ((z, p), (old_z, old_p)))
        return _prd.relation_distance(now, then, jnp.float32(0.1), jnp.ones(32, bool))

    return distance(distances(np.eye(8)), distances(turn))


CHECK = Check(
    "ctrain_jax.continual.prd",
    "Asadi et al., Prototype-Sample Relation Distillation: Towards Replay-Free Continual Learning, ICML 2023, "
    "arXiv 2303.14771",
    claims,
    rows=(40,),
    data=True,
)
