"""What the binaries share: a wrong flag is one sentence and exit code 2, never a traceback."""

import difflib
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

WRONG_USE = 2


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """`absl.app.run`, for binaries whose user reads what went wrong.

    Args:
      main: takes the arguments that are no flags; its result is the exit code.
    """
    # Orbax tells every step of every save at the level of information.
    logging.set_verbosity(logging.WARNING)
    app.run(main, flags_parser=_parse)


def fail(sentence: str) -> None:
    """Ends the program with a sentence and the exit code of wrong use."""
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(WRONG_USE)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        fail(f"{str(error).splitlines()[0]} (see --help)")
    except (AttributeError, KeyError) as error:
        # ml_collections names the key alone.
        wrong = str(error.args[0]).split("'")[1] if "'" in str(error.args[0]) else str(error.args[0])
        keys = _keys(argv)
        near = difflib.get_close_matches(wrong.split(".")[-1], keys, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(keys)}." if keys else "see --help."
        fail(f"{wrong!r} is not a key of the config: {advice}")
    except (TypeError, ValueError, OSError) as error:
        fail(str(error).splitlines()[0])
    raise AssertionError("unreachable: fail() exits")


def _keys(argv: Sequence[str]) -> list[str]:
    """Every key of the config that was asked for, to find the nearest one."""
    from ml_collections import ConfigDict, config_flags

    for argument in argv:
        if argument.startswith("--config="):
            values = flags.FlagValues()
            config_flags.DEFINE_config_file("config", flag_values=values)
            values([argv[0], argument])

            def walk(section):
                for key in section:
                    yield key
                    if isinstance(section[key], ConfigDict):
                        yield from walk(section[key])

            return list(dict.fromkeys(walk(values.config)))
    return []
