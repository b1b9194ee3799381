"""Interpolation: its ends, and what it keeps of a pre-trained CNN over eight updates."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from ctrain_jax import continual, core, metrics, models, streams
from experiments._evidence._common import Check, Claim, distance, estimate, gate, handwritten, means, runs
from experiments._evidence.nevis import cut

WHERE = "CNN pre-trained on Fashion-MNIST (4,000 rows), 8 updates of 700 rows of MNIST and digits in 4 forms each"


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.weight_interpolation`."""
    stream = updates(data_dir)
    plain = runs(learner(stream, core.identity()), seeds)
    half = runs(learner(stream, continual.weight_interpolation(0.5)), seeds)
    whole = runs(learner(stream, continual.weight_interpolation(1.0)), seeds[:1])
    same = jax.tree.map(lambda x: x[:1], plain.state.params)
    kept, gained = retention(half) - retention(plain), accumulation(plain) - accumulation(half)
    return [
        gate(
            "alpha=1 is plain training (largest difference of a parameter)", distance(whole.state.params, same), most=0
        ),
        gate(
            "a budget of 20 steps or more of any size: share that steps_for_budget uses (least), 0 where it exceeds it",
            _used(),
            least=0.95,
        ),
        estimate(
            f"{WHERE}, 3 epochs each: points of accuracy on Fashion-MNIST at the end above plain fine-tuning "
            f"({means(plain=retention(plain), half=retention(half))})",
            kept,
            least=5,
        ),
        estimate(
            "the same: points of mean accuracy on the updates at the end below plain fine-tuning "
            f"({means(plain=accumulation(plain), half=accumulation(half))})",
            gained,
            most=2,
        ),
    ]


def updates(data_dir: str | None) -> core.Stream:
    """Fashion-MNIST, then eight forms of MNIST and digits, which share ten classes of their own; heads by task."""
    mnist, digits = handwritten(data_dir, 8_000), streams.digits()
    tasks = [cut(streams.fashion_mnist(), range(10), 4000, "fashion", tested=500)]
    for source in (mnist, digits):
        plain = cut(source, range(10), 700, source.name)
        tasks += [plain, _changed(plain, lambda x: 255 - x), cut(source, range(10), 700, source.name, turns=1)]
        tasks += [_changed(plain, lambda x: x[:, :, ::-1])]
    stream = streams.nevis(tasks, shape=(16, 16, 1), valid_fraction=0.0)
    ten = np.arange(stream.source.num_classes)
    ten = np.where(ten < 10, ten, 10 + ten % 10).astype(np.int32)
    train, test = ({**part, "labels": ten[part["labels"]]} for part in (stream.source.train, stream.source.test))
    classes = np.repeat([np.arange(20) < 10, np.arange(20) >= 10], [1, 8], axis=0)
    seen = np.logical_or.accumulate(classes)
    return stream._replace(
        source=stream.source._replace(train=train, test=test, num_classes=20),
        experiences={k: e._replace(classes=classes, seen=seen) for k, e in stream.experiences.items()},
        origins=stream.origins._replace(classes=classes),
    )


def learner(stream: core.Stream, method: core.Method, rate: optax.ScalarOrSchedule = 1e-3) -> core.Learner:
    """The CNN of all that is compared on this stream."""
    model = core.from_linen(models.CNN(20, widths=(16, 32)))
    return core.make_learner(model, method, optax.adam(rate), stream, batch_size=32, epochs=3)


def retention(result: core.Result) -> np.ndarray:
    """Accuracy on the pre-training's test at the end, in percent `[S]`."""
    return 100 * np.asarray(result.accuracy)[:, -1, 0]


def accumulation(result: core.Result) -> np.ndarray:
    """Mean accuracy on the tests of the updates at the end, in percent `[S]`."""
    return 100 * np.asarray(result.accuracy)[:, -1, 1:].mean(-1)


def _changed(source: core.Source, change) -> core.Source:
    train, test = ({**part, "inputs": change(part["inputs"])} for part in (source.train, source.test))
    return source._replace(train=train, test=test)


def _used() -> float:
    rng, least = np.random.default_rng(0), 1.0
    for _ in range(1000):
        step = 10 ** rng.uniform(0, 12)
        budget = step * rng.uniform(20, 2000)
        used = metrics.steps_for_budget(budget, step) * step / budget
        least = min(least, used if used <= 1 else 0.0)
    return least


CHECK = Check(
    "ctrain_jax.continual.weight_interpolation",
    "Roth, Udandarao, Dziadzio et al., A Practitioner's Guide to Continual Multimodal Pretraining, 2024, arXiv "
    "2408.14471",
    claims,
    rows=(53,),
    data=True,
)
