"""HyperInterval: no network of a box answers beyond its bounds; digits with and without a penalty on the boxes."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, ops, streams
from experiments._evidence._common import Check, Claim, estimate, final, forgotten, gate, handwritten, means, runs

ROWS, TESTS, EPS, DRAWS, ASKED = 5_000, 2_000, 0.1, 1_000, 100
RATE, RATES = 1e-2, (1e-3, 1e-2)  # chosen on seed 10; those of naive
MODEL = core.from_linen(models.MLP(10, hidden=(32,)))


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.hyperinterval`."""
    source = _halved(handwritten(data_dir, ROWS))
    stream = streams.task_incremental(source, 5)

    def measured(method, rate=RATE):
        tx = optax.adam(rate)
        return runs(core.make_learner(MODEL, method, tx, stream, batch_size=64, epochs=10, eval_batch_size=500), seeds)

    naive = max((measured(core.identity(), rate) for rate in RATES), key=lambda result: final(result).mean())
    methods = [continual.hyperinterval(5, beta=beta, eps=EPS, hidden=(32, 32)) for beta in (0.01, 0.0)]
    held, free = (measured(method) for method in methods)
    same, beyond, wrong = _boxes(methods[0], jax.tree.map(lambda leaf: leaf[0], held.state), source)
    where = f"task-incremental Split-MNIST ({ROWS:,} rows of 14x14) in 5 experiences of 10 epochs, MLP of 32, Adam"
    return [
        gate("bounds of a box of no width less the answer of its centre (largest difference)", same, most=1e-5),
        gate(f"answers of {DRAWS:,} networks of each box beyond its bounds (largest, 0 within)", beyond, most=1e-5),
        gate(f"rows whose worst case is right and which one of {DRAWS:,} networks gets wrong", wrong, most=0),
        estimate(f"{where}, eps {EPS}, beta 0.01: final accuracy", final(held), least=95),
        estimate("the same: points lost on the first experience", _lost(held), most=1),
        estimate("the same, beta 0: points of forgetting", forgotten(free), least=5),
        estimate(
            "the same, beta 0.01: points of final accuracy above naive at the better of two rates "
            f"({means(naive=final(naive), hyperinterval=final(held))})",
            final(held) - final(naive),
            least=0,
        ),
    ]


def _halved(source: core.Source) -> core.Source:
    """Images of half the side, means of four pixels."""

    def one(part, size):
        images = part["inputs"][:size].reshape(-1, 14, 2, 14, 2).astype(np.float32).mean((2, 4))
        return {"inputs": images.round().astype(np.uint8), "labels": part["labels"][:size]}

    return source._replace(train=one(source.train, ROWS), test=one(source.test, TESTS))


def _lost(result: core.Result) -> np.ndarray:
    accuracy = 100 * np.asarray(result.accuracy)
    return accuracy[:, 0, 0] - accuracy[:, -1, 0]


def _boxes(method: core.Method, state: core.TrainState, source: core.Source) -> tuple[float, float, int]:
    """Of the boxes of all tasks: a box of no width, answers beyond bounds, rows that are right only by the bounds."""
    same, beyond, wrong, sure = 0.0, 0.0, 0, 0
    for task in range(5):
        rows = np.flatnonzero(source.test["labels"] // 2 == task)[:ASKED]
        labels = source.test["labels"][rows] - 2 * task
        answer = _answer(method, state, jnp.asarray(source.test["inputs"][rows], jnp.float32) / 255, task)
        own = state.params["embeddings"]["center"][task]
        side = EPS * jax.nn.softmax(state.params["embeddings"]["radius"][task])
        bounds = jax.jit(lambda radius, f=answer, x=own: ops.interval_bounds(f, x, radius))
        point, (center, radius) = bounds(jnp.zeros_like(side)), bounds(side)
        same = max(same, float(np.max(np.abs(point[0] - answer(own)))), float(np.max(point[1])))
        draws = own + side * jax.random.uniform(jax.random.key(task), (DRAWS, len(own)), minval=-1)
        found = np.asarray(jax.lax.map(answer, draws))
        beyond = max(beyond, float((np.abs(found - center) - radius).max()))
        picked = np.eye(2, dtype=bool)[labels]
        right = np.argmax(np.where(picked, center - radius, center + radius), 1) == labels
        wrong += int(((found.argmax(-1) != labels).any(0) & right).sum())
        sure += int(right.sum())
    if sure < ASKED:
        raise AssertionError("Hardly a row has a worst case that is right: the gate would hold for nothing.")
    return same, beyond, wrong


def _answer(method: core.Method, state: core.TrainState, inputs: jax.Array, task: int) -> Callable:
    """The logits of a task's own classes, by its embedding."""
    model = method.model(MODEL)

    def answer(embedding):
        centers = jnp.broadcast_to(embedding, state.params["embeddings"]["center"].shape)
        params = state.params | {"embeddings": state.params["embeddings"] | {"center": centers}}
        given = core.Variables(params, state.model_state, state.frozen)
        return model.apply(given, inputs, task=jnp.int32(task))[0].logits[:, 2 * task : 2 * task + 2]

    return answer


CHECK = Check(
    "ctrain_jax.continual.hyperinterval",
    "Krukowski et al., HINT: Hypernetwork Approach to Training Weight Interval Regions in Continual Learning, 2024, "
    "arXiv 2405.15444",
    claims,
    rows=(41,),
    data=True,
)
