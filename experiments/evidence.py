"""Measure again what a factory promises, and store what was found.

  python -m experiments.evidence --name=ewc
  python -m experiments.evidence --family=continual
  python -m experiments.evidence --row=314 --data_dir=DIR
  python -m experiments.evidence --missing
  python -m experiments.evidence --all
  python -m experiments.evidence --tables

Each check writes ctrain_jax/evidence/<name>.json and prints a line for each claim: value, bound, PASS or FAIL. A gate
is an exact identity; an estimate is a mean over at least five seeds with Student's interval of 95 percent, and it holds
where the whole interval does. --tables only writes the tables in the README of each family again, from the files.

DIR is where `make data` prepared MNIST and a book in seven languages, the default folder of tensorflow-datasets
otherwise. A check that wants one and finds none is left out with a line that says how to get it.

Exit codes: 0 every gate holds (a missed estimate is stored as it was measured), 1 a gate fails, 2 wrong use or a check
left out.

A new check is experiments/_evidence/<name>.py with a `CHECK`, beside the factory <name>.
"""

import datetime
import json
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from absl import flags

import ctrain_jax
from experiments import _cli
from experiments._evidence import checks
from experiments._evidence._common import Check, Claim

PACKAGE = Path(ctrain_jax.__file__).parent
FOLDER = PACKAGE / "evidence"
MARK = "<!-- evidence -->"


def define_flags() -> None:
    """The flags of the binary; not when it is imported, as flags of all binaries share their names."""
    flags.DEFINE_string("name", None, "Run the check of this factory: --name=ewc.")
    flags.DEFINE_integer("row", None, "Run the checks of this row of the ledger of papers.")
    flags.DEFINE_string("family", None, "Run the checks of a package: --family=continual.")
    flags.DEFINE_bool("all", False, "Run every check.")
    flags.DEFINE_bool("missing", False, "Run the checks that have no evidence file.")
    flags.DEFINE_bool("tables", False, "Run nothing, write the tables of the READMEs again.")
    flags.DEFINE_string("data_dir", None, "Where `make data` prepared MNIST and the book.")
    flags.DEFINE_string("out", None, "Folder of the evidence files; that of the package by default.")


def main(argv: Sequence[str]) -> int:
    """Runs the checks that the flags name."""
    given = flags.FLAGS
    if argv[1:]:
        _cli.fail(f"unexpected argument {argv[1]!r}: name a check with --name (see --help).")
    out = FOLDER if given.out is None else Path(given.out)
    if given.tables:
        write_tables()
        return 0
    known = checks()
    chosen = _chosen(known, out)
    failed = left_out = False
    for name in chosen:
        try:
            evidence = measure(name, known[name], given.data_dir)
        except FileNotFoundError as error:
            print(f"{name} was not measured: {error}", file=sys.stderr)
            left_out = True
            continue
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps(evidence, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
        for claim in evidence["claims"]:
            print(line(name, claim), flush=True)
            failed |= claim["kind"] == "gate" and not claim["holds"]
    if not chosen:
        print("nothing is missing")
    if out == FOLDER:
        write_tables()
    return 1 if failed else 2 if left_out else 0


def measure(name: str, check: Check, data_dir: str | None = None) -> dict[str, Any]:
    """Run a check.

    Args:
      name: of the factory.
      check: its check.
      data_dir: where MNIST and the book are prepared.

    Returns:
      The content of its evidence file.
    """
    start = time.monotonic()
    claims = check.claims(check.seeds, data_dir)
    return {
        "name": name,
        "rows": list(check.rows),
        "factory": check.factory,
        "paper": check.paper,
        "command": f"python -m experiments.evidence --name={name}{' --data_dir=DIR' if check.data else ''}",
        "seeds": list(check.seeds),
        "claims": [_plain(claim) for claim in claims],
        "seconds": round(time.monotonic() - start, 1),
        "versions": {"ctrain_jax": ctrain_jax.__version__} | {p: version(p) for p in ("jax", "flax", "optax", "numpy")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def line(name: str, claim: dict[str, Any]) -> str:
    """`name value bound PASS|FAIL`, and what is claimed."""
    verdict = "PASS" if claim["holds"] else "FAIL"
    return f"{name} {_number(claim)} {claim['bound']} {verdict}  {claim['kind']}: {claim['text']}"


def table(files: Iterable[dict[str, Any]]) -> str:
    """The evidence of a family as lines of Markdown."""
    lines = ["| function | claim | measured | bound | holds |", "|---|---|---|---|---|"]
    for evidence in files:
        for claim in evidence["claims"]:
            holds = "yes" if claim["holds"] else "**no**"
            cells = (f"`{evidence['name']}`", claim["text"].replace("|", r"\|"), _number(claim), claim["bound"], holds)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(folder: Path = FOLDER) -> dict[Path, str]:
    """{README: its text with the table that the evidence files give}, for each README with the marks of a table."""
    files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    texts = {}
    for readme in sorted(PACKAGE.glob("*/README.md")):
        parts = readme.read_text().split(MARK)
        if len(parts) == 3:
            own = [e for e in files if e["factory"].split(".")[1] == readme.parent.name]
            texts[readme] = f"{MARK}\n{table(own)}\n{MARK}".join((parts[0], parts[2]))
    return texts


def write_tables() -> None:
    """Brings the tables of all READMEs up to date."""
    for readme, text in tables().items():
        readme.write_text(text)


def _chosen(known: dict[str, Check], out: Path) -> list[str]:
    given = flags.FLAGS
    wanted = [value for value in (given.name, given.row, given.family) if value is not None]
    wanted += [value for value in (given.all, given.missing) if value]
    if len(wanted) != 1:
        _cli.fail("expected one of --name, --row, --family, --missing, --all, --tables: --all runs every check.")
    if given.all:
        return list(known)
    if given.missing:
        return [name for name in known if not (out / f"{name}.json").is_file()]
    if given.name is not None:
        if given.name not in known:
            _cli.fail(f"{given.name!r} has no check: {_cli.nearest(given.name, known)}")
        return [given.name]
    if given.family is not None:
        families = {name: check.factory.split(".")[1] for name, check in known.items()}
        if given.family not in families.values():
            _cli.fail(
                f"{given.family!r} is no family with a check: {_cli.nearest(given.family, set(families.values()))}"
            )
        return [name for name, family in families.items() if family == given.family]
    rows = sorted({row for check in known.values() for row in check.rows})
    if given.row not in rows:
        _cli.fail(f"row {given.row} has no check: choose from {', '.join(map(str, rows))}.")
    return [name for name, check in known.items() if given.row in check.rows]


def _plain(claim: Claim) -> dict[str, Any]:
    fields = claim._asdict()
    rounded = None if claim.interval is None else [float(f"{limit:.6g}") for limit in claim.interval]
    value = None if claim.value is None else float(f"{claim.value:.6g}")
    return {**fields, "value": value, "interval": rounded, "holds": bool(claim.holds)}


def _number(claim: dict[str, Any]) -> str:
    if claim["value"] is None:
        return "not finite"
    if claim["interval"] is None:
        return f"{claim['value']:.3g}"
    half = (claim["interval"][1] - claim["interval"][0]) / 2
    return f"{claim['value']:.2f} ± {half:.2f}"


if __name__ == "__main__":
    define_flags()
    _cli.run(main)
