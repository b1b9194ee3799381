"""Choose hyper-parameters by validation rows, and report what they are worth where nothing was chosen.

  python -m experiments.search --config=configs/continual/er.py --config.scenario.valid_fraction=0.1
    --workdir=runs/search --space=er.size=50,200 --space=optimizer.learning_rate=1e-4:1e-1:log --trials=20 --seeds=3
  python -m experiments.search ... --protocol=two_phase --evaluation=classes
  python -m experiments.search ... --protocol=two_phase --evaluation=source.name=digits

A space is a range (KEY=LOW:HIGH, with :log evenly on a logarithmic scale) or choices (KEY=A,B,C), for any key of the
config; --space is repeatable. Trials are drawn by Optuna's TPE and kept in WORKDIR/study.db: the same command goes on
where it was. --at_once trials that differ in numbers of methods and of the optimizer alone are one program.

A trial learns the training rows and is asked for the validation rows; the stream that it is given holds no test rows
(`streams.selection`). Its result says so, and `experiments.report` does not show it beside test scores. When all trials
are done, the best setting is run once more, with other seeds, and judged by test rows, in WORKDIR/evaluation:

--protocol=single_phase    on the same stream, the usual practice;
--protocol=two_phase       on one that no trial has seen (Cha and Cho 2024, arXiv 2403.09066): of the other half of the
                           classes, --evaluation=classes, or of another config, --evaluation=KEY=VALUE (repeatable).

--reusable_holdout=N asks the validation rows through Thresholdout (Dwork et al. 2015) with N answers: a trial learns
what training rows say wherever validation rows agree, so that hundreds of trials do not fit them.

Exit codes: 0 finished, 2 wrong use, 130 and 143 interrupted: the trials that are done are kept.
"""

import functools
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags

from ctrain_jax import core, metrics, streams
from experiments import _build, _cli, _cost, _outcome, _progress, _provenance, _results, _space, _workdir, continual

_AFTER = 1000  # seeds of the evaluation are those of the trials plus this


def search(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    space: Sequence[str],
    *,
    trials: int = 20,
    num_seeds: int = 1,
    at_once: int = 4,
    protocol: str = "single_phase",
    evaluation: Sequence[str] = (),
    holdout_budget: int = 0,
) -> dict[str, Any]:
    """Run a search, or what is left of it, and its evaluation.

    Args:
      config: see `configs/common.py`; its scenario holds rows out for validation (`valid_fraction`).
      workdir: receives `study.db`, a folder for each trial and one for the evaluation, and `search.json`.
      space: see `_space.parsed`.
      trials: how many settings are tried.
      num_seeds: of each trial, `config.seed, config.seed + 1, ...`, and of the evaluation.
      at_once: trials that are drawn before the first of them is told.
      protocol: "single_phase" or "two_phase".
      evaluation: of two phases: ("classes",) or "KEY=VALUE" of the config of the second phase.
      holdout_budget: answers of Thresholdout; 0 asks the validation rows themselves.

    Returns:
      What `search.json` holds: `best` (the setting), `score` (by which it was chosen), `evaluation` (by test rows).

    Raises:
      ConfigError: something wrong in the config or the space, a stream without validation rows, or a workdir that holds
        another search.
    """
    workdir, axes = Path(workdir), _space.parsed(config, space)
    tuned_on, judged_on = _phases(config, protocol, evaluation)
    stream = _build.build_stream(tuned_on)
    stream = _build.refused("config.scenario", streams.selection, stream)
    _build.build(tuned_on, stream=stream)
    claim = {
        "config": _provenance.plain(tuned_on), "judged_on": _provenance.plain(judged_on), "space": list(space),
        "seeds": num_seeds, "at_once": at_once, "holdout_budget": holdout_budget,
    }  # fmt: skip
    _build.refused("--workdir", workdir.mkdir, parents=True, exist_ok=True)
    with _workdir.on_disk(workdir), _workdir.locked(workdir):
        study = _study(workdir, claim, config.seed)
        seeds = [config.seed + k for k in range(num_seeds)]
        bar = _progress.Bar(config.name, trials, 0)
        bar.say(f"{len(_done(study))} of {trials} trials done, {num_seeds} seed{'s' * (num_seeds > 1)} each")
        data = core.to_device(stream)
        guard = _Guard(stream, holdout_budget, config.seed) if holdout_budget else None
        while (left := trials - len(_done(study))) > 0:
            # The sampler draws by what is in the study alone, so a search that was stopped goes on as it would have.
            study.sampler = _sampler(config.seed + len(_done(study)))
            asked = [study.ask() for _ in range(min(at_once, left))]
            points = [{axis.key: _suggested(trial, axis) for axis in axes} for trial in asked]
            began = time.monotonic()
            found = _tried(tuned_on, stream, data, axes, points, seeds, guard is not None)
            seconds = (time.monotonic() - began) / len(asked)
            for trial, point, part in zip(asked, points, found, strict=True):
                score = _final(part) if guard is None else guard.ask(study, part)
                trial.set_user_attr("seconds", seconds)
                if guard is None:
                    _write_trial(workdir, trial.number, tuned_on, stream, point, part, seeds, seconds)
                study.tell(trial, *((score,) if np.isfinite(score) else (None, _failed())))
                told = ", ".join(f"{key} {_text(value)}" for key, value in point.items())
                bar.say(f"trial {trial.number}: {told}: {_score(score)}")
        best = _best(study)
        chosen = _restored(axes, best.params)
        final = judged_on.copy_and_resolve_references()
        final = _space.changed(final, chosen)
        final.name, final.seed = f"{config.name} chosen", config.seed + _AFTER
    evaluated = continual.train(final, workdir / "evaluation" / f"{best.number:03d}", num_seeds, quiet=True)
    result = {
        "protocol": protocol, "best": chosen, "score": best.value, "trials": len(_done(study)),
        "evaluation": evaluated["matrices"], "stream": evaluated["stream"],
    }  # fmt: skip
    _workdir.write(workdir / "search.json", result)
    return result


def table(result: Mapping[str, Any]) -> str:
    """The outcome of a search for a terminal."""
    final = metrics.mean_interval(metrics.final_accuracy(np.array(result["evaluation"], float)))
    rows = [
        ("chosen", ", ".join(f"{key}={_text(value)}" for key, value in result["best"].items())),
        (
            "by validation",
            f"{_score(result['score'])} (best of {result['trials']} trials: too good by what was fitted)",
        ),
        (f"test, {result['protocol']}", f"{_results.score_text(final)} on {result['stream']}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in rows)


class _Guard:
    """Thresholdout between the trials and the validation rows; its state is kept in the study."""

    def __init__(self, stream: core.Stream, budget: int, seed: int):
        rows = len(stream.source.test["labels"])
        self._holdout = metrics.thresholdout(4 / rows**0.5, 1 / rows**0.5, budget=budget)
        self._rng = jax.random.key(seed)

    def ask(self, study: Any, part: Mapping[str, Any]) -> float:
        """What a trial is told of its score; nan when the budget is spent."""
        before = study.user_attrs.get("holdout")
        state = self._holdout.init(self._rng)
        if before is not None:
            state = type(state)(*(jnp.asarray(x, y.dtype) for x, y in zip(before["state"], state, strict=True)))
        asked = 0 if before is None else before["asked"]
        rng = jax.random.fold_in(self._rng, asked + 1)
        answer, state = self._holdout.query(state, float(part["learned"].mean()), _final(part), rng)
        kept = [np.asarray(x).tolist() for x in state]
        study.set_user_attr("holdout", {"state": kept, "asked": asked + 1})
        return float(answer)


def _phases(
    config: ml_collections.ConfigDict, protocol: str, evaluation: Sequence[str]
) -> tuple[ml_collections.ConfigDict, ml_collections.ConfigDict]:
    """The configs that are tuned on and judged on."""
    if protocol == "single_phase":
        if evaluation:
            raise _build.ConfigError("--evaluation belongs to --protocol=two_phase, got it with single_phase.")
        return config, config
    if not evaluation:
        raise _build.ConfigError("--protocol=two_phase needs --evaluation=classes, or --evaluation=KEY=VALUE.")
    if list(evaluation) == ["classes"]:
        order = np.random.default_rng(config.seed).permutation(_build.build_source(config).num_classes).tolist()
        half = len(order) // 2
        parts = sorted(order[:half]), sorted(order[half : 2 * half])
        return tuple(_space.changed(config, {"source.classes": part}) for part in parts)
    known = config.to_dict()
    changes = {}
    for text in evaluation:
        key, is_given, value = text.partition("=")
        if not is_given or key.split(".")[0] not in ("source", "scenario"):
            raise _build.ConfigError(
                f"--evaluation expects classes, or source.KEY=VALUE and scenario.KEY=VALUE, got {text!r}."
            )
        changes[key] = _space.literal(value)
    if "source.name" in changes:
        known["source"] = {}  # another source has other arguments
    judged_on = _space.changed(ml_collections.ConfigDict(known), changes)
    if judged_on.to_dict() == config.to_dict():
        raise _build.ConfigError("--evaluation names what the config has already: give another source or scenario.")
    return config, judged_on


def _study(workdir: Path, claim: Mapping[str, Any], seed: int) -> Any:
    """The study of a workdir, new or gone on with; what was being tried when it was stopped counts as not tried."""
    import optuna  # half a second that other binaries need not wait

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    digest = hashlib.sha256(json.dumps(claim, sort_keys=True).encode()).hexdigest()
    study = optuna.create_study(
        storage=f"sqlite:///{workdir / 'study.db'}", study_name="search", direction="maximize", load_if_exists=True,
        sampler=_sampler(seed),
    )  # fmt: skip
    if study.user_attrs.setdefault("claim", digest) != digest:
        raise _build.ConfigError(f"{workdir} holds another search: use another --workdir, or the same flags.")
    study.set_user_attr("claim", digest)
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _sampler(seed: int) -> Any:
    import optuna

    return optuna.samplers.TPESampler(seed=seed)


def _failed() -> Any:
    import optuna

    return optuna.trial.TrialState.FAIL


def _done(study: Any) -> list[Any]:
    """Trials that were told, those of a run that diverged among them."""
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and "seconds" in t.user_attrs]


def _best(study: Any) -> Any:
    if not any(trial.value is not None for trial in _done(study)):
        raise _build.ConfigError("No trial came to a finite score: give --space other values.")
    return study.best_trial


def _suggested(trial: Any, axis: _space.Axis) -> Any:
    if axis.choices:
        # By place: Optuna stores numbers, texts and booleans alone.
        return axis.choices[trial.suggest_categorical(axis.key, range(len(axis.choices)))]
    if axis.whole:
        return trial.suggest_int(axis.key, int(axis.low), int(axis.high), log=axis.log)
    return trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log)


def _restored(axes: Sequence[_space.Axis], params: Mapping[str, Any]) -> dict[str, Any]:
    return {axis.key: axis.choices[params[axis.key]] if axis.choices else params[axis.key] for axis in axes}


def _tried(
    config: ml_collections.ConfigDict,
    stream: core.Stream,
    data: core.Data,
    axes: Sequence[_space.Axis],
    points: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    learned: bool,
) -> list[dict[str, Any]]:
    """Of each point `tested` {metric: `[S, T, E]`}, `baseline`, and `learned` `[S]` on training rows if asked for."""
    traced = [axis.key for axis in axes if _space.is_number_of_state(config, axis)]
    groups: dict[str, list[int]] = {}
    for place, point in enumerate(points):
        groups.setdefault(repr([v for key, v in point.items() if key not in traced]), []).append(place)
    found: list[dict[str, Any]] = [{}] * len(points)
    for places in groups.values():
        fixed = {key: value for key, value in points[places[0]].items() if key not in traced}
        columns = {key: jnp.array([points[place][key] for place in places], jnp.float32) for key in traced}

        def one(given: Any, rng: jax.Array, trial: jax.Array, fixed: Mapping[str, Any]) -> dict[str, Any]:
            data, columns = given
            point = fixed | {key: column[trial] for key, column in columns.items()}
            learner = _build.build(_space.changed(config, point), stream=stream)
            result = core.run_fused(learner, data, rng)
            out = {"tested": result.metrics, "baseline": result.baseline}
            if learned:
                last = learner.spec.num_experiences - 1
                out["learned"] = next(iter(learner.evaluate(result.state, data, last, split="train").values())).mean()
            return out

        run = functools.partial(one, fixed=fixed)
        numbers = range(len(places))
        swept = _build.refused("--space", core.sweep, run, (data, columns), seeds=seeds, trial=numbers)
        for place, number in zip(places, numbers, strict=True):
            found[place] = jax.tree.map(np.asarray, swept.at(trial=number).result)
    return found


def _final(part: Mapping[str, Any]) -> float:
    """The mean accuracy at the end, over seeds and experiences."""
    return float(next(iter(part["tested"].values()))[:, -1].mean())


def _write_trial(
    workdir: Path,
    number: int,
    config: ml_collections.ConfigDict,
    stream: core.Stream,
    point: Mapping[str, Any],
    part: Mapping[str, Any],
    seeds: Sequence[int],
    seconds: float,
) -> None:
    """A trial as a run whose scores are those of validation rows."""
    own = _space.changed(config, point)
    tested, baseline = (_results.lists(part[key]) for key in ("tested", "baseline"))
    result = _outcome.scored(own, stream, seeds, tested, baseline)
    result |= {"name": f"{config.name} {number}", "split": "valid", "seconds": seconds}
    if _results.unlike_a_result(result):
        return  # it diverged, which its score says
    folder = workdir / "trials" / f"{number:03d}"
    folder.mkdir(parents=True, exist_ok=True)
    _workdir.write(folder / "result.json", result)


def _score(value: float | None) -> str:
    return "diverged" if value is None or not np.isfinite(value) else f"{100 * value:.1f}"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def define_flags() -> None:
    """The flags of the binary; not when it is imported, as flags of all binaries share their names."""
    _cli.define_config()
    flags.DEFINE_string("workdir", None, "Folder of the search; gone on with where it exists.")
    flags.DEFINE_multi_string(
        "space", [], "A key and what to choose from: KEY=LOW:HIGH[:log] or KEY=A,B,C; repeatable."
    )
    flags.DEFINE_integer("trials", 20, "How many settings are tried.", lower_bound=1)
    flags.DEFINE_integer("seeds", 1, "Seeds of each trial and of the evaluation.", lower_bound=1)
    flags.DEFINE_integer("at_once", 4, "Trials that are drawn and run together.", lower_bound=1)
    flags.DEFINE_enum("protocol", "single_phase", ("single_phase", "two_phase"), "Where the best setting is judged.")
    flags.DEFINE_multi_string("evaluation", [], "Of two phases: classes, or KEY=VALUE of the second one; repeatable.")
    flags.DEFINE_integer(
        "reusable_holdout", 0, "Answers of Thresholdout; 0 asks validation rows plainly.", lower_bound=0
    )


def main(argv: Sequence[str]) -> int:
    """The binary."""
    given = flags.FLAGS
    if len(argv) > 1:
        _cli.fail(f"unknown argument {argv[1]!r}: flags start with two dashes (see --help).")
    if given.config is None or given.workdir is None:
        _cli.fail("--config=FILE, --workdir=DIR and --space=KEY=LOW:HIGH are needed (see --help).")
    _cost.use_cache()
    try:
        result = search(
            given.config,
            given.workdir,
            given.space,
            trials=given.trials,
            num_seeds=given.seeds,
            at_once=given.at_once,
            protocol=given.protocol,
            evaluation=given.evaluation,
            holdout_budget=given.reusable_holdout,
        )
    except _build.ConfigError as error:
        _cli.fail(str(error))
    except _cli.Fault as error:
        _cli.fail(str(error), error.code)
    print(table(result))
    return 0


if __name__ == "__main__":
    define_flags()
    _cli.run(main)
