"""What the tests of this folder throw: bytes that were changed, JSON and texts of any kind; and what they watch."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

# The same examples every time; they are small, and a smaller one takes minutes to be found.
EXAMPLES = settings(
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(2)>",
    "</title></style></svg><b>&amp;&lt;",
    "javascript:alert(3)",
    "' onload='alert(4)",
    "-->]]><!--",
    "\ud800",
    "a\nb\r\n\x00\x1b[31m\u2028",
    "../../etc/passwd",
    "/etc/passwd",
    "~nobody/x",
    "many words " * 300,
    "",
)
TEXTS = st.sampled_from(HOSTILE) | st.text(st.characters(), max_size=8)
# Nothing in between: sizes that fit into 32 bits and into no memory are for whoever has that memory.
NUMBERS = (
    st.integers(-3, 12)
    | st.sampled_from([2**31, 2**63, 10**12, 10**30, -(10**30), 10**400])
    | st.floats(width=64)
    | st.booleans()
)
LEAVES = st.none() | NUMBERS | TEXTS


def trees(leaves: st.SearchStrategy = LEAVES) -> st.SearchStrategy:
    """What JSON can say."""
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
    )


@st.composite
def changed(draw: st.DrawFn, content: bytes) -> bytes:
    """Some bytes, of which a few bits or a stretch are others, or the end is gone or goes on."""
    kind = draw(st.sampled_from(["bits", "stretch", "end", "more"]))
    place = draw(st.integers(0, len(content) - 1))
    if kind == "bits":
        found = bytearray(content)
        for at in [place, *draw(st.lists(st.integers(0, len(content) - 1), max_size=2))]:
            found[at] ^= 1 << draw(st.integers(0, 7))
        return bytes(found)
    if kind == "end":
        return content[:place]
    other = draw(st.binary(min_size=1, max_size=32))
    return content + other if kind == "more" else content[:place] + other + content[place + len(other) :]


@st.composite
def regrown(draw: st.DrawFn, tree: object, leaves: st.SearchStrategy = LEAVES) -> object:
    """A tree with another branch in one place."""
    if not isinstance(tree, dict | list) or not tree or draw(st.integers(0, 3)) == 0:
        return draw(trees(leaves))
    key = draw(st.sampled_from(sorted(tree) if isinstance(tree, dict) else range(len(tree))))
    other = tree.copy()
    if isinstance(tree, dict) and draw(st.integers(0, 3)) == 0:
        value = other.pop(key)
        return other if draw(st.booleans()) else other | {draw(TEXTS): value}
    other[key] = draw(regrown(tree[key], leaves))
    return other


def is_sentence(error: Exception, most: int = 700) -> bool:
    """Whether a user can read it: one line, not too long."""
    text = str(error)
    return bool(text.strip()) and "\n" not in text and len(text) <= most


_watchers: list[list[tuple[str, str]]] = []
_FILES = ("open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.symlink", "shutil.rmtree")
_CODE = ("pickle.find_class", "marshal.loads", "exec", "compile", "import", "os.system", "subprocess.Popen")


def _heard(event: str, arguments: tuple) -> None:
    if _watchers and event in (*_FILES, *_CODE):
        told = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
        for watcher in _watchers:
            watcher.append((event, told))


sys.addaudithook(_heard)


@contextlib.contextmanager
def watched() -> Iterator[list[tuple[str, str]]]:
    """(event, its first argument) of what Python does with files and code meanwhile."""
    seen: list[tuple[str, str]] = []
    _watchers.append(seen)
    try:
        yield seen
    finally:
        _watchers.remove(seen)


def touched(seen: list[tuple[str, str]], folder: Path) -> list[str]:
    """The files of a folder that were opened, listed or changed."""
    paths = {Path(told).resolve() for event, told in seen if event in _FILES and told and "\x00" not in told}
    return sorted(str(path) for path in paths if path.is_relative_to(folder.resolve()))


def executed(seen: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What was run or looked up as code."""
    return [(event, told) for event, told in seen if event in _CODE]
