"""SupSup: masks of exact size and answers that stay to the bit; permuted images without forgetting."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams, testing
from experiments._evidence._common import Check, Claim, distance, estimate, final, forgotten, gate, means, runs

TASKS, ROWS, TESTS, DENSITY = 10, 1_000, 500, 0.1
WHERE = f"permuted Fashion-MNIST ({ROWS:,} rows), {TASKS} tasks that are known, MLP of 256, 4 epochs, density {DENSITY}"
RATES = {"scores": optax.adam(1e-2), "weights": optax.adam(1e-3)}


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.supsup`."""
    moved, states = kept(continual.supsup(3, density=DENSITY))
    naive, supsup = (permuted(method, seeds) for method in (core.identity(), continual.supsup(TASKS, density=DENSITY)))
    return [
        gate("weights in a mask that are not round(0.1 N) of a kernel's N (largest difference)", off(states), most=0),
        gate("AdamW and BatchNorm: earlier answers after later experiences (largest difference)", moved, most=0),
        gate(
            "and weights after three experiences (largest difference)",
            distance(states[0].frozen["weights"], states[3].frozen["weights"]),
            most=0,
        ),
        gate(f"{WHERE}: points of forgetting (largest of a seed)", np.abs(forgotten(supsup)).max(), most=0),
        estimate(
            f"the same: points of final accuracy above naive ({means(naive=final(naive), supsup=final(supsup))})",
            final(supsup) - final(naive),
            least=0,
        ),
    ]


def permuted(method: core.Method, seeds: Sequence[int]) -> core.Result:
    """Runs on permuted images; scores have a larger rate than weights."""
    source = streams.fashion_mnist()
    train, test = (
        {name: leaf[:n] for name, leaf in part.items()} for part, n in ((source.train, ROWS), (source.test, TESTS))
    )
    stream = streams.permuted(source._replace(train=train, test=test), TASKS, task_known=True)
    tx = optax.adam(1e-3) if method.parts == () else optax.partition(RATES, rates)
    learner = core.make_learner(
        core.from_linen(models.MLP(10, hidden=(256,))), method, tx, stream, epochs=4, eval_batch_size=TESTS
    )
    return runs(learner, seeds)


def rates(params: optax.Params) -> optax.Params:
    """Which of `RATES` a parameter has."""
    return {name: name for name in params}


def kept(method: core.Method) -> tuple[float, list[core.TrainState]]:
    """How far later experiences move earlier answers; the states around three of them, under AdamW with decay."""
    stream = testing.standard_stream(task_known=True)
    tx = optax.adamw(1e-2, weight_decay=0.1)
    learner = core.make_learner(testing.standard_model(), method, tx, stream, batch_size=8, epochs=2)
    data, states, answers = core.to_device(stream), [core.start(learner)], []
    predict = jax.jit(learner.predict)
    for t in range(3):
        state = jax.tree.map(lambda leaf: leaf.copy(), states[-1])
        states.append(core.run_experience(learner, state, data, t))
        answers.append([predict(states[-1], data, t, _asked(stream, task)).logits for task in range(t + 1)])
    moved = max(distance(answers[2][0], answers[0][0]), distance(answers[2][1], answers[1][1]))
    return moved, states


def off(states: Sequence[core.TrainState]) -> float:
    """The largest number by which a mask misses its size."""
    banks = [np.asarray(bank) for bank in jax.tree.leaves(states[-1].frozen["masks"])]
    return max(abs(int(mask.sum()) - round(DENSITY * mask.size)) for bank in banks for mask in bank)


def _asked(stream: core.Stream, task: int) -> core.Batch:
    inputs = stream.source.train["inputs"][:60]
    number = np.full(len(inputs), task, np.int32)
    classes = np.broadcast_to(np.asarray(stream.origins.classes)[task], (len(inputs), 6))
    weights = np.ones(len(inputs), np.float32)
    return {"inputs": inputs, "weights": weights, "task": number, "experience": number, "classes": classes}


CHECK = Check(
    "ctrain_jax.continual.supsup",
    "Wortsman et al., Supermasks in Superposition, NeurIPS 2020, arXiv 2006.14769",
    claims,
)
