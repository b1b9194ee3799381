"""Methods beside each other on the same streams, under the same terms.

  python -m experiments.leaderboard --board=split_fashion_mnist --jobs=2
  python -m experiments.leaderboard --board=split_mnist --only=er,derpp --data_dir=DIR
  python -m experiments.leaderboard --board=all --missing --data_dir=DIR
  python -m experiments.leaderboard --report

A board is a file in configs/leaderboard: a stream, with model, optimizer, batches, passes and rows of memory that are
the same for all of its methods. A cell is a method on a board, run for all seeds; each seed has its own order of
classes where the stream has one, the same for every method. DIR is where `make data` prepared MNIST, the default folder
of tensorflow-datasets otherwise.

Each cell is stored in configs/leaderboard/<board>.json as soon as it is measured: a call that was stopped goes on with
--missing, which also runs again what was measured with another config. --jobs=2 runs two cells at a time. At the end,
or with --report alone, configs/leaderboard/README.md and leaderboard.csv are written from the files.

Exit codes: 0 everything asked for is measured, 2 wrong use or missing data, 130 and 143 interrupted.
"""

import concurrent.futures
import csv
import functools
import hashlib
import importlib
import json
import multiprocessing
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags

from ctrain_jax import metrics
from experiments import _build, _cells, _cli, _cost, published

BOARDS = (
    "split_fashion_mnist", "split_mnist", "rotated_mnist", "si_blurry", "scole", "split_cifar100",
    "split_tiny_imagenet", "core50", "imagenet_r",
)  # fmt: skip
TABLES = ("split_cifar10_online",)  # of experiments.published, whose cells are methods
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "configs" / "leaderboard"
README, CSV = FOLDER / "README.md", FOLDER / "leaderboard.csv"
MARK = "<!-- measured -->"
COLUMNS = (
    "board", "method", "seeds", "accuracy", "half_width", "sd", "average_incremental", "forgetting", "steps",
    "examples", "flops_per_step", "state_bytes", "method_bytes", "seconds", "date", "config",
)  # fmt: skip
Cells = Mapping[str, Mapping[str, Any]]


def define_flags() -> None:
    """The flags of the binary; not when it is imported, as flags of all binaries share their names."""
    flags.DEFINE_enum("board", None, (*BOARDS, "all"), "The board, a file in configs/leaderboard.")
    flags.DEFINE_list("only", [], "Methods, as in --only=er,derpp; all of the board by default.")
    flags.DEFINE_bool("missing", False, "Run the cells that are not stored, or were measured with another config.")
    flags.DEFINE_bool("report", False, "Run nothing, write the page and the CSV file again.")
    flags.DEFINE_integer("seeds", None, "How many seeds: 0, 1, ...; what the board says by default.", lower_bound=2)
    flags.DEFINE_integer("jobs", 1, "How many cells are run at a time.", lower_bound=1)
    flags.DEFINE_string("data_dir", None, "Where data sets are prepared for tensorflow-datasets.")
    flags.DEFINE_string("out", None, "Folder of the stored results; configs/leaderboard by default.")


def main(argv: Sequence[str]) -> int:
    """Runs the cells that the flags name."""
    given = flags.FLAGS
    if argv[1:]:
        _cli.fail(f"unexpected argument {argv[1]!r}: name a board with --board (see --help).")
    if given.report:
        write_page()
        return 0
    if given.board is None:
        _cli.fail(f"expected --board, one of {', '.join(BOARDS)} or all, or --report.")
    out = FOLDER if given.out is None else Path(given.out)
    boards = BOARDS if given.board == "all" else (given.board,)
    known = dict.fromkeys(method for board in boards for method in module(board).METHODS)
    for method in given.only:
        if method not in known:
            _cli.fail(f"{method!r} is no method of {given.board}: {_cli.nearest(method, list(known))}")
    wanted = [(b, m) for b in boards for m in module(b).METHODS if not given.only or m in given.only]
    if given.missing:
        wanted = [(b, m) for b, m in wanted if is_stale(b, m, _cells.stored(out / f"{b}.json"))]
    if not wanted:
        print("nothing is missing")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    refused = run(wanted, given.seeds, given.jobs, given.data_dir, out)
    if out == FOLDER:
        write_page()
    for sentence in dict.fromkeys(refused):
        print(f"error: {sentence}", file=sys.stderr)
    return 2 if refused else 0


def run(wanted: Sequence[tuple[str, str]], seeds: int | None, jobs: int, data_dir: str | None, out: Path) -> list[str]:
    """Run cells, some at a time, each in a process of its own, and store each when it is there.

    Args:
      wanted: (board, method) of each.
      seeds: of each, the board's own number by default.
      jobs: how many at a time.
      data_dir: where data sets are prepared.
      out: folder of the files of boards.

    Returns:
      What is wrong with the cells that could not be run: data that are not there.
    """
    refused = []
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        running = {pool.submit(measure, b, m, seeds or module(b).SEEDS, data_dir): (b, m) for b, m in wanted}
        try:
            for future in concurrent.futures.as_completed(running):
                board, method = running[future]
                try:
                    cell = future.result()
                except _build.ConfigError as error:
                    refused.append(str(error))
                    continue
                header = {
                    "board": board,
                    "command": f"python -m experiments.leaderboard --board={board} --data_dir=DIR",
                }
                _cells.store(out / f"{board}.json", header, method, cell, module(board).METHODS)
                print(line(board, method, cell), flush=True)
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()  # a cell that is half done is worth nothing
            pool.shutdown(cancel_futures=True)
            raise
    return refused


def measure(board: str, method: str, seeds: int, data_dir: str | None) -> dict[str, Any]:
    """Run one cell: what `_cells.run` says, and the hash of its config."""
    _cost.use_cache()
    config = module(board).get_config(method)
    digest = config_hash(config)
    if config.source.name == "tfds":
        config.source.data_dir = data_dir
    return _cells.run(config, _build.build_source(config), range(seeds)) | {"config_hash": digest}


def config_hash(config: ml_collections.ConfigDict) -> str:
    """Twelve hex digits of what a cell is run with, wherever its data lie."""
    canonical = json.dumps(config.to_dict(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def is_stale(board: str, method: str, cells: Cells) -> bool:
    """Whether a cell is missing, or was measured with another config than that of now."""
    return method not in cells or cells[method]["config_hash"] != config_hash(module(board).get_config(method))


def line(board: str, method: str, cell: Mapping[str, Any]) -> str:
    """What is printed of a cell when it is there."""
    lost = "" if cell["forgetting"] is None else f", forgetting {cell['forgetting']:.1f}"
    seeds = f"{len(cell['of_seeds'])} seeds, {cell['seconds']:.0f} s"
    return f"{board} {method} {cell['accuracy']:.1f} ± {cell['half_width']:.1f}{lost} ({seeds})"


@functools.cache
def module(board: str) -> Any:
    """The file of a board in configs/leaderboard, or of a table in configs/published."""
    return importlib.import_module(f"configs.{'published' if board in TABLES else 'leaderboard'}.{board}")


def write_page() -> None:
    """Writes the page and the CSV file from what is stored."""
    README.write_text(page(), encoding="utf-8")
    with CSV.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", restval="", lineterminator="\n")
        writer.writeheader()
        for board in (*BOARDS, *TABLES):
            for method, cell in cells_of(board).items():
                own = {"board": board, "method": method, "seeds": len(cell["of_seeds"])}
                writer.writerow({**cell, **own, "config": f"{_recipe(board)}:{method}"})


def cells_of(board: str) -> dict[str, dict[str, Any]]:
    """The stored cells of a board."""
    return _cells.stored((published.FOLDER if board in TABLES else FOLDER) / f"{board}.json")


def page() -> str:
    """The README of configs/leaderboard with the tables that the stored cells give."""
    measured = {board: cells for board in (*BOARDS, *TABLES) if (cells := cells_of(board))}
    tables = [_overview(measured)] if measured else []
    for board, cells in measured.items():
        title = " ".join(module(board).__doc__.split("\n\n")[0].split())
        tables.append(f"## {board}\n\n{title}\n\n{_table(board, cells)}")
    before, _, after = README.read_text(encoding="utf-8").split(MARK)
    whole = "\n\n".join(tables)
    return f"{MARK}\n{whole}\n{MARK}".join((before, after))


def _overview(measured: Mapping[str, Cells]) -> str:
    """A line for each method, a column for each board."""
    methods = dict.fromkeys(method for cells in measured.values() for method in _ranked(cells))
    lines = [f"| method | {' | '.join(measured)} |", f"|---|{'---|' * len(measured)}"]
    for method in methods:
        cells = (board.get(method) for board in measured.values())
        values = ("" if c is None else f"{c['accuracy']:.1f} ± {c['half_width']:.1f}" for c in cells)
        lines.append(f"| {_linked(method)} | {' | '.join(values)} |")
    return "\n".join(lines)


def _table(board: str, cells: Cells) -> str:
    """The cells of a board, the best first, each compared with the best seed by seed."""
    ranked = _ranked(cells)
    first = next((method for method in ranked if method != "joint"), ranked[0])
    same = [m for m in ranked if m != "joint" and len(cells[m]["of_seeds"]) == len(cells[first]["of_seeds"])]
    compared = {}
    if len(same) > 1:
        scores = {method: cells[method]["of_seeds"] for method in same}
        compared = {row.name: row for row in metrics.paired_comparison(scores, first)}
    lines = [
        "| method | final accuracy | average incremental | forgetting | behind the first | p | seconds | examples "
        "| GFLOPs | kept by methods |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method in ranked:
        cell, row = cells[method], compared.get(method)
        behind = "–" if row is None else f"{-row.difference.mean:.1f} ± {row.difference.half_width:.1f}"
        chance = "–" if row is None else f"{row.p_holm:.3f}" if row.p_holm >= 0.001 else "< 0.001"
        flops = None if cell.get("flops_per_step") is None else cell["flops_per_step"] * cell["steps"] / 1e9
        values = (
            f"`{method}`",
            f"{cell['accuracy']:.1f} ± {cell['half_width']:.1f}",
            _percent(cell.get("average_incremental")),
            _percent(cell.get("forgetting")),
            behind,
            chance,
            f"{cell['seconds'] / len(cell['of_seeds']):.0f}",
            f"{cell['examples']:,}" if "examples" in cell else "–",
            "–" if flops is None else f"{flops:,.0f}",
            _amount(cell.get("method_bytes")),
        )
        lines.append(f"| {' | '.join(values)} |")
    return "\n".join(lines)


def _ranked(cells: Cells) -> list[str]:
    return sorted(cells, key=lambda method: -cells[method]["accuracy"])


def _linked(method: str) -> str:
    """A method as a link to its config, and one to its evidence where it has that."""
    name = method.partition(":")[0]
    found = (ROOT / "ctrain_jax" / "evidence" / f"{name}.json").is_file()
    evidence = f" [evidence](../../ctrain_jax/evidence/{name}.json)" if found else ""
    return f"[`{method}`](../continual/{name}.py){evidence}"


def _recipe(board: str) -> str:
    return f"configs/{'published' if board in TABLES else 'leaderboard'}/{board}.py"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _amount(num: int | None) -> str:
    if num is None:
        return "–"
    return f"{num / 1024:.1f} KiB" if num < 2**20 else f"{num / 2**20:.1f} MiB"


if __name__ == "__main__":
    define_flags()
    _cli.run(main)
