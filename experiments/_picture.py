"""What arrives in a stream: a table of its experiences, a checksum, and a picture of rows as a learner sees them."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax import core
from ctrain_jax.core._data import as_floats

MOST = 15  # experiences that are all shown
FEW = 10  # of more than these
EXAMPLES = 10  # of an experience
_LINES = 4  # of an experience of text
_LETTERS = 125  # of a line of text
_SIDE = 32  # pixels of the side of a small image: it is enlarged by whole numbers up to here


class Shown(NamedTuple):
    """Some training rows of an experience, in the order of their labels."""

    inputs: np.ndarray  # [n, ...], through the view and before mean and std; uint8 as floats in [0, 1]
    labels: np.ndarray  # [n] or [n, k]


def chosen(num_experiences: int) -> list[int]:
    """The experiences that are shown: all of them, or ten, evenly chosen, with the first and the last."""
    if num_experiences <= MOST:
        return list(range(num_experiences))
    return np.linspace(0, num_experiences - 1, FEW).round().astype(int).tolist()


def examples(stream: core.Stream, which: Sequence[int], count: int = EXAMPLES) -> list[Shown]:
    """Rows of experiences as a learner sees them; the same places in experiences of the same size.

    Args:
      stream: any.
      which: the experiences.
      count: of rows of each; all of them where there are fewer.

    Returns:
      The rows, of each experience.
    """
    experience, rows, origins = stream.experiences["train"], [], []
    labels = np.asarray(stream.source.train["labels"])
    for t in which:
        places = np.sort(np.random.default_rng(0).permutation(int(experience.size[t]))[:count])
        own = np.asarray(experience.rows[t])[places]
        order = np.argsort(labels[own], kind="stable") if labels.dtype.kind == "i" else np.arange(len(own))
        rows.append(own[order])
        origins.append(np.asarray(experience.origin[t])[places][order])
    everything, origin = np.concatenate(rows), np.concatenate(origins)
    inputs = as_floats(jnp.asarray(stream.source.train["inputs"][everything]))
    if stream.view_fn is not None:
        # All at once: the view of corruptions is a program of a minute.
        views = jax.tree.map(lambda x: jnp.asarray(x)[origin], stream.origins.view)
        inputs = jax.jit(jax.vmap(stream.view_fn))(inputs, views)
    ends = np.cumsum([len(own) for own in rows])[:-1]
    return [Shown(x, labels[own]) for x, own in zip(np.split(np.asarray(inputs), ends), rows, strict=True)]


def table(stream: core.Stream) -> str:
    """What arrives, for a terminal.

    Args:
      stream: any.

    Returns:
      Lines: what the stream is, a row for each experience (number from 1, rows, tasks of the rows, classes, classes
      that no experience before had), and checksums: of rows, origins, views and labels; and of inputs.

    Example:
      >>> from ctrain_jax import streams
      >>> print(table(streams.class_incremental(streams.digits(), 2)).split("\\n\\n")[1])
      experience  rows  task  classes  new classes
      1            721     0      0-4          0-4
      2            716     1      5-9          5-9
    """
    experience = stream.experiences["train"]
    num, which = len(experience.size), chosen(len(experience.size))
    labels = np.asarray(stream.source.train["labels"])
    rows: list[tuple[str, ...]] = [("experience", "rows", "task", "classes", "new classes")]
    seen: set[int] = set()
    for t in range(num):
        own = _classes(stream, labels, t)
        if t in which:
            new = None if own is None else sorted(set(own) - seen)
            told = ("–" if found is None else spans(found) or "none" for found in (own, new))
            rows.append((str(t + 1), f"{int(experience.size[t]):,}", _tasks(stream, t), *told))
        seen |= set(own or ())
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    if len(which) < num:
        lines.append(
            f"{len(which)} of {num} experiences, evenly chosen; a class is new where none of all before had it"
        )
    of_stream, of_inputs = checksum(stream)
    sums = f"checksum {of_stream} (rows, origins, views, labels), {of_inputs} (inputs)"
    return "\n\n".join([headline(stream), "\n".join(lines), sums])


def checksum(stream: core.Stream) -> tuple[str, str]:
    """The first 16 digits of two SHA-256: of what arrives when, and of the inputs of the source.

    Args:
      stream: any.

    Returns:
      Of rows and origins of all experiences without padding, tasks, classes and views of the origins, and labels; and
      of the inputs, or "not read" where they are not in memory.
    """
    sha = hashlib.sha256()
    for split, experience in sorted(stream.experiences.items()):
        sha.update(split.encode())
        for rows, origin, size in zip(experience.rows, experience.origin, experience.size, strict=True):
            for field in (size, rows[:size], origin[:size]):
                _add(sha, field)
    for leaf in jax.tree.leaves(stream.origins):
        _add(sha, leaf)
    parts = (stream.source.train, stream.source.test)
    for part in parts:
        _add(sha, part["labels"])
    inputs = hashlib.sha256()
    if not all(isinstance(part["inputs"], np.ndarray) for part in parts):
        return sha.hexdigest()[:16], "not read"
    for part in parts:
        _add(inputs, part["inputs"])
    return sha.hexdigest()[:16], inputs.hexdigest()[:16]


def headline(stream: core.Stream) -> str:
    """A stream in one line."""
    hidden = [name for name in ("labels", "boundaries") if not getattr(stream, name)]
    num, source = len(stream.experiences["train"].size), stream.source
    of = "numbers as targets"
    if source.train["labels"].dtype.kind == "i":
        of = f"{source.num_classes} class{'es' * (source.num_classes > 1)}"
    parts = [
        f"{stream.name}: {num} experience{'s' * (num > 1)}, {of}, inputs {_shape(source.train['inputs'])}",
        *([f"{' and '.join(hidden)} hidden"] if hidden else []),
        *(["task known"] if stream.task_known else []),
    ]
    return ", ".join(parts)


def spans(numbers: Sequence[int], most: int = 6) -> str:
    """Whole numbers in ascending order as runs: "0-3 7"; of many runs the first, and how many numbers there are."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1][1:] = [n]
        else:
            runs.append([n])
    said = ["-".join(map(str, run)) for run in runs]
    return " ".join(said) if len(said) <= most else f"{' '.join(said[: most - 1])} ... ({len(numbers)})"


def draw(stream: core.Stream, path: Path, decode: Callable[[np.ndarray], bytes] | None = None) -> None:
    """A picture of a stream: a row for each experience, with some of its training rows.

    Args:
      stream: any. Images are drawn as they are; tokens as text; anything else as lines, in the colour of their class,
        with the targets of a regression as dots.
      path: of the picture, `.png`, `.svg` or `.pdf`.
      decode: tokens to bytes, of the tokenizer; without it, tokens below 256 are bytes and others numbers.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: another ending.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a picture needs matplotlib, which is not installed; `pip install matplotlib`.") from error
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"a picture is a .png, .svg or .pdf file, got {path.name}.")
    which = chosen(len(stream.experiences["train"].size))
    shown = examples(stream, which)
    kind = _kind(stream)
    # Without pyplot nothing asks for a display.
    height = {"image": 0.62, "text": 0.62, "line": 0.8}[kind] * len(which) + 0.9
    figure = Figure(figsize=(9.5, height), dpi=120)
    figure.text(0.02, 1 - 0.28 / height, headline(stream), fontsize=10, weight="bold", parse_math=False)
    figure.text(0.02, 1 - 0.5 / height, _said(stream, len(which), kind), fontsize=8, color="#555555")
    paint = {"image": _paint_images, "text": _paint_text, "line": _paint_lines}[kind](shown, decode)
    labels = np.asarray(stream.source.train["labels"])
    step = (height - 0.75) / len(which)
    for place, (t, some) in enumerate(zip(which, shown, strict=True)):
        bottom = (height - 0.7 - step * (place + 1) + 0.06) / height
        axes = figure.add_axes((0.19, bottom, 0.79, (step - 0.08) / height))
        axes.set_axis_off()
        paint(axes, some)
        middle = bottom + (step - 0.08) / height / 2
        own = _classes(stream, labels, t)
        said = f"{t + 1}: {int(stream.experiences['train'].size[t]):,} rows\ntask {_tasks(stream, t)}"
        if own is not None:
            said += f"\nclass{'es' * (len(own) != 1)} {spans(own, 4)}"
        figure.text(0.02, middle, said, fontsize=7.5, va="center", linespacing=1.4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _said(stream: core.Stream, num: int, kind: str) -> str:
    whole = len(stream.experiences["train"].size)
    which = "All experiences" if num == whole else f"{num} of {whole} experiences, evenly chosen"
    what = {
        "image": "images as the learner sees them, in the order of their classes",
        "text": "windows of tokens; where the font has no sign, there is a box",
        "line": "values as the learner sees them, a colour for each class",
    }[kind]
    if stream.source.train["labels"].dtype.kind == "f":
        what = "values as the learner sees them, and a dot for what is asked"
    return f"{which}; some training rows of each: {what}."


def _kind(stream: core.Stream) -> str:
    inputs = stream.source.train["inputs"]
    shape = inputs.shape[1:]
    if inputs.dtype.kind == "i":
        return "text"
    colours = len(shape) == 3 and shape[2] in (1, 3)
    # A window of a series of few values is no image.
    image = (len(shape) == 2 and min(shape) >= 8) or colours or (len(shape) == 2 and inputs.dtype == np.uint8)
    return "image" if image else "line"


def _paint_images(shown: Sequence[Shown], decode: Any) -> Callable[[Any, Shown], None]:
    """Draws the images of an experience side by side."""
    low = min(0.0, *(float(some.inputs.min()) for some in shown))
    high = max(1.0, *(float(some.inputs.max()) for some in shown))

    def paint(axes: Any, some: Shown) -> None:
        images = (some.inputs - low) / (high - low)
        scale = max(1, _SIDE // max(images.shape[1:3]))
        images = images.repeat(scale, axis=1).repeat(scale, axis=2)
        images = np.broadcast_to(images.reshape(*images.shape[:3], -1), (*images.shape[:3], 3))
        gap = 2
        wide, high_ = images.shape[2] + gap, images.shape[1]
        strip = np.ones((high_, wide * EXAMPLES, 3))
        for k, image in enumerate(images):
            strip[:, k * wide : k * wide + wide - gap] = image
        axes.imshow(strip, interpolation="nearest")
        axes.set_anchor("W")

    return paint


def _paint_text(shown: Sequence[Shown], decode: Any) -> Callable[[Any, Shown], None]:
    """Draws lines of text."""
    from matplotlib import font_manager, ft2font

    known = ft2font.FT2Font(font_manager.findfont("DejaVu Sans Mono")).get_charmap()

    def written(tokens: np.ndarray) -> str:
        if decode is None and tokens.max(initial=0) > 255:
            line = " ".join(map(str, tokens))
        else:
            kept = tokens[tokens >= 0]
            content = bytes(kept.tolist()) if decode is None else decode(kept)
            line = content.decode("utf-8", "replace").replace("\n", "↵").replace("\t", "→")
        return "".join(letter if ord(letter) in known else "□" for letter in line)[:_LETTERS]

    def paint(axes: Any, some: Shown) -> None:
        lines = [written(tokens) for tokens in some.inputs[:: max(1, len(some.inputs) // _LINES)][:_LINES]]
        axes.text(0, 0.5, "\n".join(lines), fontsize=6.5, family="DejaVu Sans Mono", va="center", parse_math=False)

    return paint


def _paint_lines(shown: Sequence[Shown], decode: Any) -> Callable[[Any, Shown], None]:
    """Draws rows of numbers as lines, one beside the other, on one scale for all experiences."""
    targets = shown[0].labels.dtype.kind == "f"
    values = [some.inputs.ravel() for some in shown] + ([some.labels.ravel() for some in shown] if targets else [])
    low, high = min(map(np.min, values)), max(map(np.max, values))

    def paint(axes: Any, some: Shown) -> None:
        for k, (row, label) in enumerate(zip(some.inputs, some.labels, strict=True)):
            lines = row.reshape(len(row), -1)  # [length, k]
            x = k + np.linspace(0, 0.85, len(lines) + targets)
            # A row of flat tables is its features, from the first to the last.
            axes.plot(x[: len(lines)], lines, linewidth=1, color="#555555" if targets else f"C{int(label) % 10}")
            if targets:
                axes.plot(np.full(np.size(label), x[-1]), np.ravel(label), "o", markersize=3, color="#c62f2f")
        axes.set_xlim(-0.05, EXAMPLES)
        # Not to cut a line in half at the edge.
        room = 0.05 * (high - low) or 1.0
        axes.set_ylim(low - room, high + room)

    return paint


def _classes(stream: core.Stream, labels: np.ndarray, t: int) -> list[int] | None:
    """The classes of the rows of an experience; None of a regression."""
    experience = stream.experiences["train"]
    if labels.dtype.kind != "i":
        return None
    return np.unique(labels[np.asarray(experience.rows[t])[: int(experience.size[t])]]).tolist()


def _tasks(stream: core.Stream, t: int) -> str:
    """The tasks of the rows of an experience; of two or three the share of each."""
    experience = stream.experiences["train"]
    origins = np.asarray(experience.origin[t])[: int(experience.size[t])]
    tasks, counts = np.unique(np.asarray(stream.origins.task)[origins], return_counts=True)
    if len(tasks) in (2, 3):
        return ", ".join(f"{task} {n / len(origins):.0%}" for task, n in zip(tasks, counts, strict=True))
    return spans(tasks.tolist(), 4)


def _shape(inputs: Any) -> str:
    return f"{inputs.dtype}[{', '.join(map(str, inputs.shape[1:]))}]"


def _add(sha: Any, array: Any) -> None:
    array = np.ascontiguousarray(array)
    sha.update(f"{array.dtype.str}{array.shape}".encode())
    sha.update(array.tobytes())
