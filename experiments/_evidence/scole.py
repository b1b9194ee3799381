"""SCoLe: classes come back as they should, absent ones are left alone, and knowledge accumulates on MNIST."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import core, losses, models, streams
from experiments._evidence._common import Check, Claim, estimate, gate, handwritten, means, runs

NUM, ENDS = 200, 20


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `streams.scole`, with `losses.present_class_ce`."""
    source = handwritten(data_dir, 10_000)
    source = source._replace(test={field: values[:2000] for field, values in source.test.items()})
    stream = streams.scole(source, NUM)
    plain = core.classification()
    masked = plain._replace(loss=lambda outputs, batch: losses.present_class_ce(outputs.logits, batch["labels"]))

    def curve(optimizer, problem):
        model = core.from_linen(models.MLP(10, hidden=(100,)))
        learner = core.make_learner(model, core.identity(), optimizer, stream, problem=problem, batch_size=64)
        return 100 * np.asarray(runs(learner, seeds).accuracy)[..., 0]

    own, unmasked = curve(optax.sgd(0.01), masked), curve(optax.sgd(0.01, momentum=0.9), plain)
    first, last, other = own[:, :ENDS].mean(1), own[:, -ENDS:].mean(1), unmasked[:, -ENDS:].mean(1)
    outside, over_all = _loss()
    often, differing = _classes()
    where = f"MNIST (10,000 rows), {NUM} experiences of 2 classes, one pass, MLP of 100 units, accuracy on all classes"
    return [
        gate("present_class_ce: gradient of absent logits and rows of the head (largest)", outside, most=0),
        gate("the same over all classes: difference to cross-entropy (largest)", over_all, most=1e-6),
        gate("1,000 experiences of 2 of 10 classes: distance to k / C in standard errors (largest)", often, most=3),
        gate("experiences that differ between a stream of 50 and the first 50 of 1,000", differing, most=0),
        estimate(
            f"{where}: points that masked SGD gains from the first {ENDS} to the last {ENDS} "
            f"({means(first=first, last=last)})",
            last - first,
            least=20,
        ),
        estimate(
            f"the same, last {ENDS}: points above SGD with momentum 0.9 without the mask "
            f"({means(masked=last, plain=other)})",
            last - other,
            least=10,
        ),
    ]


def _loss() -> tuple[float, float]:
    """Gradients that should not be there, and the difference to the plain loss when all classes are."""
    features, head = (jax.random.normal(jax.random.key(k), shape) for k, shape in ((0, (16, 8)), (1, (8, 10))))
    labels = jnp.arange(16) % 3 * 2
    absent = jnp.ones(10, bool).at[labels].set(False)
    grads = jax.grad(lambda w: losses.present_class_ce(features @ w, labels).sum())(head)
    to_logits = jax.grad(lambda z: losses.present_class_ce(z, labels).sum())(features @ head)
    wrong = max(float(jnp.abs(grads[:, absent]).max()), float(jnp.abs(to_logits[:, absent]).max()))
    every = losses.present_class_ce(features @ head, labels, jnp.ones(10, bool))
    plain = optax.softmax_cross_entropy_with_integer_labels(features @ head, labels)
    return wrong, float(jnp.abs(every - plain).max())


def _classes() -> tuple[float, int]:
    """How far occurrences are from k / C, and how many experiences depend on the length of the stream."""
    source = streams.arrays(np.zeros((10, 1)), np.arange(10), np.zeros((10, 1)), np.arange(10))
    long, short = (np.asarray(streams.scole(source, n).experiences["train"].classes) for n in (1000, 50))
    distance = np.abs(long.sum(0) - 1000 * 0.2) / np.sqrt(1000 * 0.2 * 0.8)
    return distance.max(), np.any(long[:50] != short, axis=1).sum()


CHECK = Check(
    "ctrain_jax.streams.scole",
    "Lesort, Ostapenko, Misra, Arefin, Rodriguez, Charlin and Rish, Challenging Common Assumptions about Catastrophic "
    "Forgetting and Knowledge Accumulation, CoLLAs 2023, arXiv 2207.04543",
    claims,
    rows=(61,),
    data=True,
)
