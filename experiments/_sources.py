"""What a config can name as its source, text among it, and the concepts of a drift."""

import pathlib
from collections.abc import Sequence

from ctrain_jax import core, streams
from ctrain_jax.streams._tfds import default_data_dir

TOKENS = 256  # of a vocabulary of bytes


def text(
    documents: str = "python",
    *,
    data_dir: str | None = None,
    languages: Sequence[str] | None = None,
    vocabulary: int = TOKENS,
    length: int = 128,
    test_fraction: float = 0.1,
) -> core.Source:
    """`streams.text` of documents that a config can name.

    Args:
      documents: "python", the code and the prose that come with Python (they differ between its versions); or
        "debian_reference", a book in seven languages that `python -m experiments.data` fetches.
      data_dir: where the book is; as of `streams.tfds`.
      languages: of the book, in the order of their classes; all of them by default.
      vocabulary: 256 tokens are bytes, more are pairs of bytes learned from the documents, in some seconds.
      length: tokens of a window.
      test_fraction: the share of the bytes of each document, at its end, that becomes the test split.

    Returns:
      The source.

    Raises:
      ValueError: other documents, a language that the book does not have, or as `streams.text`.
      FileNotFoundError: the book is not there.
    """
    found = named_documents(documents, data_dir, languages)
    tokenizer = tokens_of(documents, data_dir=data_dir, languages=languages, vocabulary=vocabulary,
                          test_fraction=test_fraction)  # fmt: skip
    return streams.text(found, length=length, tokenizer=tokenizer, test_fraction=test_fraction)


def tokens_of(
    documents: str = "python",
    *,
    data_dir: str | None = None,
    languages: Sequence[str] | None = None,
    vocabulary: int = TOKENS,
    test_fraction: float = 0.1,
    **others: object,
) -> streams.Tokenizer | None:
    """The tokenizer of `text` with these arguments; None where tokens are bytes."""
    del others
    if vocabulary == TOKENS:
        return None
    found = named_documents(documents, data_dir, languages)
    return streams.byte_pairs(found, vocabulary, test_fraction=test_fraction)


def named_documents(
    documents: str, data_dir: str | None, languages: Sequence[str] | None
) -> dict[str, pathlib.Path] | None:
    """{name: its file} of named documents; None for those that come with Python."""
    if documents == "python":
        if data_dir is not None or languages is not None:
            raise ValueError("text: data_dir and languages are of documents='debian_reference': leave them out.")
        return None
    if documents != "debian_reference":
        raise ValueError(f"text: documents must be 'python' or 'debian_reference', got {documents!r}.")
    home = default_data_dir() if data_dir is None else pathlib.Path(data_dir).expanduser()
    files = {path.stem: path for path in sorted((home / "debian_reference").glob("*.txt"))}
    if not files:
        raise FileNotFoundError(
            f"text: 'debian_reference' is not prepared under {home}; run `python -m experiments.data "
            f"--name=debian_reference --data_dir={home}` in a checkout."
        )
    wanted = list(files) if languages is None else languages
    unknown = [name for name in wanted if name not in files]
    if isinstance(wanted, str) or unknown or not wanted:
        raise ValueError(f"text: languages must be a sequence of some of {', '.join(files)}, got {languages!r}.")
    return {name: files[name] for name in wanted}
