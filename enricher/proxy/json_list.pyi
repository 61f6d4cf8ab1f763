from collections.abc import Iterator

from msgspec import Raw

Text = bytes | memoryview | Raw

def elements(text: Text) -> Iterator[memoryview]:
    """The texts of a list's elements; of `null`: none. Raises Malformed if it is neither."""

def count(text: Text) -> int:
    """How many elements a list has; `null`: 0. Raises Malformed if it is neither."""

def place(part: Text, whole: Text) -> int:
    """Where a view of some bytes begins in them. Raises ValueError if it is no such view."""
