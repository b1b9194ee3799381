"""The sections of the report on what was run: how configs differ, and what it takes to run each of them again."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ctrain_jax import metrics
from experiments import _charts as charts
from experiments import _results as results
from experiments._charts import esc
from experiments._report_parts import Runs, breakable, duration, note, pairs, rate, scroller, sheet


def differences(runs: Runs) -> str:
    """The keys of configs that are not the same in all runs."""
    if len(runs) < 2:
        return note("One run has nothing to differ from.")
    configs = [dict(_flatten(run.get("config") or {})) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    rows = [
        [breakable(key), *('<span class="pm">–</span>' if v is None else esc(v) for v in values)]
        for key in keys
        if len(set(values := [config.get(key) for config in configs])) > 1
    ]
    if not rows:
        return note("All runs have the same config.")
    said = f"{len(rows)} of {len(keys)} keys; the others are the same in all runs. A dash: the run has no such key."
    return note(said) + scroller("Config differences", sheet(["Key", *(run["label"] for run in runs)], rows))


def details(runs: Runs) -> str:
    """Where each run comes from."""
    out = [note("What it takes to run each of them again.")]
    for k, run in enumerate(runs):
        scores, matrix = run["scores"], results.matrices(run)
        finals = np.asarray(metrics.final_accuracy(matrix))
        facts = {
            "folder": run["path"],
            "config hash": results.config_hash(run),
            "commit": run.get("commit") or "unknown",
            "device": run.get("device"),
            "steps": None if run.get("steps") is None else f"{run['steps']:,}",
            "examples seen, one seed": None if run.get("examples") is None else f"{run['examples']:,}",
            "examples a second": None if run.get("examples_per_second") is None else rate(run["examples_per_second"]),
            "compilation": None if run.get("compile_seconds") is None else duration(run["compile_seconds"]),
            "FLOPs of a step, one seed": None if run.get("flops_per_step") is None else f"{run['flops_per_step']:.3g}",
            "FLOPs of all steps, one seed": _total(run),
            "state, one seed": _size(run.get("state_bytes")),
            "of it kept by methods": _size(run.get("method_bytes")),
            "peak memory": None if run.get("peak_bytes") is None else f"{run['peak_bytes'] / 2**20:,.0f} MiB",
            "experiences": f"{results.done(run)} of {matrix.shape[1]}",
            "backward transfer": results.score_text(scores["backward_transfer"]),
            "forward transfer": results.score_text(scores["forward_transfer"]),
            "prequential accuracy": results.score_text(results.prequential(run)) if run.get("prequential") else None,
            **{f"final {name}": results.number_text(value) for name, value in results.finals(run).items()},
            "unreadable lines in metrics.jsonl": run["skipped_lines"] or None,
        }
        seeds = {
            f"seed {seed}": f"{100 * value:.1f}" if np.isfinite(value) else "–"
            for seed, value in zip(run["seeds"], finals, strict=False)
        }
        blocks = [
            ("full", "Command", f"<pre>{esc(run.get('command') or 'unknown')}</pre>"),
            ("", "Config", pairs(dict(_flatten(run.get("config") or {})))),
            ("", "Run", pairs({key: value for key, value in facts.items() if value is not None})),
            ("", "Final accuracy by seed, percent", pairs(seeds)),
            ("", "Versions", pairs(run.get("versions") or {})),
        ]
        inside = "".join(f'<div class="{kind}"><h3>{title}</h3>{text}</div>' for kind, title, text in blocks)
        out.append(
            f"<details><summary>{charts.swatch(k)}<b>{esc(run['label'])}</b><span>{esc(run['stream'])}</span>"
            f'</summary><div class="inside" id="run-{k}">{inside}</div></details>'
        )
    return "".join(out)


def _total(run: Mapping[str, Any]) -> str | None:
    each, steps = run.get("flops_per_step"), run.get("steps")
    return None if each is None or steps is None else f"{each * steps:.3g}"


def _size(number: float | None) -> str | None:
    return None if number is None else f"{number / 2**10:,.1f} KiB" if number < 2**20 else f"{number / 2**20:,.1f} MiB"


def _flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, config if isinstance(config, str) else json.dumps(config)
