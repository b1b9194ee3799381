"""LingoCL: fixed targets stay, a new class moves no other; with ER, against a head that learns."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from ctrain_jax import continual, core, models, ops, streams
from experiments._evidence._common import SIZE, Check, Claim, distance, estimate, final, forgotten, gate, means, runs

# Tops, trousers, shoes, bags of Fashion-MNIST.
GROUPS = (0, 1, 0, 0, 0, 2, 0, 2, 3, 2)
TARGETS = ops.hierarchical_targets(GROUPS, 9, share=0.5)


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.lingocl`."""
    heads = {"learned": core.identity(), "simplex": continual.lingocl(ops.simplex_targets(10, 9))}
    heads["lingocl"] = continual.lingocl(TARGETS)
    results = {name: runs(_fashion_mnist(head), seeds) for name, head in heads.items()}
    accuracy = {name: final(result) for name, result in results.items()}
    lost = {name: forgotten(result) for name, result in results.items()}
    frozen = results["lingocl"].state.frozen
    start = _fashion_mnist(heads["lingocl"])
    first = [core.start(start, seed).frozen for seed in seeds]
    return [
        gate(
            "targets, scale and the model's own head after the stream are those before it (largest difference)",
            max(distance(jax.tree.map(lambda leaf, k=k: leaf[k], frozen), one) for k, one in enumerate(first)),
            most=0,
        ),
        gate("two classes more: logits of the eight others (largest difference)", _appended(), most=0),
        estimate(
            f"class-incremental Split-Fashion-MNIST (10,000 rows), MLP, er with memory {SIZE}: points of final "
            f"accuracy of targets by four groups of classes above a head that learns ({means(**accuracy)})",
            accuracy["lingocl"] - accuracy["learned"],
            least=1,
        ),
        estimate(
            f"the same: points of forgetting less ({means(**lost)})",
            lost["learned"] - lost["lingocl"],
            least=0,
        ),
    ]


def _fashion_mnist(head: core.Method) -> core.Learner:
    stream = streams.class_incremental(streams.fashion_mnist(), 5)
    model = core.from_linen(models.MLP(10, hidden=(128,)))
    method = core.chain(head, continual.er(SIZE))
    return core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=32, epochs=3)


def _appended() -> float:
    images = streams.fashion_mnist().test["inputs"][:500] / np.float32(255)
    logits = []
    for num in (8, 10):
        model = continual.lingocl(TARGETS[:num]).model(core.from_linen(models.MLP(num, hidden=(128,))))
        logits.append(model.apply(model.init(jax.random.key(0), images), images)[0].logits)
    return distance(logits[0], logits[1][:, :8])


CHECK = Check(
    "ctrain_jax.continual.lingocl",
    "Ni et al., Enhancing Visual Continual Learning with Language-Guided Supervision, CVPR 2024, arXiv 2403.16124",
    claims,
    rows=(271,),
)
