"""Every combination of some values of a config, as one program: `--sweep=ewc.lam=1,10,100`."""

import itertools
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from ctrain_jax import core, metrics
from experiments import _build, _outcome, _progress, _results, _space


def run(
    config: ml_collections.ConfigDict, workdir: str | Path, num_seeds: int, axes: Sequence[str]
) -> list[dict[str, Any]]:
    """Run every combination of the swept values, and write each down as a run of its own.

    Args:
      config: see `configs/common.py`; its stream holds rows out for validation (`scenario.valid_fraction`).
      workdir: receives a folder for each combination, with its `result.json`.
      num_seeds: seeds `config.seed, config.seed + 1, ...`.
      axes: "KEY=VALUE,VALUE,...", where KEY is a number of a method or of the optimizer: "ewc.lam=1,10".

    Returns:
      The results, the best by validation first.

    Raises:
      ConfigError: something wrong in the config or in an axis, a stream without validation, or a workdir that is not
        empty.
    """
    workdir, values = Path(workdir), _parsed(config, axes)
    if workdir.exists() and not (workdir.is_dir() and not any(workdir.iterdir())):
        raise _build.ConfigError(f"{workdir} is not an empty folder: use another --workdir for a sweep.")
    if config.get("online", False):
        raise _build.ConfigError("A sweep keeps no prequential accuracy: leave out config.online.")
    stream = _build.build_stream(config)
    if "valid" not in stream.experiences:
        raise _build.ConfigError(
            "A sweep picks by validation, and the stream holds nothing out: add --config.scenario.valid_fraction=0.1."
        )
    steps = _build.build(config, stream=stream).spec.steps
    seeds = [config.seed + k for k in range(num_seeds)]

    def one(data: core.Data, rng: jax.Array, **point: jax.Array) -> dict[str, Any]:
        learner = _build.build(_space.changed(config, point), stream=stream)
        result = core.run_fused(learner, data, rng)
        valid = learner.evaluate(result.state, data, len(steps) - 1, split="valid")
        return {"test": result.metrics, "baseline": result.baseline, "valid": valid}

    number = math.prod(map(len, values.values()))
    _progress.Bar(config.name, sum(steps), 0).say(
        f"{number} combinations of {num_seeds} seed{'s' * (num_seeds > 1)}, {sum(steps)} steps each, as one program"
    )
    began = time.monotonic()
    found = _build.refused("--sweep", core.sweep, one, core.to_device(stream), seeds=seeds, **values)
    found = jax.tree.map(np.asarray, found)
    results = []
    for combination in itertools.product(*values.values()):
        point = dict(zip(values, combination, strict=True))
        part = found.at(**point).result
        own = _space.changed(config, point)
        name = " ".join([config.name, *(f"{key}={value:g}" for key, value in point.items())])
        result = _outcome.scored(own, stream, seeds, _results.lists(part["test"]), _results.lists(part["baseline"]))
        valid = part["valid"][result["metric"]].astype(float).mean(-1).tolist()
        results.append(result | {"name": name, "validation": valid, "steps": sum(steps)})
    seconds = (time.monotonic() - began) / len(results)
    rate = sum(steps) * num_seeds / seconds
    results = [result | {"seconds": seconds, "steps_per_second": rate} for result in results]
    results.sort(key=lambda result: -float(np.mean(result["validation"])))
    for result in results:
        folder = workdir / "_".join(result["name"].removeprefix(config.name).split())
        _build.refused("--workdir", folder.mkdir, parents=True, exist_ok=True)
        _progress.write_whole(folder / "result.json", json.dumps(result, indent=1))
    return results


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The runs of a sweep for a terminal, the best by validation first."""
    rows = [("name", "validation", "final accuracy")]
    for result in results:
        validation = metrics.mean_interval(np.array(result["validation"]))
        final = _results.scores(result)["final_accuracy"]
        rows.append((result["name"], _results.score_text(validation), _results.score_text(final)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _parsed(config: ml_collections.ConfigDict, axes: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """{key: its values}, of "key=value,value" each."""
    known = [
        f"{section}.{key}"
        for section in (*config.methods, "optimizer")
        for key, value in config.get(section, {}).items()
        if isinstance(value, float | int) and not isinstance(value, bool)
    ]
    parsed: dict[str, tuple[float, ...]] = {}
    for axis in axes:
        key, _, numbers = axis.partition("=")
        key = key.strip()
        _build.known_name("number of a method or of the optimizer", key, known)
        try:
            values = tuple(float(number) for number in numbers.split(","))
        except ValueError:
            values = ()
        if not values or len(set(values)) < len(values) or key in parsed:
            raise _build.ConfigError(
                f"--sweep expects a key and different numbers, as in {key}=1,10, and each key once, got {axis!r}."
            )
        parsed[key] = values
    return parsed
