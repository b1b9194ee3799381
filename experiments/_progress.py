"""What a run tells while it runs: a line on the terminal, lines in metrics.jsonl, TensorBoard events."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


class Log:
    """metrics.jsonl and TensorBoard events of a run; what is beyond the step that it resumes from is taken back."""

    def __init__(self, workdir: Path, step: int):
        from tensorboardX import SummaryWriter

        path = workdir / "metrics.jsonl"
        kept = [line for line in _lines(path) if line["step"] <= step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a")
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1 if step else None)

    def train(self, step: int, experience: int, record: dict[str, list[float]], seconds: float) -> None:
        """The mean record of the steps since the last call, a value for each seed."""
        self._line({"kind": "train", "step": step, "experience": experience, **record, "seconds": seconds})
        for name, values in record.items():
            self._events.add_scalar(f"train/{name}", float(np.mean(values)), step)

    def eval(self, step: int, experience: int, metrics: dict[str, list[list[float]]], split: str = "test") -> None:
        """The metrics on each experience of a split, `[E]` for each seed."""
        self._line({"kind": "eval", "step": step, "experience": experience, "split": split, **metrics})
        for name, values in metrics.items():
            for j, value in enumerate(np.mean(values, axis=0)):
                self._events.add_scalar(f"{split}/{name}/experience_{j}", float(value), step)

    def close(self) -> None:
        """Write out what is left."""
        self._file.close()
        self._events.close()

    def _line(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content) + "\n")
        self._file.flush()


class Bar:
    """One line with rate and remaining time: rewritten in a terminal, now and then a new one in a log file."""

    def __init__(self, name: str, total: int, done: int):
        self._name, self._total, self._first = name, total, done
        self._began = self._shown = time.monotonic()
        self._terminal = sys.stdout.isatty()

    def update(self, done: int, experience: int, record: dict[str, list[float]]) -> None:
        """Show where the run is."""
        now = time.monotonic()
        if not self._terminal and now - self._shown < 10 and done < self._total:
            return
        self._shown = now
        rate = (done - self._first) / max(now - self._began, 1e-9)
        left = (self._total - done) / max(rate, 1e-9)
        loss = float(np.mean(record["loss"]))
        line = (
            f"{self._name}: step {done}/{self._total}, experience {experience}, loss {loss:.3f}, "
            f"{rate:.0f} steps/s, {left:.0f} s left"
        )
        print(f"\r{line:<100}" if self._terminal else line, end="" if self._terminal else "\n", flush=True)

    def close(self, word: str) -> None:
        """End the line."""
        print(f"{chr(10) if self._terminal else ''}{self._name}: {word}", flush=True)


class Pace:
    """The length of a chunk that takes about `seconds`: a few steps at first, then by the rate seen."""

    def __init__(self, seconds: float):
        self._seconds, self._rate = seconds, None
        self._last: tuple[float, int] | None = None

    def steps(self) -> int:
        """The length of the next chunk."""
        return 10 if self._rate is None else max(1, int(self._rate * self._seconds))

    def tick(self, done: int) -> None:
        """A chunk is over."""
        now = time.monotonic()
        if self._last is not None and done > self._last[1]:
            # The first chunk is compiled while it runs and says nothing.
            self._rate = (done - self._last[1]) / max(now - self._last[0], 1e-6)
        self._last = (now, done)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue  # the last line of a killed run
    return lines
