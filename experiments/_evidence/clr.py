"""CLR: it starts as the network, and answers stay to the bit; digits after a network of clothes, against a new head."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import (
    Check,
    Claim,
    distance,
    estimate,
    final,
    forgotten,
    gate,
    handwritten,
    head_only,
    means,
    runs,
    trained,
)

ROWS, TESTS, CLOTHES = 2_000, 2_000, 3_000
RATES = (1e-3, 1e-2)
MODEL = core.from_linen(models.CNN(10, widths=(8, 16), pool="mean"))  # averages over pixels, as the paper's networks do


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.clr`."""
    start, moved, network, extra = _exact()
    clothes = streams.class_incremental(_first(streams.fashion_mnist(), CLOTHES, 500), 1)
    tx = optax.adam(3e-3)
    anchors = trained(runs(core.make_learner(MODEL, core.identity(), tx, clothes, batch_size=32, epochs=5), seeds))
    stream = streams.task_incremental(_first(handwritten(data_dir, ROWS), ROWS, TESTS), 5)

    def best(method: core.Method, wrap: Callable, score: Callable) -> core.Result:
        """At the better of two rates, for every method alike."""
        tried = []
        for rate in RATES:
            tx = wrap(optax.adam(rate))
            learner = core.make_learner(MODEL, method, tx, stream, batch_size=32, epochs=5, eval_batch_size=500)
            tried.append(runs(learner, seeds, anchors))
        return max(tried, key=lambda result: score(result).mean())

    plain = core.identity()
    clr, linear = best(continual.clr(5), lambda tx: tx, final), best(plain, head_only, _learned)
    naive = best(plain, lambda tx: tx, final)
    accuracy = {"naive": final(naive), "linear": _learned(linear), "clr": final(clr)}
    where = (
        f"task-incremental Split-MNIST ({ROWS:,} rows) in 5 experiences of 5 epochs, from a CNN of Fashion-MNIST, Adam "
        "at the better of two rates"
    )
    return [
        gate("answers of a task that has not learned less those of the network (largest difference)", start, most=1e-6),
        gate("AdamW and BatchNorm: earlier answers after later experiences (largest difference)", moved, most=0),
        gate("and the network (largest difference)", network, most=0),
        gate("parameters of a task less the sum over layers of 9 C, normalisation and head", extra, most=0),
        gate(f"{where}: points of forgetting (largest of a seed)", np.abs(forgotten(clr)).max(), most=0),
        estimate(
            f"the same: points of final accuracy above a linear head for each task on frozen features "
            f"({means(**{name: accuracy[name] for name in ('linear', 'clr')})})",
            accuracy["clr"] - accuracy["linear"],
            least=2,
        ),
        estimate(
            f"the same: points of final accuracy above naive ({means(naive=accuracy['naive'])})",
            accuracy["clr"] - accuracy["naive"],
            least=0,
        ),
    ]


def _learned(result: core.Result) -> np.ndarray:
    """Accuracy on each experience when it was learned, in percent `[S]`: what a head for each task keeps."""
    return 100 * np.diagonal(np.asarray(result.accuracy), axis1=-2, axis2=-1).mean(-1)


def _first(source: core.Source, rows: int, tests: int) -> core.Source:
    train, test = (
        {name: leaf[:n] for name, leaf in part.items()} for part, n in ((source.train, rows), (source.test, tests))
    )
    return source._replace(train=train, test=test)


def _exact() -> tuple[float, float, float, int]:
    """The largest difference at the start, of earlier answers, of the network; parameters that are too many."""
    model, method = core.from_linen(models.CNN(10, widths=(4, 8), norm="batch")), continual.clr(3)
    stream = streams.task_incremental(streams.digits(), 3)
    learner = core.make_learner(model, method, optax.adamw(1e-2, weight_decay=0.1), stream)
    inputs = jnp.asarray(stream.source.train["inputs"][:60], jnp.float32)
    # A head that is not the anchor's, and BatchNorm that does not begin at 0 and 1.
    anchor = model.init(jax.random.key(1), inputs)
    anchor = jax.tree.map(lambda leaf: jnp.abs(leaf + 0.1 * jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape))), anchor)
    data, states = core.to_device(stream), [core.start(learner, variables=anchor)]

    @jax.jit
    def ask(state, task):
        given = core.Variables(state.params, state.model_state, state.frozen)
        return method.model(model).apply(given, inputs, task=jnp.full(len(inputs), task))[0].logits

    start = max(distance(ask(states[0], task), model.apply(anchor, inputs)[0].logits) for task in range(3))
    answers = []
    for t in range(3):
        states.append(core.run_experience(learner, jax.tree.map(lambda leaf: leaf.copy(), states[-1]), data, t))
        answers.append([ask(states[-1], task) for task in range(t + 1)])
    if any(np.array_equal(answers[t][t], ask(states[t], t)) for t in range(3)):
        raise AssertionError("An experience has learned nothing: the gates would hold for nothing.")
    moved = max(distance(answers[2][task], answers[task][task]) for task in range(2))
    size = sum(leaf.size for leaf in jax.tree.leaves(states[-1].params))
    return (
        start,
        moved,
        distance(states[0].frozen["network"], states[-1].frozen["network"]),
        abs(size - (9 * (4 + 8) + 2 * (4 + 8) + 10 * (2 * 2 * 8) + 10)),
    )


CHECK = Check(
    "ctrain_jax.continual.clr",
    "Ge et al., CLR: Channel-wise Lightweight Reprogramming for Continual Learning, ICCV 2023, arXiv 2307.11386",
    claims,
    rows=(278,),
    data=True,
)
