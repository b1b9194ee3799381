"""The same training by avalanche-lib: the same arrays, model, initial weights, batches, and (but for replay) order.

Its replay stores rows when an experience is over, with a share for each experience; so does ours here. Its Fisher
information is that of the mean loss of a batch, ours of each example: the cost is compared, and what is learned.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._speed._common import ROOT, Measure, Options, Suite, in_processes

PYTHON = ROOT / ".venv-peer" / "bin" / "python"
CAPACITY, LAM, RATE = 1000, 10.0, 0.05
METHODS: dict[str, Callable[[], core.Method]] = {
    "naive": core.identity,
    "ewc": lambda: continual.ewc(LAM, online=True, fisher="empirical"),
    "er": lambda: continual.er(CAPACITY, policy="experience", fill="end"),
}


class Task(NamedTuple):
    """A stream, passed once, and the rows of a batch."""

    stream: Callable[[core.Source], core.Stream]
    batch: int


TASKS = {
    "split_mnist_10": Task(lambda source: streams.class_incremental(source, 5), 10),
    "permuted_mnist_128": Task(lambda source: streams.permuted(source, 5), 128),
}


def run(options: Options) -> Iterator[Measure]:
    """How many times faster ours is, compilation apart, and how far the accuracies are from each other, in points."""
    yield Measure("avalanche_installed", float(PYTHON.is_file()), 1.0, at_least=True)
    if not PYTHON.is_file():
        return
    rounds = 1 if options.small else 3
    source = streams.fashion_mnist() if options.small else streams.tfds("mnist", data_dir=options.data_dir)
    for name, task in TASKS.items():
        stream = task.stream(source)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "arrays.npz"
            _write(path, stream, task.batch)
            for kind in METHODS:
                train = _training(kind, stream, task.batch)
                first = train()["seconds"]
                program = [str(PYTHON), str(Path(__file__).with_name("_avalanche.py")), str(path)]
                others = {"avalanche": [*program, kind]} | ({"torch": [*program, "torch"]} if kind == "naive" else {})
                runs: dict[str, list[dict[str, float]]] = {"ours": [], **{other: [] for other in others}}
                for _ in range(rounds):
                    runs["ours"].append(train())
                    for other, (run,) in in_processes(others, 1).items():
                        runs[other].append(run)
                seconds = {who: [run["seconds"] for run in found] for who, found in runs.items()}
                accuracy = {who: 100 * statistics.mean(run["accuracy"] for run in found) for who, found in runs.items()}
                faster = {
                    who: statistics.median(b / a for a, b in zip(seconds["ours"], seconds[who], strict=True))
                    for who in others
                }
                detail = {f"{who}_s": statistics.median(found) for who, found in seconds.items()}
                detail |= {"first_call_s": first, "rounds": rounds}
                bound = 2.5 if kind == "naive" else 3.0
                yield Measure(f"times_faster/{kind}/{name}", faster["avalanche"], bound, True, detail)
                if "torch" in others:
                    # What is left where no library costs anything: the kernels, and a line of Python for each.
                    yield Measure(f"times_faster_than_torch/{kind}/{name}", faster["torch"])
                apart = abs(accuracy["ours"] - accuracy["avalanche"])
                yield Measure(f"accuracy_apart/{kind}/{name}", apart, 3.0, detail=accuracy)


def _learner(method: core.Method, stream: core.Stream, batch: int) -> core.Learner:
    model = core.from_linen(models.MLP(10, hidden=(400, 400)))
    return core.make_learner(model, method, optax.sgd(RATE), stream, batch_size=batch)


def _training(kind: str, stream: core.Stream, batch: int) -> Callable[[], dict[str, float]]:
    learner = _learner(METHODS[kind](), stream, batch)
    data, last = core.to_device(stream), learner.spec.num_experiences - 1
    sizes = np.asarray(stream.experiences["test"].size)

    def train() -> dict[str, float]:
        state = jax.block_until_ready(core.start(learner, 0))
        began = time.perf_counter()
        for t in range(learner.spec.num_experiences):
            state = core.run_experience(learner, state, data, t)
        jax.block_until_ready(state)
        seconds = time.perf_counter() - began
        accuracy = np.average(core.evaluate(learner, state, data, last)["accuracy"], weights=sizes)
        return {"seconds": seconds, "accuracy": float(accuracy)}

    return train


def _write(path: Path, stream: core.Stream, batch: int) -> None:
    """What the other needs: rows in the order in which ours learns them, as floats and through their view."""
    total = sum(_learner(core.identity(), stream, batch).spec.steps)
    empty = {"row": jnp.zeros((total, batch), jnp.int32), "weights": jnp.zeros((total, batch))}

    def update(s: Any, ts: core.TrainState, ctx: core.Context) -> Any:
        return {name: held.at[ts.step - 1].set(ctx.batch[name]) for name, held in s.items()}, ts

    learner = _learner(core.Method("order", init=lambda *_: empty, update=update), stream, batch)
    data, state = core.to_device(stream), core.start(learner, 0)
    arrays: dict[str, Any] = {}
    layers = tuple(state.params)
    for k, layer in enumerate(layers):
        arrays |= {f"{part}_{k}": np.asarray(state.params[layer][part]) for part in ("kernel", "bias")}
    for t in range(learner.spec.num_experiences):
        state = core.run_experience(learner, state, data, t)
    order = jax.tree.map(np.asarray, state.method_state["order"])
    ends = np.cumsum([0, *learner.spec.steps])

    def seen(split: str, rows: np.ndarray, t: int) -> np.ndarray:
        inputs = data.source[split]["inputs"][rows].astype(jnp.float32) / 255.0
        if stream.view_fn is not None:
            view = jax.tree.map(lambda x: x[t], data.origins.view)
            inputs = jax.vmap(stream.view_fn, (0, None))(inputs, view)
        return np.asarray(inputs).reshape(len(rows), -1)

    tests = []
    for t in range(learner.spec.num_experiences):
        part = slice(ends[t], ends[t + 1])
        rows = order["row"][part][order["weights"][part] > 0]
        arrays |= {f"{t}_inputs": seen("train", rows, t), f"{t}_labels": stream.source.train["labels"][rows]}
        test = stream.experiences["test"]
        rows = np.asarray(test.rows[t])[: int(test.size[t])]
        tests.append((seen("test", rows, t), stream.source.test["labels"][rows]))
    inputs, labels = zip(*tests, strict=True)
    options = {"experiences": len(tests), "layers": len(layers), "batch_size": batch}
    options |= {"learning_rate": RATE, "lam": LAM, "capacity": CAPACITY}
    arrays |= {"test_inputs": np.concatenate(inputs), "test_labels": np.concatenate(labels)}
    np.savez(path, options=json.dumps(options), **arrays)


SUITE = Suite("against avalanche-lib: the same training, in alternating processes; needs `make peer`", run)
