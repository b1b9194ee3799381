"""What a run adds up while it learns, and the result that is made of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from ctrain_jax import core
from experiments import _cost, _provenance, _results

BY_STEPS = ("rows", "rollbacks", "online", "predicted")  # what is undone with the steps that it counts


def begun(baseline: dict[str, list], stamp: str) -> dict[str, Any]:
    """The history of a run before its first step.

    Args:
      baseline: the metrics of the learner before it was trained.
      stamp: of the config and the seeds.

    Returns:
      What a checkpoint holds beside the state, to be added to in place.
    """
    history = {"baseline": baseline, "rows": [], "seconds": 0.0, "compile_seconds": 0.0, "claim": stamp}
    return history | {"skipped": 0, "rollbacks": 0, "online": {}, "predicted": [0] * len(next(iter(baseline.values())))}


def add_online(history: dict[str, Any], record: Mapping[str, Sequence[float]], steps: int) -> None:
    """Adds what was predicted before it was learned.

    Args:
      history: from `begun`.
      record: the mean over some steps, for each seed.
      steps: their number.
    """
    online = {name.removeprefix("online_"): value for name, value in record.items() if name.startswith("online_")}
    if not online:
        return
    # A step that was left out counts for nothing in a mean record.
    counted = steps - np.asarray(record.get("skipped", 0.0)) + np.zeros(len(history["predicted"]))
    history["predicted"] = (counted + history["predicted"]).tolist()
    for name, mean in online.items():
        history["online"][name] = (counted * mean + history["online"].get(name, 0.0)).tolist()


def result(
    config: ml_collections.ConfigDict, learner: core.Learner, seeds: list[int], history: dict[str, Any], done: int
) -> dict[str, Any]:
    """The content of `result.json`.

    Args:
      config: of the run.
      learner: made of it.
      seeds: of the run.
      history: from `begun`, added to.
      done: steps.

    Returns:
      What `experiments._results` reads.
    """
    per_second = done * len(seeds) / max(history["seconds"], 1e-9)
    total = learner.spec.num_experiences
    matrices = {name: _matrices(history, name, len(seeds), total) for name in history["baseline"]}
    found = scored(config, learner.stream, seeds, matrices, history["baseline"]) | {
        "seconds": history["seconds"],
        "steps": done,
        "steps_per_second": per_second,
        "examples_per_second": per_second * learner.spec.batch_size,
        "compile_seconds": history["compile_seconds"],
        "peak_bytes": _cost.peak_bytes(),
        "skipped": history["skipped"],
        "rollbacks": history["rollbacks"],
        "finished": len(history["rows"]) == total,
    }
    if history.get("online") and min(history["predicted"]) > 0:
        sums = history["online"]
        found["prequential"] = {k: (np.array(v) / history["predicted"]).tolist() for k, v in sums.items()}
    return found


def scored(
    config: ml_collections.ConfigDict,
    stream: core.Stream,
    seeds: Sequence[int],
    matrices: Mapping[str, list],
    baseline: Mapping[str, list],
) -> dict[str, Any]:
    """What every result says, whoever made it.

    Args:
      config: of the run.
      stream: on which it was tested.
      seeds: of the run.
      matrices: {metric: `[S][T][E]`}, what is told in tables first.
      baseline: {metric: `[S][E]`}, of the untrained learner.

    Returns:
      Keys of `result.json`, those of an end among them: `finished` is True.
    """
    name, *others = matrices
    found = {
        "name": config.name,
        **_results.described(config, stream),
        "metric": name,
        "seeds": list(seeds),
        "matrices": matrices[name],
        "baseline": baseline[name],
        "finished": True,
        "experiences": len(stream.experiences["train"].size),
    } | _provenance.facts(config)
    if others:
        found["other_metrics"] = {other: matrices[other] for other in others}
    if not tests_match(stream):
        found["tests"] = "of other parts than experiences"
    return found


def tests_match(stream: core.Stream) -> bool:
    """Whether the t-th test is of what the t-th experience brings, so that learning and forgetting can be told."""
    train, test = stream.experiences["train"], stream.experiences["test"]
    if len(train.size) != len(test.size):
        return len(test.size) == 1 or len(train.size) == 1
    tasks = np.asarray(stream.origins.task)
    return all(
        np.isin(tasks[asked[0]], tasks[np.asarray(own)[:n]])
        for asked, own, n in zip(test.origin, train.origin, train.size, strict=True)
    )


def _matrices(history: Mapping[str, Any], name: str, seeds: int, total: int) -> list[list[Any]]:
    matrices: list[list[Any]] = [[None] * total for _ in range(seeds)]
    for t, row in enumerate(history["rows"]):
        for s, values in enumerate(row[name]):
            matrices[s][t] = values
    return matrices
