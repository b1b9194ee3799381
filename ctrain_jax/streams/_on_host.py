"""A source that stays on the host: what does not fit on a device, or is read from a disk as it is needed.

Which rows a step needs follows from the step alone, so nothing is kept of where a reader stood: a run that is resumed,
or that replays, asks for the same rows by number, and gets the same bits as one whose data lie on the device.
"""

from typing import Any

import numpy as np

from ctrain_jax.core._base import Source


class HostRows:
    """As much of an array as a batch needs: `shape`, `dtype`, and some of its rows."""

    def __init__(self, rows: Any):
        self.rows, self.shape, self.dtype = rows, tuple(rows.shape), np.dtype(rows.dtype)

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(self.rows[index])


def on_host(source: Source) -> Source:
    """The same source, with its inputs where they are: in the host's memory, or mapped from its disk.

    A step asks the host for the rows of its batch, and a memory for those that it replays; labels lie on the device.
    Seeds that are mapped by `vmap` ask once for all of them, and of several hosts each reads its own part of a batch.
    A run ends in the same bits as with the inputs on the device, and is slower where the steps are short.

    Args:
        source: of arrays, or of anything with `shape`, `dtype` and `[rows]` (`numpy.load(file, mmap_mode="r")`).

    Returns:
        A `Source` that `core.to_device` leaves on the host.

    Raises:
        TypeError: not a source.

    Example:
        >>> from ctrain_jax import core, streams
        >>> stream = streams.class_incremental(on_host(streams.digits()), 5)
        >>> list(core.to_device(stream).source["train"])
        ['labels']
    """
    if not isinstance(source, Source):
        raise TypeError(f"on_host: source must be a Source, got {type(source).__name__}; make one with streams.arrays.")
    train, test = ({**part, "inputs": HostRows(part["inputs"])} for part in (source.train, source.test))
    return source._replace(train=train, test=test)
