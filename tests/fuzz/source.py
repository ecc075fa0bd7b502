"""Decisions out of bytes: what makes an engine's input into a structured one. Pure; an empty source says 0.

Our own and not atheris' FuzzedDataProvider, so that an input means the same to every engine and can be replayed
without any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

T = TypeVar("T")
MOST_PIECES: Final = 500
"""A long input byte by byte says nothing new, and takes seconds."""


class Source:
    """Reads `data` from its begin on."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        """At most `size` bytes."""
        taken = self._data[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.left)

    def number(self, size_bytes: int) -> int:
        """An unsigned number of so many bytes."""
        return int.from_bytes(self.take(size_bytes))

    def below(self, limit: int) -> int:
        """0 to limit - 1."""
        return self.number(1 if limit <= 256 else 4) % limit

    def one_in(self, chances: int) -> bool:
        """True once in so many times; False for an empty source."""
        return self.below(chances) == chances - 1

    def pick(self, choices: Sequence[T]) -> T:
        """One of them."""
        return choices[self.below(len(choices))]


def damaged(source: Source, data: bytes) -> bytes:
    """`data` after one change: a byte, a number at a border, a cut, a piece twice or gone."""
    if not data:
        return source.take(8)
    at = source.below(len(data))
    size = 1 + source.below(16)
    match source.below(7):
        case 0:
            return data[:at] + bytes([data[at] ^ (1 << source.below(8))]) + data[at + 1 :]
        case 1:
            return data[:at] + source.take(size) + data[at + size :]
        case 2:
            return data[:at] + source.take(size) + data[at:]
        case 3:
            return data[:at]
        case 4:
            return data[:at] + data[at + size :]
        case 5:
            return data[: at + size] + data[at:]
        case _:
            border = source.pick((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"\xff\0\0\0"))
            return data[:at] + border + data[at + len(border) :]


def pieces(source: Source, data: bytes) -> list[bytes]:
    """`data` cut into pieces, in one of several manners."""
    step = source.pick((len(data) or 1, 1, 7, 100, 4096, 5000, 65536))
    step = max(step, 1 + len(data) // MOST_PIECES)
    return [data[at : at + step] for at in range(0, len(data), step)]
