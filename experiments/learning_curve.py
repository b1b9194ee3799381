"""How much data is enough: learn from more and more rows, and stop when the end can be told.

  python -m experiments.learning_curve --config=configs/continual/joint.py --config.scenario.valid_fraction=0.1
    --workdir=runs/curve --threshold=0.5 --seeds=3

The config is run on the first rows of each experience, drawn at random: --first of them, --growth times as many, and so
on. After each size a power law is fitted to the final accuracies on validation rows; test rows are not there
(`streams.selection`). The first sizes are irregular and their asymptotes rise; once one fell, and the last two are
closer than --threshold points (the proximity condition of Vilares Ferro et al. 2017, arXiv 2402.02515), the rest of the
sizes is left out, and the law says what all rows would bring.

WORKDIR/curve.jsonl has a line for each size: the same command goes on where it was. Fits from one decade of sizes
hardly say more than the last accuracy (`python -m experiments.evidence --name=learning_curve_fit`).

Exit codes: 0 finished, 2 wrong use, 130 and 143 interrupted: the sizes that are done are kept.
"""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import flags

from ctrain_jax import analysis, core, metrics, streams
from experiments import _build, _cli, _cost, _provenance, _results, _workdir


def follow(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    *,
    num_seeds: int = 1,
    first: float = 0.02,
    growth: float = 1.5,
    threshold: float = 0.5,
) -> dict[str, Any]:
    """Run a config on more and more rows until the curve can be told, or what is left of that.

    Args:
      config: see `configs/common.py`; its scenario holds rows out for validation (`valid_fraction`).
      workdir: receives `curve.jsonl`.
      num_seeds: of each size, `config.seed, config.seed + 1, ...`.
      first: the smallest share of the rows of each experience, in (0, 1).
      growth: of the share from one size to the next, above 1.
      threshold: in points, how close two asymptotes have to be.

    Returns:
      `rows` and `accuracy` (in [0, 1], the mean over seeds) of the sizes that were run; `all_rows`; `predicted` there
      and `limit`, None before three sizes; `stopped` before all rows.

    Raises:
      ConfigError: something wrong in the config or an argument, a stream without validation rows, or a workdir that
        holds another curve.
    """
    if not (0 < first < 1 and 1 < growth < math.inf and 0 < threshold < math.inf):
        raise _build.ConfigError(
            "A curve expects --first between 0 and 1, --growth above 1 and --threshold above 0, got "
            f"{first}, {growth} and {threshold}."
        )
    workdir = Path(workdir)
    stream = _build.refused("config.scenario", streams.selection, _build.build_stream(config))
    _build.build(config, stream=stream)
    claim = {"config": _provenance.plain(config), "seeds": num_seeds, "first": first, "growth": growth}
    shares = [first * growth**k for k in range(math.ceil(-math.log(first) / math.log(growth)))] + [1.0]
    _build.refused("--workdir", workdir.mkdir, parents=True, exist_ok=True)
    with _workdir.on_disk(workdir), _workdir.locked(workdir):
        file = workdir / "curve.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        points = _read(workdir, lines, claim)
        if not lines:
            file.write_text(json.dumps(claim) + "\n", encoding="utf-8")
        fit = None
        for share in shares:
            part = _first_rows(stream, share, config.seed)
            rows = int(part.experiences["train"].size.sum())
            if rows not in points:
                points[rows] = _final(config, part, [config.seed + k for k in range(num_seeds)])
                with file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps({"rows": rows, "accuracy": points[rows]}) + "\n")
            sizes = sorted(size for size in points if size <= rows)
            scores = [float(np.mean(points[size])) for size in sizes]
            fit = analysis.learning_curve_fit(sizes, scores, threshold / 100) if len(sizes) > 2 else None
            print(_line(rows, points[rows], fit), flush=True)
            if fit is not None and analysis.should_stop(fit):
                break
    everything = int(stream.experiences["train"].size.sum())
    return {
        "rows": sizes,
        "accuracy": scores,
        "all_rows": everything,
        "predicted": None if fit is None else float(analysis.predict_power(fit.law, everything)),
        "limit": None if fit is None else fit.law.limit,
        "stopped": rows < everything,
    }


def _read(workdir: Path, lines: Sequence[str], claim: dict[str, Any]) -> dict[int, list[float]]:
    """{rows: accuracies} of the lines of a curve."""
    if not lines:
        return {}
    try:
        before, *records = map(json.loads, lines)
        points = {int(record["rows"]): [float(x) for x in record["accuracy"]] for record in records}
    except (ValueError, TypeError, KeyError) as error:
        raise _build.ConfigError(f"{workdir}/curve.jsonl cannot be read ({error}): use another --workdir.") from error
    if before != json.loads(json.dumps(claim)):
        raise _build.ConfigError(f"{workdir} holds the curve of another config: use another --workdir.")
    return points


def _first_rows(stream: core.Stream, share: float, seed: int) -> core.Stream:
    """A share of the training rows of each experience; a smaller share is part of a larger one."""
    train = stream.experiences["train"]
    sizes = np.maximum(1, np.ceil(np.asarray(train.size) * share - 1e-9)).astype(np.int32)
    rng, width = np.random.default_rng(seed), int(sizes.max())
    order = [rng.permutation(size) for size in np.asarray(train.size).tolist()]
    kept = [np.resize(np.sort(o[:n]), width) for o, n in zip(order, sizes.tolist(), strict=True)]
    rows, origin = (
        np.stack([x[places] for x, places in zip(field, kept, strict=True)]) for field in (train.rows, train.origin)
    )
    part = train._replace(rows=rows, origin=origin, size=sizes)
    return stream._replace(experiences={**stream.experiences, "train": part})


def _final(config: ml_collections.ConfigDict, stream: core.Stream, seeds: Sequence[int]) -> list[float]:
    """Final accuracy of each seed."""
    learner = _build.build(config, stream=stream)
    data = core.to_device(stream)
    keys = jax.vmap(jax.random.key)(np.array(seeds, np.uint32))
    run = jax.jit(core.mapped(lambda key, data: core.run_fused(learner, data, key).accuracy, (0, None)))
    return np.asarray(metrics.final_accuracy(run(keys, data)), float).tolist()


def _line(rows: int, accuracy: Sequence[float], fit: analysis.LearningCurveFit | None) -> str:
    seen = _results.score_text(metrics.mean_interval(np.array(accuracy)))
    limit = (
        "" if fit is None else f"   asymptote {100 * fit.law.limit:.1f}" if fit.law.limit <= 1 else "   not yet bent"
    )
    return f"{rows:>9,} rows   {seen}{limit}"


def summary(result: dict[str, Any], seconds: float) -> str:
    """What a curve said, for a terminal."""
    rows, everything = result["rows"][-1], result["all_rows"]
    if result["stopped"]:
        return (
            f"stopped at {rows:,} of {everything:,} rows after {seconds:.0f} s: all of them would bring "
            f"{100 * result['predicted']:.1f}, by the law"
        )
    ahead = "" if result["limit"] is None else f"; the asymptote is {100 * result['limit']:.1f}"
    return f"all {everything:,} rows: {100 * result['accuracy'][-1]:.1f}{ahead}"


def define_flags() -> None:
    """The flags of the binary; not when it is imported, as flags of all binaries share their names."""
    _cli.define_config()
    flags.DEFINE_string("workdir", None, "Folder of the curve; gone on with where it exists.")
    flags.DEFINE_integer("seeds", 1, "Seeds of each size.", lower_bound=1)
    flags.DEFINE_float("first", 0.02, "The smallest share of the rows.")
    flags.DEFINE_float("growth", 1.5, "How many times as many rows each size has as the one before.")
    flags.DEFINE_float("threshold", 0.5, "Points by which the asymptote may still move.")


def main(argv: Sequence[str]) -> int:
    """The binary."""
    given, start = flags.FLAGS, time.monotonic()
    if len(argv) > 1:
        _cli.fail(f"unknown argument {argv[1]!r}: flags start with two dashes (see --help).")
    if given.config is None or given.workdir is None:
        _cli.fail("--config=FILE and --workdir=DIR are needed (see --help).")
    _cost.use_cache()
    options = {name: given[name].value for name in ("first", "growth", "threshold")}
    try:
        result = follow(given.config, given.workdir, num_seeds=given.seeds, **options)
    except _build.ConfigError as error:
        _cli.fail(str(error))
    except _cli.Fault as error:
        _cli.fail(str(error), error.code)
    print(summary(result, time.monotonic() - start))
    return 0


if __name__ == "__main__":
    define_flags()
    _cli.run(main)
