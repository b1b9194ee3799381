"""Charts as strings of HTML: no script, no library, and no text that scales with the picture.

A chart is a grid of HTML labels around an SVG that is stretched to the room it gets. Lines keep their width
(`non-scaling-stroke`), dots are lines of no length with round ends, and labels are HTML, so one chart is sharp and
readable at the width of a phone and of a desk. Colours are classes, `s0` to `s7` for runs and `h0` to `h20` for heat;
`report.css` and `heat_css` give them their values in light and dark.
"""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NUM_COLORS = 8
_HEAT_STEPS = 20
# One hue, and what is high stands out against the page: dark on white, bright on black.
_HEAT = {
    "light": ((242, 246, 252), (107, 160, 219), (8, 42, 102)),
    "dark": ((28, 34, 46), (44, 98, 168), (188, 220, 255)),
}


class Series(NamedTuple):
    """One line of a chart."""

    label: str
    color: int  # place of the run among all runs
    x: Sequence[float]
    y: Sequence[float]  # nan breaks the line
    half_width: Sequence[float] | None = None  # of the band, nan where there is none
    dots: bool = False
    level: bool = False  # a reference: one value, drawn from edge to edge


class Axis(NamedTuple):
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]  # (value, label)
    title: str
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 at `low` and 1 at `high`, clipped to the axis."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return min(max((value - low) / (high - low), 0.0), 1.0)


def esc(value: object) -> str:
    """Text of a run, safe in an element or an attribute."""
    # JSON and names of files may hold halves of characters, which no page can.
    return html.escape(str(value).encode("utf-8", "replace").decode(), quote=True)


def linear_axis(low: float, high: float, title: str, *, most: int = 6, scale: float = 1, pad: bool = True) -> Axis:
    """An axis with at most `most` round ticks. `scale` multiplies the labels (100: percent); `pad` ends it on ticks."""
    least = 1e-9 * max(1.0, abs(low), abs(high))
    span = max(high - low, least)
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(s * power for s in (1, 2, 5, 10, 20) if span / (s * power) <= most - 1)
    if pad:
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    values = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return Axis(low, max(high, low + least), [(v, f"{v * scale:,.10g}") for v in values], title)


def log_axis(low: float, high: float, title: str) -> Axis:
    """An axis of powers of ten, thinned to at most six ticks."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    powers = range(first, last + 1, math.ceil((last - first + 1) / 6))
    return Axis(10.0**first, 10.0**last, [(10.0**p, f"{10.0**p:,.10g}") for p in powers], title, log=True)


def line_chart(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    label: str,
    height: int,
    ends: Sequence[str] = (),
    marks: Sequence[float] = (),
) -> str:
    """Lines over one pair of axes.

    Args:
      series: lines, the most important first: it is drawn last, on top.
      x, y: axes.
      label: what a screen reader says instead of the picture.
      height: of the plot in CSS pixels; more where the direct labels need it.
      ends: texts beside the names at the right ends of the lines (dropped on narrow screens); none: no direct labels.
      marks: places on the x axis with a thin vertical line.

    Returns:
      HTML.
    """
    gap = 18
    height = max(height, gap * len(ends))
    grid = "".join(f'<path class="grid" d="M0 {_v(y, value)}H1000"/>' for value, _ in y.ticks)
    grid += "".join(f'<path class="mark" d="M{_h(x, value)} 0V1000"/>' for value in marks)
    lines = "".join(_line(line, x, y) for line in reversed(series))
    left = "".join(f'<span style="top:{_v(y, value) / 10:.5g}%">{text}</span>' for value, text in y.ticks)
    below = "".join(f'<span style="left:{_h(x, value) / 10:.5g}%">{text}</span>' for value, text in x.ticks)
    right = ""
    if ends:
        last = [next((v for v in reversed(line.y) if math.isfinite(v)), y.low) for line in series]
        tops = _spread([_v(y, value) / 1000 * height for value in last], gap, height)
        right = "".join(
            f'<span style="top:{top:.1f}px" title="{esc(line.label)}">{swatch(line.color, level=line.level)}'
            f"<b>{esc(line.label)}</b><i>{esc(text)}</i></span>"
            for line, text, top in zip(series, ends, tops, strict=True)
        )
        right = f'<div class="ends" aria-hidden="true">{right}</div>'
    return (
        f'<div class="chart{" with-ends" if ends else ""}" style="--plot:{height}px">'
        f'<div class="yt">{esc(y.title)}</div><div class="y" aria-hidden="true">{left}</div>'
        f'<svg class="plot" viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="{esc(label)}">'
        f'{grid}{lines}</svg>{right}<div class="x" aria-hidden="true">{below}</div><div class="xt">{esc(x.title)}</div>'
        "</div>"
    )


def decimate(steps: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points of a curve: of each of `most / 2` stretches the lowest and the highest, so peaks stay.

    Args:
      steps: `[N]`, in order.
      values: `[N]`; of a stretch without a finite value the first point stands, so that the gap is seen.
      most: even, at least 2.

    Returns:
      `(steps, values)` of at most `most` points, in order.
    """
    if len(steps) <= most:
        return steps, values
    kept = []
    for stretch in np.array_split(np.arange(len(steps)), most // 2):
        finite = stretch[np.isfinite(values[stretch])]
        if len(finite):
            kept += sorted({int(finite[np.argmin(values[finite])]), int(finite[np.argmax(values[finite])])})
        else:
            kept.append(int(stretch[0]))
    return steps[kept], values[kept]


def swatch(color: int, *, level: bool = False) -> str:
    """The line of a run as a small key."""
    return (
        f'<svg class="key {_classes(color)}" viewBox="0 0 20 10" width="20" height="10" aria-hidden="true">'
        f'<path class="line{" level" if level else ""}" d="M1 5H19"/></svg>'
    )


def heatmap(matrix: np.ndarray, half_widths: np.ndarray, *, label: str) -> str:
    """An accuracy matrix with its values in the cells.

    Args:
      matrix: `[T, E]` in [0, 1]; nan cells are left empty.
      half_widths: `[T, E]`, said beside the value when a cell is pointed at; nan where there is none.
      label: what a screen reader says instead of the picture.

    Returns:
      An SVG. Up to 10 columns have one decimal, up to 20 none, and wider matrices are colour alone.
    """
    rows, columns = matrix.shape
    width, height = (46, 34) if columns <= 5 else (34, 28) if columns <= 10 else (22, 22) if columns <= 20 else (12, 12)
    decimals = 1 if columns <= 10 else 0 if columns <= 20 else None
    labelled = [k for k in range(max(rows, columns)) if decimals is not None or k == 0 or (k + 1) % 5 == 0]
    left, top = 56, 36
    parts = [f'<text class="ht" x="{left}" y="12">accuracy on experience</text>'] if columns > 1 else []
    for j in (k for k in labelled if k < columns > 1):
        parts.append(f'<text class="hx" x="{left + (j + 0.5) * width:g}" y="{top - 8}">{j + 1}</text>')
    for i in range(rows):
        if i in labelled:
            name = f"after {i + 1}" if rows > 1 else "after all"
            parts.append(f'<text class="hy" x="{left - 8}" y="{top + (i + 0.5) * height:g}">{name}</text>')
        for j in range(columns):
            value, half = float(matrix[i, j]), float(half_widths[i, j])
            x, y = left + j * width, top + i * height
            box = f'x="{x + 1}" y="{y + 1}" width="{width - 2}" height="{height - 2}" rx="2"'
            if not math.isfinite(value):
                parts.append(f'<rect class="none" {box}/>')
                continue
            step = round(min(max(value, 0.0), 1.0) * _HEAT_STEPS)
            if decimals is None:
                parts.append(f'<rect class="h{step}" {box}/>')
                continue
            interval = f" ± {100 * half:.1f}" if math.isfinite(half) else ""
            title = f"after {i + 1}, on {j + 1}: {100 * value:.1f}{interval}"
            text = "100" if value >= 0.9995 else f"{100 * value:.{decimals}f}"
            parts.append(
                f'<g class="h{step}"><title>{title}</title><rect {box}/>'
                f'<text x="{x + width / 2:g}" y="{y + height / 2:g}">{text}</text></g>'
            )
    if rows == columns > 1:
        stairs = f"v{height}h{width}" * (rows - 1)
        parts.append(f'<path class="stairs" d="M{left + width} {top}{stairs}"/>')
    w, h = left + columns * width + 1, top + rows * height + 1
    return (
        f'<svg class="heat{" wide" if columns > 10 else ""}" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
        f'role="img" aria-label="{esc(label)}">{"".join(parts)}</svg>'
    )


def heat_color(step: int, mode: str) -> tuple[tuple[int, ...], str]:
    """Fill (RGB) and text of one of the 21 steps of the heat scale in `light` or `dark`.

    Black or white, whichever contrasts more, has a contrast of at least 4.58 on any colour.
    """
    low, middle, high = _HEAT[mode]
    place = 2 * step / _HEAT_STEPS
    start, stop, part = (low, middle, place) if place <= 1 else (middle, high, place - 1)
    fill = tuple(round(a + part * (b - a)) for a, b in zip(start, stop, strict=True))
    return fill, "#000" if luminance(fill) > 0.179 else "#fff"


def luminance(color: Sequence[int]) -> float:
    """Relative luminance of an sRGB colour, by the definition of WCAG 2."""
    parts = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def heat_css(mode: str) -> str:
    """Style rules of the heat scale."""
    rules = []
    for step in range(_HEAT_STEPS + 1):
        fill, ink = heat_color(step, mode)
        color = "#{:02x}{:02x}{:02x}".format(*fill)
        rules.append(f".h{step}{{fill:{color};background:{color}}}.h{step} text{{fill:{ink}}}")
    return "".join(rules)


def heat_scale() -> str:
    """The key of the heat scale."""
    steps = "".join(f'<i class="h{step}"></i>' for step in range(_HEAT_STEPS + 1))
    return f'<div class="scale" aria-hidden="true"><span>0 %</span>{steps}<span>100 %</span></div>'


def bars(rows: Sequence[tuple[str, int, float, str]]) -> str:
    """Horizontal bars: (label, colour, length, text at the end)."""
    most = max((length for _, _, length, _ in rows), default=0) or 1
    items = "".join(
        f'<li class="{_classes(color)}"><span class="name">{esc(label)}</span><span class="track">'
        f'<i style="width:{100 * length / most:.4g}%"></i></span><span class="num">{esc(text)}</span></li>'
        for label, color, length, text in rows
    )
    return f'<ul class="bars">{items}</ul>'


def _classes(color: int) -> str:
    # Runs beyond the eighth repeat the colours with dashed, then dotted lines.
    return f"s{color % NUM_COLORS} d{color // NUM_COLORS % 3}"


def _line(line: Series, x: Axis, y: Axis) -> str:
    points = list(zip(line.x, line.y, line.half_width or [math.nan] * len(line.x), strict=True))
    points = [p for p in points if math.isfinite(p[1])] if line.level else points
    if line.level:
        points = [(edge, value, half) for _, value, half in points[-1:] for edge in (x.low, x.high)]
    out, band, path, dots = "", [], "", ""
    pen = "M"
    for where, value, half in points:
        if not math.isfinite(value):
            pen = "M"
            continue
        path += f"{pen}{_h(x, where)} {_v(y, value)}"
        dots += f"M{_h(x, where)} {_v(y, value)}h0"
        pen = "L"
        if math.isfinite(half):
            band.append((_h(x, where), _v(y, value + half), _v(y, value - half)))
    if len(band) > 1:
        edge = [f"{h} {up}" for h, up, _ in band] + [f"{h} {down}" for h, _, down in reversed(band)]
        out += f'<path class="band" d="M{"L".join(edge)}Z"/>'
    out += f'<path class="line{" level" if line.level else ""}" d="{path}"/>'
    if line.dots:
        out += f'<path class="dots" d="{dots}"/>'
    return f'<g class="{_classes(line.color)}"><title>{esc(line.label)}</title>{out}</g>'


def _h(axis: Axis, value: float) -> float:
    return round(1000 * axis.place(value), 1)


def _v(axis: Axis, value: float) -> float:
    return round(1000 - 1000 * axis.place(value), 1)


def _spread(places: Sequence[float], gap: float, height: float) -> list[float]:
    """Places of labels moved apart to `gap` and kept within `height`, in the order of the places."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    floor = -math.inf
    for k in order:
        moved[k] = floor = max(moved[k], floor + gap)
    ceiling = height
    for k in reversed(order):
        moved[k] = ceiling = min(moved[k], ceiling)
        ceiling -= gap
    return moved
