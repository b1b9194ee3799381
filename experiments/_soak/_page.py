"""What was tried, as lines for a terminal and as tables of Markdown, from the stored file."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments._soak import _story

MARK = "<!-- faults -->"
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "faults.md"
STORED = Path(__file__).parent / "results.json"
OUTCOMES = ("survived", "lost", "mismatched", "failed")
DONE = {
    "kill": "`kill -9`, a fifth of them while the run starts up",
    "kill_in_save": "`kill -9` while a checkpoint is being written",
    "term": "SIGTERM: exit code 143, and the step that it says is saved",
    "interrupt": "SIGINT: exit code 130, and the step that it says is saved",
    "flip": "a bit of a file of the newest checkpoint",
    "truncate": "the end of a file of the newest checkpoint is gone",
    "delete": "a file of the newest checkpoint is gone",
    "tmp": "half a checkpoint is left over",
}


def counts(faults: Iterable[_story.Fault]) -> dict[str, dict[str, int]]:
    """{kind: {"tried" and each outcome: how many}}, of the kinds that were tried."""
    found: dict[str, dict[str, int]] = {}
    for fault in faults:
        row = found.setdefault(fault.kind, dict.fromkeys(("tried", *OUTCOMES), 0))
        row["tried"] += 1
        row[fault.outcome] += 1
    return {kind: found[kind] for kind in DONE if kind in found}


def last_line(counted: Mapping[str, Mapping[str, int]]) -> str:
    """Of kills how many were tried and survived; of all faults how many were lost and mismatched."""
    kills = [counted[kind] for kind in _story.KILLS if kind in counted]
    told = {
        "kills": sum(row["tried"] for row in kills),
        "survived": sum(row["survived"] for row in kills),
        "lost": sum(row["lost"] for row in counted.values()),
        "mismatched": sum(row["mismatched"] for row in counted.values()),
    }
    return " ".join(f"{name} {number}" for name, number in told.items())


def lines(counted: Mapping[str, Mapping[str, int]]) -> str:
    """A table for a terminal."""
    rows = [["fault", "tried", *OUTCOMES]]
    rows += [[kind, *(str(row[name]) for name in ("tried", *OUTCOMES))] for kind, row in counted.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def text(stored: Path = STORED) -> str:
    """The page with the tables that the stored file gives."""
    before, _, after = PAGE.read_text().split(MARK)
    return f"{MARK}\n{_tables(json.loads(stored.read_text()))}\n{MARK}".join((before, after))


def _tables(content: Mapping[str, Any]) -> str:
    head = (
        f"`{content['command']}`, {content['date']}, {content['device']}, {content['cores']} cores, "
        f"jax {content['versions']['jax']}: **{content['last_line']}**."
    )
    faults = ["| fault | | tried | survived | lost | other bits | failed |", "|---|---|---|---|---|---|---|"]
    for kind, row in content["kinds"].items():
        cells = (str(row[name]) for name in ("tried", *OUTCOMES))
        faults.append(f"| `{kind}` | {DONE[kind]} | {' | '.join(cells)} |")
    runs = ["| recipe | steps of a run | runs | processes | faults | damaged and used |", "|---|---|---|---|---|---|"]
    for name, recipe in content["recipes"].items():
        numbers = (f"{recipe[key]:,}" for key in ("steps", "runs", "lives", "faults", "used"))
        runs.append(f"| `{name}`: `{recipe['flags']}` | {' | '.join(numbers)} |")
    failures = [f"- {sentence}" for sentence in content["failures"]]
    return "\n\n".join(["\n".join(part) for part in ([head], faults, runs, failures) if part])
