"""iCaRL: the first experience is plain, answers are nearest means; class-incremental accuracy against naive and ER."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, distance, estimate, final, forgotten, gate, means, runs

SIZE = 20  # of each class


def seen_fashion_mnist(method: core.Method) -> core.Learner:
    """The learner on which methods with exemplars are measured: only the classes seen so far compete."""
    stream = streams.class_incremental(streams.fashion_mnist(), 5, heads="seen")
    model = core.from_linen(models.MLP(10))
    return core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=32, epochs=3)


def compared(name: str, own: core.Result, seeds: Sequence[int]) -> list[Claim]:
    """Final accuracy above naive and above ER with as many rows, and forgetting less than naive."""
    naive, er = (runs(seen_fashion_mnist(m), seeds) for m in (core.identity(), continual.er(10 * SIZE)))
    accuracy, lost = [final(r) for r in (naive, er, own)], [forgotten(r) for r in (naive, er, own)]
    listed = means(**dict(zip(("naive", "er", name), accuracy, strict=True)))
    return [
        estimate(
            f"class-incremental Split-Fashion-MNIST (10,000 rows), MLP, {SIZE} exemplars a class: points of final "
            f"accuracy above naive ({listed})",
            accuracy[2] - accuracy[0],
            least=20,
        ),
        estimate(f"the same: above er with {10 * SIZE} rows", accuracy[2] - accuracy[1], least=0),
        estimate(
            "the same: points of forgetting less than naive "
            f"({means(**dict(zip(('naive', 'er', name), lost, strict=True)))})",
            lost[0] - lost[2],
            least=20,
        ),
    ]


def digits(method: core.Method, model: core.Model | None = None) -> core.Learner:
    """A small learner for identities: five experiences of 20 steps."""
    model = model or core.from_linen(models.MLP(10, hidden=(32,)))
    stream = streams.class_incremental(streams.digits(), 5)
    return core.make_learner(model, method, optax.sgd(0.1), stream, steps=20)


def first_experience(method: core.Method, model: core.Model | None = None) -> core.PyTree:
    """The parameters after the steps of the first experience, from its beginning to before its end."""
    learner = digits(method, model)
    data = core.to_device(learner.stream)
    state = jax.jit(learner.begin)(core.start(learner), data, 0)
    return jax.jit(learner.chunk)(state, data, 0, 0, 20)[0].params


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.icarl`."""
    learner = seen_fashion_mnist(continual.icarl(SIZE))
    icarl = runs(learner, seeds)
    return [
        gate(
            "the first experience is plain training of sigmoids over its classes (largest difference of a parameter)",
            _first(),
            most=1e-5,
        ),
        gate(
            "accuracy of the nearest mean of exemplars in numpy (largest difference in points)", _means(icarl), most=0.1
        ),
        *compared("icarl", icarl, seeds),
    ]


def _first() -> float:
    def problem(plain):
        def loss(outputs, batch):
            labels = jax.nn.one_hot(batch["labels"], 10)
            return optax.sigmoid_binary_cross_entropy(outputs.logits, labels)[:, :2].sum(-1)

        return core.Problem(loss, plain.metrics)

    return distance(first_experience(continual.icarl(5)), first_experience(core.Method("sigmoids", problem=problem)))


def _means(result: core.Result) -> float:
    """Of the first seed; a row of a test experience is worth 0.25 points."""
    state = jax.tree.map(lambda leaf: np.asarray(leaf[0]), result.state._replace(rng=()))
    source = streams.fashion_mnist()
    kept = state.method_state["icarl"].kept

    def features(images):
        x = images.reshape(len(images), -1).astype(np.float64) / 255
        for name in ("dense_0", "dense_1"):
            x = np.maximum(x @ state.params[name]["kernel"] + state.params[name]["bias"], 0)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    means = np.stack([features(source.train["inputs"][rows]).mean(0) for rows in kept.row])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    away = np.square(features(source.test["inputs"])[:, None] - means[None]).sum(-1)
    correct, pairs = away.argmin(1) == source.test["labels"], source.test["labels"] // 2
    expected = np.array([correct[pairs == t].mean() for t in range(5)])
    return float(100 * np.max(np.abs(expected - np.asarray(result.accuracy)[0, -1])))


CHECK = Check(
    "ctrain_jax.continual.icarl",
    "Rebuffi et al., iCaRL: Incremental Classifier and Representation Learning, CVPR 2017, arXiv 1611.07725",
    claims,
)
