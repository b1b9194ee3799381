"""Text as rows of tokens: bytes, or pairs of bytes that were learned from the text.

Byte-pair encoding: Sennrich, Haddow and Birch, "Neural machine translation of rare words with subword units", 2015,
arXiv 1508.07909, over bytes as in GPT-2 (Radford et al., 2019). Written from the description; no code was opened.
Where we differ: words are split at whitespace alone, by which any bytes come back as they were.
"""

import importlib.util
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ctrain_jax.core._base import Source
from ctrain_jax.ops import check_fraction, check_size
from ctrain_jax.streams._sources import arrays

Document = str | bytes | pathlib.Path
_WORDS = re.compile(rb" ?\S+|\s+(?!\S)|\s")  # a space belongs to the word after it
_LARGEST = 4096  # the pairs of a round are counted in a table of this squared
_MODULES = "argparse ast calendar difflib doctest inspect optparse pdb shutil subprocess tarfile turtle typing"


class Tokenizer(NamedTuple):
    """From bytes to tokens and back; that of any library fits in."""

    size: int  # of the vocabulary
    encode: Callable[[bytes], np.ndarray]  # bytes -> int32 [n]
    decode: Callable[[Sequence[int] | np.ndarray], bytes]  # tokens, those below 0 are padding -> bytes


def text(
    documents: Mapping[str, Document] | None = None,
    *,
    length: int = 128,
    tokenizer: Tokenizer | None = None,
    test_fraction: float = 0.1,
) -> Source:
    """Documents as windows of tokens; the label of a window says which document it is from.

    A window begins with the last token of the one before, so `core.next_token()`, which asks for all tokens of a row
    but the first, asks for each token once. `domain_incremental(text(documents), len(documents))` is a stream of one
    document after another: of languages, or of domains.

    Args:
        documents: a text for each name: a `str` or `bytes` is the text itself, a `pathlib.Path` its file. By default
            "code" (modules of Python's standard library) and "prose" (its language reference), which are on every
            machine and differ between versions of Python. `python -m experiments.data --name=debian_reference` fetches
            a book in seven languages.
        length: tokens of a window, at least 2.
        tokenizer: `byte_pairs(documents, size)`; by default tokens are bytes.
        test_fraction: the share of the bytes of each document, at its end, that becomes the test split.

    Returns:
        A `Source` with int32 inputs `[N, length]` in the order of the text, labels int32 `[N]` and a class for each
        document. The vocabulary is that of the tokenizer, 256 for bytes.

    Raises:
        ValueError: a length or a fraction that does not fit, or a document too short for a window in each split.
        TypeError: a document of another kind.
        FileNotFoundError: a path, or without documents a module of Python, that is not there.

    Example:
        >>> source = text({"one": "to be or not to be " * 20, "two": "sein oder nicht sein " * 20}, length=16)
        >>> source.train["inputs"].shape, source.num_classes, bytes(source.train["inputs"][1].tolist())
        ((47, 16), 2, b' be to be or not')

    References:
        Radford et al., Language models are unsupervised multitask learners, 2019.
    """
    check_size("length", length)
    if length < 2:
        raise ValueError(f"text: length must be at least 2, got {length}: a window asks for its second token.")
    encode = _encoded_bytes if tokenizer is None else tokenizer.encode
    parts = _split("text", documents, test_fraction)
    rows, labels = [], []
    for split in (0, 1):
        windows = [_windows(encode(part[split]), length) for part in parts.values()]
        for name, made in zip(parts, windows, strict=True):
            if not len(made):
                raise ValueError(
                    f"text: each document must have a window of {length} tokens in both splits, got none of "
                    f"{name!r} in '{('train', 'test')[split]}'; give more text, a shorter length or another "
                    "test_fraction."
                )
        rows.append(np.concatenate(windows))
        labels.append(np.repeat(np.arange(len(windows)), [len(w) for w in windows]))
    return arrays(rows[0], labels[0], rows[1], labels[1], name="text", num_classes=len(parts))


def byte_pairs(
    documents: Mapping[str, Document] | None = None, size: int = 512, *, test_fraction: float = 0.1
) -> Tokenizer:
    """Subwords: the pair of tokens that is most frequent within words becomes a token, again and again.

    Learned from what `text` makes the training split of these documents. Any bytes come back:
    `decode(encode(b)) == b`. 256 pairs from a megabyte take a few seconds.

    Args:
        documents: see `text`.
        size: of the vocabulary, 257 to 4096: 256 bytes and the pairs; fewer where no pair is left that occurs twice.
        test_fraction: see `text`.

    Returns:
        A `Tokenizer`.

    Raises:
        ValueError: a size or a fraction that does not fit.
        TypeError, FileNotFoundError: as `text`.

    Example:
        >>> tokenizer = byte_pairs({"one": "to be or not to be " * 20}, 260)
        >>> tokens = tokenizer.encode(b"not to be")
        >>> len(tokens), tokenizer.decode(tokens)
        (5, b'not to be')

    References:
        Sennrich, Haddow and Birch, Neural machine translation of rare words with subword units, 2015, arXiv:1508.07909.
    """
    check_size("size", size)
    if not 257 <= size <= _LARGEST:
        raise ValueError(f"byte_pairs: size must lie between 257 and {_LARGEST}, got {size}; 512 is a small one.")
    counts = Counter(w for part in _split("byte_pairs", documents, test_fraction).values() for w in _words(part[0]))
    tokens = _marked(list(counts))
    weights = np.repeat([counts[w] for w in counts], [len(w) + 1 for w in counts])
    pairs: list[tuple[int, int]] = []
    while 256 + len(pairs) < size:
        known = 256 + len(pairs)
        inside = (tokens[:-1] >= 0) & (tokens[1:] >= 0)
        found = np.bincount((tokens[:-1] * known + tokens[1:])[inside], weights[:-1][inside], minlength=1)
        best = int(found.argmax())
        if found[best] < 2:
            break
        pairs.append(divmod(best, known))
        places = _places(tokens, pairs[-1])
        tokens, weights = _joined(tokens, places, known), np.delete(weights, places + 1)

    meaning = [bytes([b]) for b in range(256)]
    for left, right in pairs:
        meaning.append(meaning[left] + meaning[right])

    def encode(content: bytes) -> np.ndarray:
        # In the order in which pairs were learned: a pair with a new token in it was learned after that token.
        tokens = _marked(_words(content))
        for rank, pair in enumerate(pairs):
            tokens = _joined(tokens, _places(tokens, pair), 256 + rank)
        return tokens[tokens >= 0].astype(np.int32)

    def decode(tokens: Sequence[int] | np.ndarray) -> bytes:
        return b"".join(meaning[t] for t in np.asarray(tokens).tolist() if t >= 0)

    return Tokenizer(len(meaning), encode, decode)


def _encoded_bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8).astype(np.int32)


def _windows(tokens: np.ndarray, length: int) -> np.ndarray:
    """int32 `[n, length]`, each beginning with the last token of the one before."""
    count = max(0, (len(tokens) - 1) // (length - 1))
    return tokens[np.arange(count)[:, None] * (length - 1) + np.arange(length)]


def _split(kind: str, documents: Mapping[str, Document] | None, test_fraction: float) -> dict[str, tuple[bytes, bytes]]:
    """The training and the test bytes of each document."""
    check_fraction("test_fraction", test_fraction)
    documents = _of_python() if documents is None else documents
    if not documents:
        raise ValueError(f"{kind}: documents must have a text for each name, got none; give one or more.")
    parts = {}
    for name, document in documents.items():
        content = document.read_bytes() if isinstance(document, pathlib.Path) else document
        content = content.encode() if isinstance(content, str) else content
        if not isinstance(content, bytes):
            raise TypeError(
                f"{kind}: a document must be a str, bytes or a pathlib.Path, got {type(document).__name__} for "
                f"{name!r}; convert it."
            )
        until = len(content) - round(test_fraction * len(content))
        parts[name] = content[:until], content[until:]
    return parts


def _of_python() -> dict[str, bytes]:
    """Code and prose that come with Python."""
    from pydoc_data.topics import topics

    code = []
    for module in _MODULES.split():
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None or not pathlib.Path(spec.origin).is_file():
            raise FileNotFoundError(f"text: this Python has no source of its module {module}; give documents.")
        code.append(pathlib.Path(spec.origin).read_bytes())
    return {"code": b"\n".join(code), "prose": "\n".join(topics[name] for name in sorted(topics)).encode()}


def _words(content: bytes) -> list[bytes]:
    return _WORDS.findall(content)


def _marked(words: Sequence[bytes]) -> np.ndarray:
    """int64 `[n]`, the bytes of all words with -1 after each."""
    lengths = np.asarray([len(w) + 1 for w in words], np.int64)
    tokens = np.full(lengths.sum(), -1)
    inside = np.ones(len(tokens), bool)
    inside[np.cumsum(lengths) - 1] = False
    tokens[inside] = np.frombuffer(b"".join(words), np.uint8)
    return tokens


def _places(tokens: np.ndarray, pair: tuple[int, int]) -> np.ndarray:
    """Where the pair begins; in a run of one token every other place."""
    places = np.flatnonzero((tokens[:-1] == pair[0]) & (tokens[1:] == pair[1]))
    if pair[0] != pair[1] or not len(places):
        return places
    starts = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    within = np.arange(len(places)) - np.repeat(starts, np.diff(starts, append=len(places)))
    return places[within % 2 == 0]


def _joined(tokens: np.ndarray, places: np.ndarray, new: int) -> np.ndarray:
    """The tokens with one new token for each pair."""
    tokens = tokens.copy()
    tokens[places] = new
    return np.delete(tokens, places + 1)
