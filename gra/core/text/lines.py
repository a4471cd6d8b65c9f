"""Read the lines of a file in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

LONGEST_LINE = 64 << 20  # bytes
_PIECE = 1 << 20


class Lines(Protocol):
    """A source of bytes that gives a line, or the beginning of it."""

    def readline(self, most: int, /) -> bytes:
        """Read at most `most` bytes of the next line; nothing at the end."""


def bounded_lines(stream: Lines, longest: int = LONGEST_LINE) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines of a stream with their numbers, from 1.

    Args:
        stream: opened for reading bytes.
        longest: bytes that a line may have, its end included.

    Yields:
        The number and the line; None in place of a longer line, which is read and thrown away piece by piece.
    """
    number = 0
    while line := stream.readline(longest + 1):
        number += 1
        if len(line) <= longest:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(_PIECE)
        yield number, None
