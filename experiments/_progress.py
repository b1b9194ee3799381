"""What a run tells while it runs: lines on the terminal, lines in metrics.jsonl, TensorBoard events."""

import datetime
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Log:
    """metrics.jsonl and TensorBoard events of a run; what is beyond the step that it resumes from is taken back."""

    def __init__(self, workdir: Path, step: int):
        # Not SummaryWriter, which hands events to a thread and cannot say when they are on the disk.
        from tensorboardX.event_file_writer import EventsWriter

        path = workdir / "metrics.jsonl"
        if path.exists():
            write_whole(path, "".join(line + "\n" for line in _lines_until(path, step)))
        self._file = path.open("a")
        folder = workdir / "tensorboard"
        folder.mkdir(exist_ok=True)
        self._events = EventsWriter(str(folder / "events"), filename_suffix=f".{step}")
        # TensorBoard drops what earlier files say from the step of a START on.
        self._event(step + 1, session_log={"status": "START"})

    def train(self, step: int, experience: int, record: Mapping[str, Sequence[float]], seconds: float) -> None:
        """The mean record of the steps since the last call, a value for each seed."""
        self._line({"kind": "train", "step": step, "experience": experience, **record, "seconds": seconds})
        for name, values in record.items():
            self._scalar(f"train/{name}", step, np.mean(values))

    def eval(self, step: int, experience: int, metrics: Mapping[str, Sequence[Sequence[float]]]) -> None:
        """The metrics on each test experience after one more is learned, `[E]` for each seed."""
        self._tests("eval", "test", step, experience, metrics)

    def trace(self, step: int, experience: int, metrics: Mapping[str, Sequence[Sequence[float]]]) -> None:
        """The same while an experience is being learned, and at its end."""
        self._tests("trace", "trace", step, experience, metrics)

    def flush(self) -> None:
        """Bring everything to the disk, so that a checkpoint is never ahead of what is told of the steps before it."""
        self._file.flush()
        self._events.flush()

    def close(self) -> None:
        """Write out what is left."""
        self._file.close()
        self._events.close()

    def _tests(
        self, kind: str, tag: str, step: int, experience: int, metrics: Mapping[str, Sequence[Sequence[float]]]
    ) -> None:
        self._line({"kind": kind, "step": step, "experience": experience, "split": "test", **metrics})
        for name, values in metrics.items():
            for j, value in enumerate(np.mean(values, axis=0)):
                self._scalar(f"{tag}/{name}/experience_{j}", step, value)

    def _line(self, content: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(content) + "\n")
        self._file.flush()

    def _scalar(self, tag: str, step: int, value: Any) -> None:
        self._event(step, summary={"value": [{"tag": tag, "simple_value": float(value)}]})

    def _event(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._events.write_event(Event(wall_time=time.time(), step=step, **content))


class Bar:
    """How far a run is: one line rewritten in a terminal or a notebook, a new line every ten seconds in a log file."""

    def __init__(self, name: str, total: int, done: int, *, quiet: bool = False):
        self._name, self._total, self._quiet = name, total, quiet
        self._origin: tuple[float, int] | None = None
        self._shown, self._experience, self._open = time.monotonic(), 0, False
        self._terminal = sys.stdout.isatty()
        self._notebook = type(sys.stdout).__module__.startswith("ipykernel")
        self._width = 0  # of the line that stands in a notebook

    def say(self, text: str) -> None:
        """A line of its own."""
        print(f"{chr(10) if self._open else ''}{self._name}: {text}", flush=True)
        self._open = False

    def update(self, done: int, experience: int, record: Mapping[str, Sequence[float]]) -> None:
        """Show where the run is."""
        now = time.monotonic()
        if self._origin is None:
            # The first chunk was compiled while it ran and says nothing about the rate.
            self._origin = now, done
        rewritten = self._terminal or self._notebook
        if self._quiet or not rewritten and now - self._shown < 10:
            return
        self._shown = now
        line = (
            f"{self._name}: {done / self._total:4.0%}  step {done}/{self._total}  experience {experience + 1}  "
            f"loss {float(np.mean(record['loss'])):.4f}"
        )
        began, first = self._origin
        if done > first:
            rate = (done - first) / max(now - began, 1e-9)
            left = datetime.timedelta(seconds=round((self._total - done) / rate))
            line += f"  {rate:.4g} steps/s  {left} left"
        if self._terminal:
            # Over the last line, and not into the next one.
            print(f"\r{line[: shutil.get_terminal_size().columns - 1]}\033[K", end="", flush=True)
            self._open = True
        elif self._notebook:
            # A notebook has no columns, and knows the return of the carriage alone.
            print(f"\r{line.ljust(self._width)}", end="", flush=True)
            self._width, self._open = len(line), True
        else:
            print(line, flush=True)


class Pace:
    """The length of a chunk that takes about `seconds`: one step at first, then by the rate seen."""

    def __init__(self, seconds: float):
        self._seconds, self._rate, self._chunks = seconds, 0.0, 0
        self._length, self._began = 1, 0.0

    def steps(self) -> int:
        """The length of the next chunk, which begins now."""
        self._began = time.monotonic()
        self._length = max(1, int(self._rate * self._seconds))
        return self._length

    def tick(self, steps: int) -> None:
        """A chunk of so many steps is over."""
        self._chunks += 1
        # The first chunk was compiled while it ran, and a cut one holds the end of an experience.
        if self._chunks > 1 and steps == self._length:
            self._rate = steps / max(time.monotonic() - self._began, 1e-6)


def write_whole(path: Path, text: str) -> None:
    """In one piece: a reader never sees half a file, whenever the writer is killed."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def _lines_until(path: Path, step: int) -> list[str]:
    """The lines of a file of records up to a step; what is no record is the last line of a killed run."""
    kept = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, TypeError, KeyError):
            continue
    return kept
