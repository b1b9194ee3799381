"""A cell of a table: one config run for some seeds, each on a stream of its own, and how cells are kept in a file."""

import datetime
import functools
import json
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

import ctrain_jax
from ctrain_jax import core, metrics
from experiments import _build, _cost


def run(config: ml_collections.ConfigDict, source: core.Source, seeds: Sequence[int]) -> dict[str, Any]:
    """Run a config once for each seed.

    Args:
      config: of `experiments.continual`; where its scenario has a seed, each run deals classes (or permutes pixels) by
        its own.
      source: of its data.
      seeds: of the runs.

    Returns:
      What is stored of it, accuracies in percent: `accuracy, sd, half_width, forgetting, average_incremental,
      of_seeds`; None for what is not defined on its stream. `steps, examples, flops_per_step, state_bytes,
      method_bytes` are of one run, `seconds` of all. `versions` and the `date`.

    Raises:
      ConfigError: something wrong in the config.
    """
    start = time.monotonic()
    config = config.copy_and_resolve_references()
    streams, programs, matrices = [], {}, []
    for seed in seeds:
        if "seed" in config.scenario:
            config.scenario.seed = seed
        streams.append(_build.build_stream(config, source))
    for seed, stream in zip(seeds, _of_one_shape(streams), strict=True):
        learner = _build.build(config, stream=stream)
        # Learners that differ in the arrays of their stream alone are one program.
        program = programs.setdefault(learner.spec.steps, jax.jit(functools.partial(core.run_fused, learner)))
        matrices.append(np.asarray(program(core.to_device(stream), jax.random.key(seed)).accuracy))
    matrix = np.asarray(matrices, float)
    accuracy = 100 * np.asarray(metrics.final_accuracy(matrix))
    experiences, tests = matrix.shape[1:]
    square = experiences == tests and tests > 1
    return {
        "accuracy": rounded(accuracy.mean()),
        "sd": rounded(accuracy.std(ddof=1)),
        "half_width": rounded(metrics.mean_interval(accuracy).half_width),
        "forgetting": rounded(100 * metrics.forgetting(matrix).mean()) if square else None,
        "average_incremental": rounded(100 * metrics.average_incremental_accuracy(matrix).mean()) if square else None,
        "of_seeds": [rounded(value) for value in accuracy],
        **_cost.of_run(learner),
        "seconds": round(time.monotonic() - start, 1),
        "versions": {"ctrain_jax": ctrain_jax.__version__} | {p: version(p) for p in ("jax", "flax", "optax", "numpy")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def store(path: Path, header: Mapping[str, str], name: str, cell: Mapping[str, Any], order: Sequence[str]) -> None:
    """Adds a cell to the file of a table, whose cells stay in an order; names that it lacks are dropped."""
    cells = stored(path) | {name: cell}
    whole = {**header, "cells": {key: cells[key] for key in order if key in cells}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def stored(path: Path) -> dict[str, dict[str, Any]]:
    """The cells of the file of a table; none where it is missing."""
    return json.loads(path.read_text(encoding="utf-8"))["cells"] if path.is_file() else {}


def rounded(value: Any) -> float:
    """To four digits behind the point, as numbers are stored."""
    return round(float(np.asarray(value)), 4)


def _of_one_shape(streams: Sequence[core.Stream]) -> list[core.Stream]:
    """Streams whose experiences are padded to the same length, each with its own rows in turn."""
    width = {split: max(s.experiences[split].rows.shape[1] for s in streams) for split in streams[0].experiences}

    def pad(experience: core.Experience, width: int) -> core.Experience:
        sizes = np.asarray(experience.size)
        rows, origin = (
            np.stack([np.resize(x[:n], width) for x, n in zip(field, sizes, strict=True)])
            for field in (experience.rows, experience.origin)
        )
        return experience._replace(rows=rows, origin=origin)

    return [s._replace(experiences={k: pad(e, width[k]) for k, e in s.experiences.items()}) for s in streams]
