"""A small language model reads a book in one language after another."""

from collections.abc import Sequence

import numpy as np
import optax

from ctrain_jax import core, models, streams
from experiments._evidence._common import Claim, estimate, final, forgotten, means, runs
from experiments._sources import named_documents

ROWS = {"en": 12_000, "ja": 3_000, "de": 3_000}
READER = core.from_linen(models.GPT(256, width=32, depth=2, heads=2, context=64))
WHERE = (
    "a book in English (12,000 windows of 64 bytes), then in Japanese and German (3,000 each), in one pass, GPT of "
    "width 32, Adam"
)


def book(rows: dict[str, int], data_dir: str | None, tests: int = 150) -> core.Stream:
    """So many windows of 64 bytes of each language, one language after another."""
    source = streams.text(named_documents("debian_reference", data_dir, list(rows)), length=64)

    def first(split, counts):
        labels = split["labels"]
        kept = np.concatenate([np.flatnonzero(labels == k)[:count] for k, count in enumerate(counts)])
        return {name: leaf[kept] for name, leaf in split.items()}

    parts = {"train": first(source.train, rows.values()), "test": first(source.test, [tests] * len(rows))}
    return streams.domain_incremental(source._replace(**parts), len(rows))


def reader(method: core.Method, stream: core.Stream, learning_rate: float = 3e-3) -> core.Learner:
    """One pass; its accuracy is the share of bytes that are answered right."""
    return core.make_learner(
        READER,
        method,
        optax.adam(learning_rate),
        stream,
        problem=core.next_token(),
        batch_size=16,
        epochs=1,
        eval_batch_size=50,
    )


def on_text(name: str, method: core.Method, seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """Percent of bytes that are answered right in the end, and what is forgotten, against naive training."""
    stream = book(ROWS, data_dir)
    found = {label: runs(reader(m, stream), seeds) for label, m in (("naive", core.identity()), (name, method))}
    accuracy, lost = ({label: f(result) for label, result in found.items()} for f in (final, forgotten))
    return [
        estimate(
            f"{WHERE}: points of bytes answered right above naive ({means(**accuracy)})",
            accuracy[name] - accuracy["naive"],
            least=0,
        ),
        estimate(
            f"the same: points of forgetting less than naive ({means(**lost)})", lost["naive"] - lost[name], least=0
        ),
    ]
