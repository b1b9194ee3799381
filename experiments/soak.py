"""Kill runs, damage what they saved, let them go on, and compare their ends with runs that nobody touched, to the bit.

  python -m experiments.soak --kills=100 --workdir=runs/soak
  python -m experiments.soak --kills=100 --report

Each recipe is run once from end to end, and again while it suffers: kill -9 at random moments, also while it starts up
and while it saves, signals that ask it to stop, and damage to its newest checkpoint between two lives. After every
fault it is started again by the same command, and must go on from the newest checkpoint that is whole. --kills counts
kill -9; for every three of them come two faults of other kinds. A workdir keeps the runs, what every process said, and
soak.json, which lists every fault; without one they are kept only where something went wrong.

--report stores what was tried in experiments/_soak/results.json and writes the tables of docs/faults.md again; without
--kills it only does the latter.

The last line counts kills that were tried and survived, and faults of every kind after which steps were lost or the end
was another. Exit codes: 0 everything was survived, 1 something was not, 2 wrong use.
"""

import dataclasses
import datetime
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from absl import flags

import ctrain_jax
from experiments import _cli
from experiments._soak import _page, _story

_FILE = "--config=configs/continual/{}:runlocal"
_LONG = ("--config.scenario.num_experiences=10", "--config.epochs=60")
RECIPES = (
    _story.Recipe("er", (_FILE.format("er.py"), *_LONG, "--seeds=2")),
    _story.Recipe("derpp", (_FILE.format("derpp.py"), *_LONG)),
    _story.Recipe("ewc_online", ("--config=configs/continual/ewc.py:online,runlocal", *_LONG)),
    _story.Recipe("si", (_FILE.format("si.py"), *_LONG, "--config.optimizer.name=adamw")),
)


def define_flags() -> None:
    """The flags of the binary; not when it is imported, as flags of all binaries share their names."""
    flags.DEFINE_integer("kills", None, "How many times kill -9 ends a process.", lower_bound=1)
    flags.DEFINE_string("workdir", None, "An empty folder, made where it is missing, for runs and what they say.")
    flags.DEFINE_integer("seed", 0, "Of the order of faults, their moments and places.")
    flags.DEFINE_bool("report", False, "Store what was tried, and write the tables of docs/faults.md again.")


def main(argv: Sequence[str]) -> int:
    """Tries what the flags ask for."""
    given = flags.FLAGS
    if argv[1:]:
        _cli.fail(f"unexpected argument {argv[1]!r}: flags start with two dashes (see --help).")
    if given.kills is None:
        if not given.report:
            _cli.fail("--kills=N is needed, as in --kills=100, or --report.")
        _page.PAGE.write_text(_page.text())
        return 0
    folder = Path(tempfile.mkdtemp(prefix="soak_") if given.workdir is None else given.workdir).absolute()
    if folder.is_file() or folder.is_dir() and any(folder.iterdir()):
        _cli.fail(f"--workdir expects an empty folder, got {folder}: use another one.")
    folder.mkdir(parents=True, exist_ok=True)
    told = soak(RECIPES, given.kills, folder, given.seed)
    content = stored(told, f"python -m experiments.soak --kills={given.kills} --seed={given.seed}")
    (folder / "soak.json").write_text(
        json.dumps(content | {"faults": [dataclasses.asdict(f) for one in told for f in one.faults]}, indent=1) + "\n"
    )
    if given.report:
        _page.STORED.write_text(json.dumps(content, indent=1) + "\n")
        _page.PAGE.write_text(_page.text())
    bad = content["failures"] or any(row["tried"] != row["survived"] for row in content["kinds"].values())
    if given.workdir is None and not bad:
        shutil.rmtree(folder)
    print(_page.lines(content["kinds"]))
    for sentence in content["failures"]:
        print(sentence)
    print(content["last_line"])
    return 1 if bad else 0


def soak(recipes: Sequence[_story.Recipe], kills: int, folder: Path, seed: int) -> list[_story.Told]:
    """What runs of recipes suffer, one recipe after the other.

    Args:
      recipes: share the kills among them.
      kills: how many.
      folder: an empty one, in which each recipe has one of its own.
      seed: of everything that is random.

    Returns:
      What came of it, by recipe.
    """
    told = []
    for k, recipe in enumerate(recipes):
        if share := kills // len(recipes) + (k < kills % len(recipes)):
            rng = random.Random(f"{seed} {recipe.name}")
            story = _story.Story(recipe, folder / recipe.name, rng, lambda line: print(line, flush=True))
            told.append(story.tell(_story.plan(share, rng)))
    return told


def stored(told: Sequence[_story.Told], command: str) -> dict[str, Any]:
    """What results.json holds."""
    counted = _page.counts(fault for one in told for fault in one.faults)
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "versions": {"python": sys.version.split()[0], "ctrain_jax": ctrain_jax.__version__}
        | {name: version(name) for name in ("jax", "jaxlib", "orbax-checkpoint")},
        "kinds": counted,
        "recipes": {
            one.recipe.name: {
                "flags": " ".join(one.recipe.flags),
                "steps": one.steps,
                "runs": one.runs,
                "lives": one.lives,
                "faults": len(one.faults),
                "used": sum(fault.used for fault in one.faults),
            }
            for one in told
        },
        "failures": [sentence for one in told for sentence in one.failures],
        "last_line": _page.last_line(counted),
    }


if __name__ == "__main__":
    define_flags()
    _cli.run(main)
