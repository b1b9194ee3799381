"""What was measured as tables of Markdown and as pictures, from the stored files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MARK = "<!-- speed -->"
ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "docs" / "speed.md")


def write(folder: Path) -> None:
    """Brings the tables of all pages, and the pictures, up to date."""
    for page, text in pages(folder).items():
        page.write_text(text)
    for path in folder.glob("*.json"):
        draw(json.loads(path.read_text()), path.with_suffix(".svg"))


def pages(folder: Path) -> dict[Path, str]:
    """{page: its text with the tables that the files of a folder give}."""
    files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    made = {PAGES[0]: _short(files), PAGES[1]: "\n\n".join(map(_whole, files))}
    texts = {}
    for page, table in made.items():
        before, _, after = page.read_text().split(MARK)
        texts[page] = f"{MARK}\n{table}\n{MARK}".join((before, after))
    return texts


def draw(content: Mapping[str, Any], path: Path) -> None:
    """A picture of each number that has a bound, as the share of the bound that it takes: 1 is the bound.

    Args:
      content: of a stored file.
      path: of the SVG. Nothing is drawn where no number has a bound.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shares = [(m["name"], _share(m), m["holds"]) for m in content["measures"] if m["bound"] is not None]
    if not shares:
        return
    with mpl.rc_context({"svg.hashsalt": content["suite"], "font.size": 9}):
        figure = Figure(figsize=(7, 0.8 + 0.22 * len(shares)), layout="constrained")
        axes = figure.add_subplot()
        names, values, kept = zip(*reversed(shares), strict=True)
        places = range(len(names))
        axes.hlines(places, 1, values, color="#b8b8b8", linewidth=1)
        axes.scatter(values, places, c=["#2a78d6" if holds else "#c62f2f" for holds in kept], s=22, zorder=3)
        axes.axvline(1, color="#555555", linewidth=1)
        axes.set_yticks(places, names)
        axes.set_xlabel("share of its bound: up to 1 it is kept")
        axes.set_xlim(0, 1.05 * max(1.0, *values))
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
        figure.savefig(path, metadata={"Date": None})


def _share(measure: Mapping[str, Any]) -> float:
    """Of its bound, that a value takes; 10 is the most that is told."""
    value, bound = measure["value"], measure["bound"]
    share = bound / max(value, 1e-9) if measure["at_least"] else value / bound
    return min(share, 10.0)


def _whole(content: Mapping[str, Any]) -> str:
    """Everything that a suite measured, with its picture."""
    picture = f"../experiments/_speed/results/{content['suite']}.{content['platform']}.svg"
    lines = [
        f"## {content['suite']}",
        f"`{content['command']}`, {content['date']}, {content['device']}, {content['cores']} cores, "
        f"jax {content['versions']['jax']}.",
        "| number | value | bound | kept | more |\n|---|---|---|---|---|",
    ]
    rows = []
    for measure in content["measures"]:
        shown = {name: value for name, value in measure["detail"].items() if value != measure["value"]}
        more = ", ".join(f"{name.replace('_', ' ')} {_text(value)}" for name, value in shown.items())
        kept = "–" if measure["bound"] is None else "yes" if measure["holds"] else "**no**"
        rows.append(f"| `{measure['name']}` | {_text(measure['value'])} | {_bound(measure)} | {kept} | {more or '–'} |")
    drawn = f"![{content['suite']}: shares of their bounds]({picture})"
    return "\n\n".join([*lines[:2], drawn, "\n".join([lines[2], *rows])])


def _short(files: list[dict[str, Any]]) -> str:
    """A line for each suite: how many bounds are kept, and the number that comes nearest to its own."""
    lines = ["| suite | device | bounds kept | nearest to its bound |", "|---|---|---|---|"]
    for content in files:
        bounded = [m for m in content["measures"] if m["bound"] is not None]
        worst = max(bounded, key=_share)
        kept = sum(m["holds"] for m in bounded)
        said = f"`{worst['name']}` {_text(worst['value'])} ({_bound(worst)})"
        lines.append(f"| `{content['suite']}` | {content['device']} | {kept} of {len(bounded)} | {said} |")
    return "\n".join(lines)


def _bound(measure: Mapping[str, Any]) -> str:
    if measure["bound"] is None:
        return "–"
    return f"{'at least' if measure['at_least'] else 'at most'} {_text(measure['bound'])}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_text, value))
    return value if isinstance(value, str) else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
