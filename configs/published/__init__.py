"""Recipes of published tables, each with the numbers that were published."""

from typing import NamedTuple


class Published(NamedTuple):
    """A number to meet: final accuracy in percent."""

    accuracy: float
    source: str  # where it was read, in the words of the table's own header
