"""What the checks share: claims, runs over seeds, and the data that they are measured on."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, metrics, models, streams

SIZE = 500  # rows of memory where methods of replay are compared


class Claim(NamedTuple):
    """One thing that a factory promises, and what was measured. Accuracies are in percent, margins in points."""

    text: str
    kind: str  # "gate" (exact, decides the exit code) or "estimate" (measured over seeds, stored whatever it is)
    value: float | None  # None: not finite
    interval: tuple[float, float] | None  # of 95 percent over seeds; None for a gate
    bound: str  # ">= 20"
    holds: bool  # an estimate's whole interval lies on the right side of the bound


class Check(NamedTuple):
    """How the evidence of a factory is made."""

    factory: str  # "ctrain_jax.continual.ewc"
    paper: str
    claims: Callable[[Sequence[int], str | None], list[Claim]]  # (seeds, data_dir)
    rows: tuple[int, ...] = ()  # of the ledger of papers
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    data: bool = False  # measured on MNIST, which `make data` prepares


def gate(text: str, value: Any, *, least: float | None = None, most: float | None = None) -> Claim:
    """An exact claim about one number."""
    value = float(value)
    return Claim(text, "gate", _finite(value), None, *_judge(value, value, least, most))


def estimate(text: str, values: Any, *, least: float | None = None, most: float | None = None) -> Claim:
    """A claim about the mean over seeds of `values` `[S]`, with Student's interval."""
    values = np.asarray(values, np.float64)
    if values.size < 5:
        raise ValueError(f"An estimate expects one value for each of at least 5 seeds, got {values.size}: add seeds.")
    interval = metrics.mean_interval(values)
    mean, half = float(interval.mean), float(interval.half_width)
    limits = (mean - half, mean + half) if math.isfinite(half) else None
    return Claim(text, "estimate", _finite(mean), limits, *_judge(mean - half, mean + half, least, most))


def runs(learner: core.Learner, seeds: Sequence[int], variables: core.Variables | None = None) -> core.Result:
    """The whole stream for each seed, in one program; `variables` are stacked over the seeds."""
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    data = core.to_device(learner.stream)
    start = () if variables is None else (variables,)

    def one(key, *rest):
        *start, data = rest
        return core.run_fused(learner, data, key, *start)

    return jax.jit(core.mapped(one, (0,) * (1 + len(start)) + (None,)))(keys, *start, data)


def final(result: core.Result) -> np.ndarray:
    """Final accuracy in percent `[S]`."""
    return 100 * np.asarray(metrics.final_accuracy(result.accuracy))


def forgotten(result: core.Result) -> np.ndarray:
    """Forgetting in points `[S]`."""
    return 100 * np.asarray(metrics.forgetting(result.accuracy))


def means(**named: np.ndarray) -> str:
    """`naive 19.9, er 70.1`: the means behind a margin."""
    return ", ".join(f"{name} {np.mean(values):.1f}" for name, values in named.items())


def split_fashion_mnist(method: core.Method) -> core.Learner:
    """The learner on which replay methods are measured."""
    stream = streams.class_incremental(streams.fashion_mnist(), 5)
    model = core.from_linen(models.MLP(10))
    return core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=32, epochs=3)


def against_er(
    name: str,
    method: core.Method,
    seeds: Sequence[int],
    learner: Callable[[core.Method], core.Learner] = split_fashion_mnist,
    where: str = f"class-incremental Split-Fashion-MNIST (10,000 rows), MLP, memory {SIZE}",
) -> list[Claim]:
    """Final accuracy of a method above naive training and above ER, and forgetting less than naive."""
    results = [runs(learner(m), seeds) for m in (core.identity(), continual.er(SIZE), method)]
    naive, er, own = map(final, results)
    lost = dict(zip(("naive", "er", name), map(forgotten, results), strict=True))
    return [
        estimate(
            f"{where}: points of final accuracy above naive ({means(**{'naive': naive, name: own})})",
            own - naive,
            least=20,
        ),
        estimate(
            f"the same: points of final accuracy above er ({means(**{'er': er, name: own})})",
            own - er,
            least=0,
        ),
        estimate(
            f"the same: points of forgetting less than naive ({means(**lost)})", lost["naive"] - lost[name], least=20
        ),
    ]


def distance(a: Any, b: Any) -> float:
    """The largest absolute difference between two trees."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.max(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)))) for x, y in pairs)


def trained(result: core.Result) -> core.Variables:
    """The variables that a run ended with, to start another from."""
    return core.Variables(result.state.params, result.state.model_state, result.state.frozen)


def head_only(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer on the layer `head`, and nothing on the rest."""

    def group(path, leaf):
        return "head" if path[0].key == "head" else "rest"

    parts = {"head": tx, "rest": optax.set_to_zero()}
    return optax.partition(parts, lambda params: jax.tree_util.tree_map_with_path(group, params))


def handwritten(data_dir: str | None, rows: int | None = None) -> core.Source:
    """MNIST, with as many training rows; FileNotFoundError says how to get it."""
    return streams.tfds("mnist", data_dir, train_split="train" if rows is None else f"train[:{rows}]")


def _judge(low: float, high: float, least: float | None, most: float | None) -> tuple[str, bool]:
    if (least is None) == (most is None):
        raise ValueError(f"A claim expects one bound, got least={least} and most={most}: give one of them.")
    return (f">= {least:g}", low >= least) if most is None else (f"<= {most:g}", high <= most)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
