"""Fast and slow weights: what is exact; ten turned tasks of ten shots: what is kept, and how a new task begins."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams, testing
from experiments._evidence._common import Check, Claim, distance, estimate, final, gate, handwritten, means, runs

WAYS, TASKS, TESTS = 5, 10, 500
EPS, LAM = 0.3, 100.0
MODEL = core.from_linen(models.MLP(WAYS, hidden=(128,)))


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.fast_slow`."""
    source = _five(handwritten(data_dir, 5_000))
    angles = np.random.default_rng(0).permutation(np.linspace(0, 180, 2 * TASKS))
    stream, held_out = _turned(source, angles[:TASKS], 10, 0), _turned(source, angles[TASKS:], 5, 1)
    methods = {
        "naive": core.identity(),
        "ewc": continual.ewc(LAM),
        "reptile": continual.fast_slow(EPS),
        "fast_slow": core.chain(continual.fast_slow(EPS), continual.ewc(LAM)),
    }
    learners = {
        name: core.make_learner(MODEL, method, optax.adam(1e-3), stream, batch_size=10, epochs=20)
        for name, method in methods.items()
    }
    result = {name: runs(learner, seeds) for name, learner in learners.items()}
    accuracy = {name: final(r) for name, r in result.items()}
    starts = [core.start(learners["naive"], seed).params for seed in seeds]
    new = {
        "start": jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts),
        "slow": result["fast_slow"].state.method_state["fast_slow"].slow,
        "fast": result["fast_slow"].state.params,
        "ewc": result["ewc"].state.params,
    }
    slow = _after(0, new["slow"], stream)
    new = {name: _after(10, params, held_out) for name, params in new.items()}
    where = f"{source.name}, 5 digits turned by 10 angles, 10 shots each, MLP, lam={LAM:g}"
    whole, still, step = _edges()
    return [
        gate("eps=1 is plain training (largest difference of a parameter)", whole, most=0),
        gate("eps=0 leaves the slow weights where they were (largest difference)", still, most=0),
        gate("one experience is one step of Reptile (largest difference)", step, most=1e-6),
        estimate(
            f"{where}: points of final accuracy of the fast weights above ewc ({means(**accuracy, slow=slow)})",
            accuracy["fast_slow"] - accuracy["ewc"],
            least=0,
        ),
        estimate(
            "the same: above the fast weights without a penalty, Reptile alone",
            accuracy["fast_slow"] - accuracy["reptile"],
            least=2,
        ),
        estimate(
            f"10 more angles, 10 steps on 5 shots: points of accuracy from the slow weights above those from the first "
            f"weights ({means(**new)})",
            new["slow"] - new["start"],
            least=5,
        ),
        estimate("the same: above those from the fast weights", new["slow"] - new["fast"], least=0),
    ]


def _five(source: core.Source) -> core.Source:
    """The rows of the first classes, and some tests."""
    parts = [{k: v[part["labels"] < WAYS] for k, v in part.items()} for part in (source.train, source.test)]
    test = {name: leaf[:TESTS] for name, leaf in parts[1].items()}
    return source._replace(train=parts[0], test=test, num_classes=WAYS)


def _turned(source: core.Source, degrees: np.ndarray, shots: int, seed: int) -> core.Stream:
    """A task for each angle, of so many rows of each class that no other task has."""
    stream, rng = streams.rotated(source, len(degrees), degrees=degrees), np.random.default_rng(seed)
    of_class = [rng.permutation(np.flatnonzero(source.train["labels"] == c)) for c in range(WAYS)]
    rows = np.stack([rows[: len(degrees) * shots].reshape(len(degrees), shots) for rows in of_class], 1)
    rows = rows.reshape(len(degrees), -1).astype(np.int32)
    origin = np.repeat(np.arange(len(degrees), dtype=np.int32)[:, None], rows.shape[1], 1)
    train = stream.experiences["train"]._replace(
        rows=rows, origin=origin, size=np.full(len(degrees), rows.shape[1], np.int32)
    )
    return stream._replace(experiences={**stream.experiences, "train": train})


def _after(steps: int, params: optax.Params, stream: core.Stream) -> np.ndarray:
    """Accuracy in percent `[S]` after steps of gradient descent on each task, from each seed's parameters."""
    train, test = ({k: jnp.asarray(v) for k, v in part.items()} for part in (stream.source.train, stream.source.test))
    turn = jax.vmap(stream.view_fn, (0, None))

    def one(params, rows, angle):
        inputs, labels = turn(train["inputs"][rows] / 255, angle), train["labels"][rows]

        def step(_, params):
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

        def loss(params):
            logits = MODEL.apply(core.Variables(params, {}), inputs)[0].logits
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        params = jax.lax.fori_loop(0, steps, step, params)
        logits = MODEL.apply(core.Variables(params, {}), turn(test["inputs"] / 255, angle))[0].logits
        return (logits.argmax(-1) == test["labels"]).mean()

    rows, angles = jnp.asarray(stream.experiences["train"].rows), jnp.asarray(stream.origins.view)
    each = jax.jit(lambda all_seeds: jax.lax.map(lambda p: jax.vmap(one, (None, 0, 0))(p, rows, angles), all_seeds))
    return 100 * np.asarray(each(params)).mean(-1)


def _edges() -> tuple[float, float, float]:
    """On a network with BatchNorm, under AdamW: differences from plain training, from the start, from a step."""

    def ended(method, experiences):
        learner = core.make_learner(
            testing.standard_model(), method, optax.adamw(1e-2), testing.standard_stream(), batch_size=8
        )
        start, data = core.start(learner), core.to_device(learner.stream)
        first = jax.tree.map(np.asarray, start[1:3])
        for t in range(experiences):
            start = core.run_experience(learner, start, data, t)
        own = start.method_state.get("fast_slow")
        return first, start[1:3], None if own is None else (own.slow, own.model_state)

    _, plain, _ = ended(core.identity(), 3)
    _, whole, _ = ended(continual.fast_slow(1.0), 3)
    first, _, still = ended(continual.fast_slow(0.0), 3)
    begun, fast, slow = ended(continual.fast_slow(0.3), 1)
    step = jax.tree.map(lambda a, b: np.float64(a) + 0.3 * (np.float64(b) - a), begun, fast)
    return distance(plain, whole), distance(first, still), distance(step, slow)


CHECK = Check(
    "ctrain_jax.continual.fast_slow",
    "Wang et al., Few-shot Continual Learning: a Brain-inspired Approach, 2021, arXiv 2104.09034",
    claims,
    rows=(124,),
    data=True,
)
