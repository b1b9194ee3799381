"""What the sections of the report share: words for numbers, and small pieces of HTML."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ctrain_jax import metrics
from experiments import _charts as charts
from experiments import _results as results
from experiments._charts import esc

Runs = Sequence[Mapping[str, Any]]  # of `_results.load_run`, each with a `label` of its own and its `scores`


def is_open(run: Mapping[str, Any]) -> bool:
    """Whether a run has not come to its end."""
    return not run.get("finished", True) or results.done(run) < len(run["matrices"][0])


def progress(run: Mapping[str, Any]) -> str:
    """How far a run is."""
    return f"{results.done(run)} of {len(run['matrices'][0])} done"


def note(text: str) -> str:
    """The sentence above a chart, or in place of one; `text` is HTML."""
    return f'<p class="note">{text}</p>'


def tile(caption: str, picture: str) -> str:
    """One of several small charts; both arguments are HTML."""
    return f'<figure class="tile"><figcaption>{caption}</figcaption>{picture}</figure>'


def run_tile(k: int, run: Mapping[str, Any], value: str, picture: str) -> str:
    """A small chart of a run, with its key, its name and a number."""
    return tile(f"{charts.swatch(k)}<b>{esc(run['label'])}</b><span>{esc(value)}</span>", picture)


def legend(series: Sequence[charts.Series]) -> str:
    """The key of lines."""
    items = "".join(f"<li>{charts.swatch(line.color, level=line.level)}{esc(line.label)}</li>" for line in series)
    return f'<ul class="legend">{items}</ul>'


def score(interval: metrics.Interval | None) -> str:
    """An interval in percent, its half width set back."""
    mean, _, half_width = results.score_text(interval).partition(" ± ")
    return mean + (f'<span class="pm"> ± {half_width}</span>' if half_width else "")


def scroller(label: str, table: str) -> str:
    """A wide table in a box that scrolls, by keys as well."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(label)}">{table}</div>'


def sheet(head: Iterable[object], rows: Iterable[Sequence[str]]) -> str:
    """A table; `head` is text, cells are HTML, and the first cell of a row is its name."""
    top = "".join(f'<th scope="col">{esc(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows
    )
    return f'<table class="sheet"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def breakable(key: object) -> str:
    """A dotted name, safe in HTML, that a narrow column may break between its words."""
    return esc(key).replace(".", ".<wbr>").replace("_", "_<wbr>")


def pairs(values: Mapping[str, Any]) -> str:
    """A table of names and values."""
    if not values:
        return "<p>none</p>"
    rows = "".join(f"<tr><th>{breakable(key)}</th><td>{esc(value)}</td></tr>" for key, value in values.items())
    return f'<table class="pairs">{rows}</table>'


def duration(seconds: float | None) -> str:
    """Seconds in the unit that fits."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def rate(per_second: float | None) -> str:
    """A number of steps a second."""
    if per_second is None:
        return "–"
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.1f}"


def count(num: int, noun: str) -> str:
    """A number and its noun."""
    return f"{num} {noun}{'' if num == 1 else 's'}"
