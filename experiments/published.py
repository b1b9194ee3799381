"""Hold this library against published tables: run every cell of one, and say where it is met.

  python -m experiments.published --table=split_mnist --data_dir=DIR
  python -m experiments.published --table=split_mnist --only=class,er --data_dir=DIR
  python -m experiments.published --table=split_mnist --missing --data_dir=DIR
  python -m experiments.published --report

A table is a file in configs/published: its recipes, and the numbers that were published, with where they were read.
DIR is where `make data` prepared MNIST, the default folder of tensorflow-datasets otherwise. Each cell is run for all
seeds and stored in configs/published/<table>.json as soon as it is measured, so that a stopped call goes
on with --missing; a line for each says value, bound, PASS or FAIL. --report only writes the tables of
configs/published/README.md again, from the files.

A cell is met where our mean over seeds lies within two of our standard deviations of the published number, or within 2
points, whichever is more, but never more than 4 points: on either side. Exit codes: 0 every cell that was run is met,
1 one is not, 2 wrong use or missing data.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from configs.published import Published
from ctrain_jax import core
from experiments import _cells, _cli
from experiments._build import ConfigError, build_source

TABLES = ("permuted_mnist", "split_cifar10_online", "split_mnist", "split_mnist_online")
FOLDER = Path(__file__).parents[1] / "configs" / "published"
README = FOLDER / "README.md"
MARK = "<!-- measured -->"


def define_flags() -> None:
    """The flags of the binary; not when it is imported, as flags of all binaries share their names."""
    flags.DEFINE_enum("table", None, TABLES, "The table, a file in configs/published.")
    flags.DEFINE_string(
        "only", None, "The cell of this name, or those whose names begin so: --only=class, --only=class,er."
    )
    flags.DEFINE_bool("missing", False, "Run the cells that are not stored yet.")
    flags.DEFINE_bool("report", False, "Run nothing, write configs/published/README.md again.")
    flags.DEFINE_integer("seeds", 5, "How many seeds: 0, 1, ...", lower_bound=3)
    flags.DEFINE_string("data_dir", None, "Where MNIST is prepared for tensorflow-datasets.")
    flags.DEFINE_string("out", None, "Folder of the stored results; configs/published by default.")


def main(argv: Sequence[str]) -> int:
    """Runs the cells that the flags name."""
    given = flags.FLAGS
    if argv[1:]:
        _cli.fail(f"unexpected argument {argv[1]!r}: name a table with --table (see --help).")
    if given.report:
        README.write_text(report())
        return 0
    if given.table is None:
        _cli.fail(f"expected --table, one of {', '.join(TABLES)}, or --report.")
    out = FOLDER if given.out is None else Path(given.out)
    path = out / f"{given.table}.json"
    recipe = importlib.import_module(f"configs.published.{given.table}")
    exact = given.only in recipe.PUBLISHED
    names = [given.only] if exact else [name for name in recipe.PUBLISHED if name.startswith(given.only or "")]
    if not names:
        _cli.fail(f"no cell of {given.table} starts with {given.only!r}: {_cli.nearest(given.only, recipe.PUBLISHED)}")
    if given.missing:
        names = [name for name in names if name not in _cells.stored(path)]
    header = {"table": given.table, "command": f"python -m experiments.published --table={given.table} --data_dir=DIR"}
    failed, sources = False, {}
    for name in names:
        config = recipe.get_config(name)
        config.source.data_dir = given.data_dir
        described = config.source.to_json()
        try:
            sources[described] = source = sources.get(described) or build_source(config)
        except ConfigError as error:
            _cli.fail(str(error))
        cell = measure(config, source, recipe.PUBLISHED[name], range(given.seeds))
        _cells.store(path, header, name, cell, list(recipe.PUBLISHED))
        print(line(name, cell), flush=True)
        failed |= cell["met"] is False
    if not names:
        print("nothing is missing")
    if out == FOLDER:
        README.write_text(report())
    return 1 if failed else 0


def measure(config: Any, source: core.Source, published: Published | None, seeds: Sequence[int]) -> dict[str, Any]:
    """Run a cell.

    Args:
      config: of `experiments.continual`; where its scenario has a seed, each run deals classes (or permutes pixels) by
        its own.
      source: of its data.
      published: the number to meet, None where there is none.
      seeds: of the runs.

    Returns:
      What is stored of it: that of `_cells.run`, and `published, source, tolerance, met`, None where nothing was
      published.
    """
    cell = _cells.run(config, source, seeds)
    cell |= {"published": None, "source": None, "tolerance": None, "met": None}
    if published is not None:
        tolerance, met = judge(cell["accuracy"], cell["sd"], published.accuracy)
        cell |= {"published": published.accuracy, "source": published.source, "tolerance": tolerance, "met": met}
    return cell


def judge(accuracy: float, sd: float, published: float) -> tuple[float, bool]:
    """How far from a published number we may be, and whether we are no further; all in percent."""
    tolerance = min(max(2 * sd, 2.0), 4.0)
    return tolerance, abs(accuracy - published) <= tolerance


def line(name: str, cell: dict[str, Any]) -> str:
    """`name value bound PASS|FAIL`."""
    value = f"{name} {cell['accuracy']:.2f} ± {cell['half_width']:.2f}"
    if cell["met"] is None:
        return f"{value} (nothing was published)"
    verdict = "PASS" if cell["met"] else "FAIL"
    return f"{value} = {cell['published']:g} ± {cell['tolerance']:.1f} {verdict}  {cell['source']}"


def report(folder: Path = FOLDER) -> str:
    """The README of configs/published with the tables that the stored results give."""
    tables = []
    for name in TABLES:
        path = folder / f"{name}.json"
        if path.is_file():
            tables.append(f"## {name}\n\n{_table(_cells.stored(path))}")
    before, _, after = README.read_text().split(MARK)
    whole = "\n\n".join(tables)
    return f"{MARK}\n{whole}\n{MARK}".join((before, after))


def _table(cells: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| cell | ours | seeds | published | within | met | forgetting | seconds | source of the published number |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, cell in cells.items():
        known = cell["published"] is not None
        met = "–" if not known else "yes" if cell["met"] else "**no**"
        row = (
            f"`{name}`",
            f"{cell['accuracy']:.1f} ± {cell['half_width']:.1f}",
            f"{len(cell['of_seeds'])}",
            f"{cell['published']:g}" if known else "–",
            f"{cell['tolerance']:.1f}" if known else "–",
            met,
            "–" if cell["forgetting"] is None else f"{cell['forgetting']:.1f}",
            f"{cell['seconds']:.0f}",
            cell["source"] or "–",
        )
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    define_flags()
    _cli.run(main)
