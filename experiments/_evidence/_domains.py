"""What the checks of methods that grow where a domain is new share: domains in turn, each with rows of its own."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ctrain_jax import core, streams
from experiments._evidence._common import handwritten

ROWS, TESTS = 2_000, 500


class Domain(NamedTuple):
    """Rows of one kind."""

    train: dict[str, Any]
    test: dict[str, Any]

    def inverted(self) -> "Domain":
        """White where it was black."""
        return Domain(*({**part, "inputs": 255 - part["inputs"]} for part in self))

    def shifted(self, by: int) -> "Domain":
        """With other classes."""
        return Domain(*({**part, "labels": part["labels"] + by} for part in self))


def written(data_dir: str | None, part: int) -> Domain:
    """Digits; no two parts share a row."""
    source = handwritten(data_dir, (part + 1) * ROWS)
    return Domain(_some(source.train, part * ROWS, ROWS), _some(source.test, part * TESTS, TESTS))


def worn() -> Domain:
    """Clothes, of the same classes as the digits."""
    source = streams.fashion_mnist()
    return Domain(_some(source.train, 0, ROWS), _some(source.test, 0, TESTS))


def in_turn(domains: Sequence[Domain], num_classes: int) -> core.Stream:
    """The stream of one domain after another; a row is told apart from all classes."""

    def together(split, labels):
        parts = [getattr(domain, split) for domain in domains]
        names = [np.full(len(part["labels"]), t) if labels else part["labels"] for t, part in enumerate(parts)]
        return {"inputs": np.concatenate([part["inputs"] for part in parts]), "labels": np.concatenate(names)}

    # Experiences are of rows that are of one class where classes are domains.
    numbered = [together(split, True) for split in ("train", "test")]
    stream = streams.class_incremental(
        streams.arrays(*(part[name] for part in numbered for name in ("inputs", "labels")), name="domains"),
        len(domains),
    )
    classes = np.stack([np.isin(np.arange(num_classes), domain.train["labels"]) for domain in domains])
    seen = np.logical_or.accumulate(classes)
    train, test = (
        {name: leaf.astype(np.int32) if name == "labels" else leaf for name, leaf in together(split, False).items()}
        for split in ("train", "test")
    )
    return stream._replace(
        source=stream.source._replace(train=train, test=test, num_classes=num_classes),
        experiences={split: part._replace(classes=classes, seen=seen) for split, part in stream.experiences.items()},
        origins=stream.origins._replace(classes=classes),
    )


def first_of(stream: core.Stream, number: int) -> core.Stream:
    """Its first experiences."""
    parts = {name: jax.tree.map(lambda x: x[:number], part) for name, part in stream.experiences.items()}
    return stream._replace(experiences=parts)


def _some(part: Any, start: int, number: int) -> dict[str, Any]:
    """Rows of a split, and images without a channel."""
    inputs = np.asarray(part["inputs"])[start : start + number]
    return {"inputs": inputs.reshape(number, 28, 28), "labels": np.asarray(part["labels"])[start : start + number]}
