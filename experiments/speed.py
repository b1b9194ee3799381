"""Measure what this library costs, as ratios, and hold them against bounds.

  python -m experiments.speed --suite=overhead
  python -m experiments.speed --list
  python -m experiments.speed --report

Each suite compares programs in turns, in one process or in processes that alternate, and prints a line for each number
as soon as it is measured: `name value bound PASS|FAIL`. The numbers are stored in experiments/_speed/results, a file
for each suite and kind of device, with a picture of them beside it. --report only writes the tables of README.md and
docs/speed.md again, from the files. Run it on a machine that does nothing else.

Exit codes: 0 every bound is kept, 1 one is not, 2 wrong use.
"""

import datetime
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from absl import flags

import ctrain_jax
from experiments import _cli, _speed
from experiments._speed import _tables
from experiments._speed._common import Measure, Options

FOLDER = Path(__file__).parent / "_speed" / "results"


def define_flags() -> None:
    """The flags of the binary; not when it is imported, as flags of all binaries share their names."""
    flags.DEFINE_string("suite", None, "What to measure; see --list.")
    flags.DEFINE_bool("list", False, "Print the suites, a line each.")
    flags.DEFINE_bool("report", False, "Measure nothing, write the tables and pictures again.")
    flags.DEFINE_bool("small", False, "Tiny sizes and few rounds, to see that it works: the numbers say nothing.")
    flags.DEFINE_string("data_dir", None, "Where MNIST is prepared for tensorflow-datasets (suite peer).")
    flags.DEFINE_string("out", None, "Folder of the stored numbers; experiments/_speed/results by default.")


def main(argv: Sequence[str]) -> int:
    """Runs the suite that the flags name."""
    given = flags.FLAGS
    if argv[1:]:
        _cli.fail(f"unexpected argument {argv[1]!r}: name a suite with --suite (see --help).")
    suites = _speed.suites()
    if given.list:
        width = max(map(len, suites))
        print("\n".join(f"{name.ljust(width)}  {suite.about}" for name, suite in suites.items()))
        return 0
    if given.report:
        _tables.write(FOLDER)
        return 0
    if given.suite not in suites:
        asked = "expected --suite" if given.suite is None else f"there is no suite {given.suite!r}"
        _cli.fail(f"{asked}: {_cli.nearest(given.suite or '', suites)}")
    if given.small and given.out is None:
        _cli.fail("--small says nothing about speed: give --out=DIR for what it stores.")
    measures = []
    for measure in suites[given.suite].run(Options(given.small, given.data_dir)):
        print(measure.line(), flush=True)
        measures.append(measure)
    out = FOLDER if given.out is None else Path(given.out)
    store(out, given.suite, measures)
    if out == FOLDER:
        _tables.write(FOLDER)
    return 0 if all(measure.holds for measure in measures) else 1


def store(folder: Path, suite: str, measures: Sequence[Measure]) -> None:
    """Writes `<suite>.<platform>.json` and the picture of it."""
    platform = jax.default_backend()
    content: dict[str, Any] = {
        "suite": suite,
        "command": f"python -m experiments.speed --suite={suite}",
        "platform": platform,
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"python": sys.version.split()[0], "ctrain_jax": ctrain_jax.__version__}
        | {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
        "measures": [
            {
                "name": measure.name,
                "value": measure.value,
                "bound": measure.bound,
                "at_least": measure.at_least,
                "holds": measure.holds,
                "detail": dict(measure.detail),
            }
            for measure in measures
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{suite}.{platform}.json"
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    _tables.draw(content, path.with_suffix(".svg"))


if __name__ == "__main__":
    define_flags()
    _cli.run(main)
