"""What the binaries share: wrong use is one sentence and exit code 2, never a traceback; signals ask for a save."""

import contextlib
import difflib
import logging
import os
import re
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

flags.disclaim_key_flags()  # what is defined here belongs to the binary that asks, and stands in its --help

WRONG_USE = 2
BROKEN_NUMBERS = 3
DISK = 4
PEER = 5


class Fault(RuntimeError):
    """What ends a program with one sentence and an exit code, though nobody used it wrongly."""

    def __init__(self, code: int, sentence: str):
        super().__init__(sentence)
        self.code = code


def define_config(
    told: str = "A file of configs/, then keys of it to change: --config.epochs=2 --config.er.size=200.",
) -> None:
    """The flag --config, whose keys are flags as well; `told` is its line of --help."""
    config_flags.DEFINE_config_file("config", None, told, lock_config=False, accept_new_attributes=True)


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """`absl.app.run`, for binaries whose user reads what went wrong.

    Args:
      main: takes the arguments that are no flags; its result is the exit code.
    """
    # Orbax tells every step of every save at the level of information.
    absl_logging.set_verbosity(absl_logging.WARNING)
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    try:
        app.run(main, flags_parser=_parse)
    except KeyboardInterrupt:
        fail("interrupted", 128 + signal.SIGINT)


def fail(sentence: str, code: int = WRONG_USE) -> NoReturn:
    """Ends the program with a sentence and an exit code."""
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(code)


def nearest(name: str, names: Iterable[str]) -> str:
    """What to do about a wrong name: the nearest valid one, or all of them."""
    names = sorted(names)
    if not names:
        return "leave it out."
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(names)}."


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """The numbers of SIGINT and SIGTERM that arrived: the first asks for a save, the second ends the program at once.

    The same one again within a second is the same request.

    A thread hears them, because the main one runs no Python while a program is compiled or computes.

    Yields:
      A list that grows by itself.
    """
    received: list[int] = []
    stop = (signal.SIGINT, signal.SIGTERM)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def listen() -> None:
        first = 0.0
        while numbers := ours.recv(16):
            for number in filter(stop.__contains__, numbers):
                if received == [number] and time.monotonic() - first < 1:
                    continue  # a launcher and whoever stops its group both send it
                if received:
                    os._exit(128 + number)
                first = time.monotonic()
                received.append(number)
                lead = "\n" if sys.stderr.isatty() else ""
                print(f"{lead}{signal.Signals(number).name}: saving, a second one ends at once", file=sys.stderr)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    before_fd = signal.set_wakeup_fd(theirs.fileno())
    # Without a handler in Python nothing is written to the wakeup file.
    before = {number: signal.signal(number, lambda number, frame: None) for number in stop}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_fd)
        theirs.close()
        thread.join()
        ours.close()


def _parse(argv: Sequence[str]) -> list[str]:
    config = _checked_config(argv)
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        wrong = re.match(r"flag --config\.(\S+?)=(.*?): ", str(error))
        if wrong is None or config is None:
            fail(f"{str(error).splitlines()[0].rstrip('.')} (see --help).")
        *path, last = wrong[1].split(".")
        kind = _at(config, path).get_type(last.split("[")[0]).__name__
        fail(f"config.{wrong[1]} expects a value of type {kind}, got {wrong[2]!r}.")
    except SystemExit:
        sys.exit(0)  # absl leaves with 1 after --help


def _checked_config(argv: Sequence[str]) -> Any:
    """The config that the flags name, before ml_collections sees it, which meets a wrong key with a traceback."""
    value = None
    for argument, after in zip(argv, [*argv[1:], None], strict=True):
        if match := re.match(r"--?config(?:=(.*))?$", argument):
            value = after if match[1] is None else match[1]
    if not value:
        return None
    config = _load(value)
    for argument in argv:
        if match := re.match(r"--?(?:no)?config\.([^=]+)", argument):
            *path, last = match[1].split(".")
            for depth, part in enumerate([*path, last]):
                section, where = _at(config, path[:depth]), ".".join(["config", *path[:depth]])
                if not hasattr(section, "keys"):
                    fail(f"{where} is {section!r} and has no key {part!r}.")
                # A new key in a section may be an argument that the file leaves at its default.
                if depth < len(path) and part not in section:
                    fail(f"{part!r} is not a known key of {where}: {nearest(part, section.keys())}")
    return config


def _load(value: str) -> Any:
    """What `get_config` of a config file returns; after a colon comes its argument."""
    path, *argument = value.split(":", 1)
    file = Path(path)
    if not file.is_file():
        others = [str(other) for other in file.parent.glob("*.py") if other.name != "__init__.py"]
        fail(f"the config file {path} does not exist: {nearest(path, others) if others else 'see configs/.'}")
    get_config = runpy.run_path(path).get("get_config")
    if get_config is None:
        fail(f"the config file {path} has no function get_config(arg).")
    try:
        return get_config(*argument)
    except ValueError as error:
        fail(f"{value}: {error}")


def _at(config: Any, path: Sequence[str]) -> Any:
    for part in path:
        config = config[part.split("[")[0]]
    return config
