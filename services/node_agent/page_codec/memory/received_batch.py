"""A memory batch as it arrived: its columns checked, and written as QEMU's stream. Pure. See `format`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, CodecError
from services.node_agent.page_codec.contents import (
    CONTENT_BYTES,
    MAX_NUMBER,
    NUMBER_BITS,
    Codes,
    ContentMissingError,
    ContentStore,
    Origin,
    Pages,
)
from services.node_agent.page_codec.memory.format import NAMED, MemoryColumn, MemoryKind
from services.node_agent.page_codec.memory.qemu_format import PAGE_BITS, XBZRLE_ENCODING, RamFlag

MAX_OUT_BYTES: Final = 2 * MAX_CHUNK_BYTES
"""Most that a batch may become."""

_FLAGS: Final = np.array([0, RamFlag.ZERO, RamFlag.PAGE, RamFlag.PAGE, RamFlag.PAGE, RamFlag.XBZRLE], dtype=np.int64)
_BODY_BYTES: Final = np.array([0, 1, CONTENT_BYTES, CONTENT_BYTES, CONTENT_BYTES, 3], dtype=np.int64)
"""By kind; opaque elements and deltas have their own length on top."""
_HEAD_BYTES: Final = 8
_DELTA_ENCODING: Final = bytes([XBZRLE_ENCODING])

Kinds = NDArray[np.uint8]


class ReceivedBatch:
    """One batch; `read` it, then `write` until that succeeds."""

    def __init__(self, columns: Sequence[memoryview], *, last_page: int, last_code: int) -> None:
        get = columns.__getitem__
        kinds = np.frombuffer(get(MemoryColumn.KINDS), dtype=np.uint8)
        self._named = (kinds & NAMED) > 0
        self._kinds: Kinds = kinds & np.uint8(~NAMED & 0xFF)
        # Pages and codes come as differences to the one before, also across batches: zstd packs small numbers well.
        differences = np.frombuffer(get(MemoryColumn.PAGES), dtype="<i4")
        self._pages = last_page + np.cumsum(differences, dtype=np.int64)
        self._names = _texts(get(MemoryColumn.NAMES))
        self._opaque = _pieces(get(MemoryColumn.OPAQUE_BYTES), np.frombuffer(get(MemoryColumn.OPAQUE), dtype="<u4"))
        code_differences = np.frombuffer(get(MemoryColumn.CODES), dtype="<u4")
        self._codes: Codes = np.uint32(last_code) + np.cumsum(code_differences, dtype=np.uint32)
        self._deltas = _pieces(get(MemoryColumn.DELTAS), np.frombuffer(get(MemoryColumn.SIZES), dtype="<u2"))
        self._literals = np.frombuffer(get(MemoryColumn.LITERALS), dtype=np.uint8).reshape(-1, CONTENT_BYTES)
        self._incompressible = np.frombuffer(get(MemoryColumn.INCOMPRESSIBLE), dtype=np.uint8).reshape(
            -1, CONTENT_BYTES
        )
        self._to_number = bytes(get(MemoryColumn.NUMBERED)) == b"\x01"
        self.last_page = int(self._pages[-1]) if len(self._pages) else last_page
        self.last_code = int(self._codes[-1]) if len(self._codes) else last_code

    @classmethod
    def read(cls, columns: Sequence[memoryview], *, last_page: int, last_code: int) -> Self:
        """Raises CodecError when the columns do not fit each other."""
        if len(columns) != len(MemoryColumn):
            raise CodecError(finding=f"a memory batch of {len(columns)} columns")
        try:
            batch = cls(columns, last_page=last_page, last_code=last_code)
            batch._check()
        except (ValueError, IndexError) as error:
            raise CodecError(finding=f"a memory batch contradicts itself: {error}") from error
        return batch

    def _check(self) -> None:
        kinds = self._kinds
        if len(kinds) and int(kinds.max()) >= len(_FLAGS):
            raise ValueError(f"kind {int(kinds.max())}")
        if (self._named & (kinds == MemoryKind.OPAQUE)).any():
            raise ValueError("a name for what is no record")
        have = np.bincount(kinds, minlength=len(_FLAGS)).tolist()
        of = (len(self._opaque), have[MemoryKind.ZERO], len(self._literals), len(self._incompressible))
        told = [*of, len(self._codes), len(self._deltas)]
        if have != told or len(self._pages) != len(kinds) - have[0] or len(self._names) != int(self._named.sum()):
            raise ValueError(f"kinds tell of {have} elements, columns of {told}")
        if len(self._pages) and (int(self._pages.min()) < 0 or int(self._pages.max()) >= 1 << 40):
            raise ValueError("a page number out of range")
        size = _HEAD_BYTES * len(self._pages) + int(_BODY_BYTES[kinds].sum())
        size += sum(map(len, self._opaque)) + sum(map(len, self._deltas)) + sum(map(len, self._names))
        if size > MAX_OUT_BYTES:
            raise ValueError(f"it becomes {size} bytes, {MAX_OUT_BYTES} are allowed")

    # ---- writing ----

    def write(self, store: ContentStore) -> bytes:
        """The stream's bytes. Raises CodecError; ContentMissingError where another call may succeed."""
        contents = self._contents(store)
        is_record = self._kinds != MemoryKind.OPAQUE
        flags = _FLAGS[self._kinds[is_record]] | np.where(self._named[is_record], 0, RamFlag.CONTINUE)
        heads = ((self._pages << PAGE_BITS) | flags).astype(">u8").view(np.uint8).reshape(-1, _HEAD_BYTES)
        groups = _GROUPS[self._kinds] | np.where(self._named, NAMED, 0).astype(np.uint8)
        parts: list[bytes | memoryview] = []
        opaque, deltas, names = iter(self._opaque), iter(self._deltas), iter(self._names)
        record = content = 0
        # Neighbours of one group are written by one numpy call; only what has its own length or name is written singly.
        for group, count in _runs(groups):
            if group == MemoryKind.OPAQUE:
                parts += [next(opaque) for _ in range(count)]
                continue
            head = heads[record : record + count]
            record += count
            match group:
                case MemoryKind.ZERO:
                    parts.append(np.pad(head, ((0, 0), (0, 1))).tobytes())
                case MemoryKind.LITERAL:
                    parts.append(np.hstack([head, contents[content : content + count]]).tobytes())
                    content += count
                case MemoryKind.DELTA:
                    for row in range(count):
                        parts += [head[row].tobytes(), *_delta(next(deltas))]
                case _:
                    for row in range(count):
                        parts += [head[row].tobytes(), next(names)]
                        if group == NAMED | MemoryKind.ZERO:
                            parts.append(b"\0")
                        elif group == NAMED | MemoryKind.DELTA:
                            parts += _delta(next(deltas))
                        else:
                            parts.append(contents[content].tobytes())
                            content += 1
        return b"".join(parts)

    def _contents(self, store: ContentStore) -> Pages:
        """What stands in all full records, in order; takes in the new ones first, once."""
        kinds = self._kinds[_GROUPS[self._kinds] == MemoryKind.LITERAL]
        contents: Pages = np.empty((len(kinds), CONTENT_BYTES), dtype=np.uint8)
        contents[kinds == MemoryKind.LITERAL] = self._literals
        contents[kinds == MemoryKind.INCOMPRESSIBLE] = self._incompressible
        # Only once: after ContentMissingError `write` is called again, and these have their numbers already.
        if self._to_number:
            store.append(Origin.MEMORY, contents[kinds != MemoryKind.REFERENCE])
            self._to_number = False
        places = np.flatnonzero(kinds == MemoryKind.REFERENCE)
        origins = self._codes >> NUMBER_BITS
        for origin in np.unique(origins).tolist():
            of_it = origins == origin
            contents[places[of_it]] = _fetch(store, origin, self._codes[of_it] & np.uint32(MAX_NUMBER))
        return contents


_GROUPS: Final = np.array(
    [
        MemoryKind.OPAQUE,
        MemoryKind.ZERO,
        MemoryKind.LITERAL,
        MemoryKind.LITERAL,
        MemoryKind.LITERAL,
        MemoryKind.DELTA,
    ],
    dtype=np.uint8,
)
"""Kinds that are written alike."""


def _fetch(store: ContentStore, origin: int, numbers: Codes) -> Pages:
    try:
        return store.fetch(Origin(origin), numbers)
    except ContentMissingError as error:
        if error.origin is Origin.MEMORY:  # this lane's own will never come; the others' may, and KNOWN is asked for
            raise CodecError(finding=error.finding) from error
        raise
    except ValueError as error:
        raise CodecError(finding=f"contents of origin {origin}") from error


def _delta(delta: memoryview) -> tuple[bytes, bytes, memoryview]:
    return _DELTA_ENCODING, len(delta).to_bytes(2), delta


def _texts(data: memoryview) -> list[bytes]:
    """Names with their length byte."""
    texts = []
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        if end > len(data):
            raise ValueError("a name is cut short")
        texts.append(bytes(data[at:end]))
        at = end
    return texts


def _pieces(data: memoryview, sizes: NDArray[np.unsignedinteger]) -> list[memoryview]:
    ends = np.cumsum(sizes, dtype=np.int64).tolist()
    if (ends[-1] if ends else 0) != len(data):
        raise ValueError("lengths do not add up to the column")
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def _runs(groups: Kinds) -> list[tuple[int, int]]:
    """Value and length of each run."""
    borders = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
    return [(int(groups[at]), end - at) for at, end in itertools.pairwise(borders) if end > at]
