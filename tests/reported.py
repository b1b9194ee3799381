"""Folders of runs as `experiments.continual` leaves them, and the page made of them, for the tests of the report."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

# Two seeds, three experiences. Final: 0.7 and 0.6.
# Average incremental: (0.9 + 0.7 + 0.7) / 3 and (0.8 + 0.7 + 0.6) / 3.
# Forgetting: (0.4 + 0.1) / 2 and (0.5 + 0.2) / 2. Learning: (0.9 + 0.8 + 0.9) / 3 and (0.8 + 0.8 + 0.9) / 3.
MATRICES = [
    [[0.9, 0.0, 0.0], [0.6, 0.8, 0.0], [0.5, 0.7, 0.9]],
    [[0.8, 0.0, 0.0], [0.6, 0.8, 0.0], [0.3, 0.6, 0.9]],
]


class Page(HTMLParser):
    """Text, tags and table cells of a page; refuses one that is not well formed."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.rows: list[list[str]] = []
        self.cells: list[list[dict[str, str | None]]] = []  # attributes, as in `rows`
        self.feed(page)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("meta", "wbr"):
            return
        self.stack.append(tag)
        if tag == "tr":
            self.rows.append([])
            self.cells.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.cells[-1].append(dict(attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.stack, f"<{tag}/> closes itself in SVG only"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self.stack), data))
        if "td" in self.stack or "th" in self.stack:
            self.rows[-1][-1] += data

    def row(self, start: str) -> list[str]:
        return next(row for row in self.rows if row[0].startswith(start))

    def text(self) -> str:
        return " ".join(text for stack, text in self.texts if not {"style", "script"} & set(stack))


def write_run(folder: Path, lines: list[Any] | None = None, **fields: Any) -> Path:
    run = {
        "name": "er", "stream": "class_incremental(digits, 3)", "method": "er", "model": "MLP", "metric": "accuracy",
        "seeds": [3, 7], "matrices": MATRICES, "baseline": [[0.1, 0.2, 0.3]] * 2, "seconds": 12.34, "steps": 1500,
        "steps_per_second": 1234.5, "finished": True, "experiences": 3,
        "config": {"optimizer": {"learning_rate": 0.1, "name": "sgd"}, "batch_size": 32},
        "versions": {"jax": "9.8.7"}, "command": "python -m experiments.continual --seeds=3,7", "device": "cpu",
    } | fields  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(run))
    if lines is not None:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (folder / "metrics.jsonl").write_text("\n".join(texts))
    return folder


def train(step: int, loss: list[float | None], experience: int = 0) -> dict[str, Any]:
    return {"kind": "train", "step": step, "experience": experience, "loss": loss, "accuracy": [0.5], "seconds": 0.1}


def trace(step: int, experience: int, accuracy: list[list[float]]) -> dict[str, Any]:
    return {"kind": "trace", "step": step, "experience": experience, "split": "test", "accuracy": accuracy}


def evaluation(step: int, experience: int) -> dict[str, Any]:
    return {"kind": "eval", "step": step, "experience": experience, "split": "test", "accuracy": [[0.5]]}
