"""The recipient's end of the disk stream: batches in, NBD bytes out. `format` has the wire format."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.node_agent.page_codec.batch import BatchUnpacker
from services.node_agent.page_codec.codec import CodecError, CodecStats
from services.node_agent.page_codec.contents import (
    CONTENT_BYTES,
    MAX_NUMBER,
    NUMBER_BITS,
    Codes,
    ContentStore,
    Origin,
    Pages,
)
from services.node_agent.page_codec.disk.format import _COLUMNS, _ORIGINS, MAX_OUT_BYTES, Run
from services.node_agent.page_codec.disk.nbd_stream import NbdError, NbdFacts, RequestScanner
from services.node_agent.page_codec.port_codec import PortDecoder


class DiskDecoder:
    """One NBD connection's requests, at the recipient. A `ChunkDecoder`.

    `decode` raises ContentMissingError while a content that it refers to has still to come from elsewhere: call it
    again with the same payload when more has arrived. Nothing of the payload was given out then.
    """

    def __init__(self, port: PortDecoder, facts: NbdFacts) -> None:
        self._port = port
        self._scanner = RequestScanner(facts)
        self._unpacker = BatchUnpacker()
        self._store: ContentStore | None = None
        self._waiting: _Columns | None = None
        self._raw_bytes = 0
        self._wire_bytes = 0

    def decode(self, payload: bytes | memoryview) -> list[bytes | memoryview]:
        """Bytes of the connection, checked to be NBD. Raises CodecError, and ContentMissingError as said above."""
        if self._store is None:
            self._store = self._port.greet(payload)
            self._wire_bytes += len(payload)
            return []
        columns = self._waiting
        if columns is None:
            columns = _Columns.read(self._unpacker.unpack(payload))
            # New contents first: references in the same batch may point to them.
            self._store.insert(Origin.DISK, columns.first, columns.full)
            self._waiting = columns
        chunk = columns.join(_fetch(self._store, columns))
        self._waiting = None
        try:
            self._scanner.scan(chunk)
        except NbdError as error:
            raise CodecError(finding=str(error)) from error
        self._raw_bytes += len(chunk)
        self._wire_bytes += len(payload)
        return [chunk] if len(chunk) else []

    def stats(self) -> CodecStats:
        """Counters so far."""
        return CodecStats(raw_bytes=self._raw_bytes, wire_bytes=self._wire_bytes)


@dataclass(frozen=True, slots=True)
class _Columns:
    """A batch as it came, checked: the runs use up the other columns exactly, and become MAX_OUT_BYTES at most."""

    kinds: list[int]
    counts: list[int]
    plain: memoryview
    codes: Codes
    first: int
    full: Pages
    size_bytes: int

    @classmethod
    def read(cls, columns: list[memoryview]) -> _Columns:
        if len(columns) != _COLUMNS:
            raise CodecError(finding=f"a disk batch of {len(columns)} columns")
        kinds, counts, plain, codes, first, full = columns
        references = len(codes) // 4
        if len(counts) != 4 * len(kinds) or len(codes) % 4 or len(full) % CONTENT_BYTES:
            raise CodecError(finding="the columns of a disk batch do not fit each other")
        run_kinds = np.frombuffer(kinds, dtype=np.uint8)
        run_counts = np.frombuffer(counts, dtype="<u4").astype(np.int64)
        if (run_kinds > max(Run)).any():
            raise CodecError(finding="a disk batch has runs of an unknown kind")
        used = np.bincount(run_kinds, weights=run_counts, minlength=len(Run)).astype(np.int64).tolist()
        numbered = len(first) == (4 if len(full) else 0)
        if used[Run.PLAIN] != len(plain) or used[Run.REFERENCE] != references or not numbered:
            raise CodecError(finding="the runs of a disk batch do not fit its columns")
        size = len(plain) + CONTENT_BYTES * sum(used[1:])
        if used[Run.FULL] * CONTENT_BYTES != len(full) or size > MAX_OUT_BYTES:
            raise CodecError(finding=f"the runs of a disk batch do not fit its columns, or {size} bytes are too many")
        # The reverse of the encoder's `_differences`, which begins before code 0, at 2^32 - 1.
        steps = np.frombuffer(codes, dtype="<u4").astype(np.uint32) + np.uint32(1)
        return cls(
            kinds=run_kinds.tolist(),
            counts=run_counts.tolist(),
            plain=plain,
            codes=np.cumsum(steps, dtype=np.uint32) - np.uint32(1),
            first=int.from_bytes(first, "little"),
            full=np.frombuffer(full, dtype=np.uint8).reshape(-1, CONTENT_BYTES),
            size_bytes=size,
        )

    def join(self, referred: Pages) -> memoryview:
        """All runs in order."""
        chunk = np.empty(self.size_bytes, dtype=np.uint8)
        plain, full = np.frombuffer(self.plain, dtype=np.uint8), self.full.reshape(-1)
        sources = {int(Run.PLAIN): plain, int(Run.FULL): full, int(Run.REFERENCE): referred.reshape(-1)}
        taken = dict.fromkeys(sources, 0)
        at = 0
        for kind, count in zip(self.kinds, self.counts, strict=True):
            size = count * CONTENT_BYTES if kind else count  # a PLAIN run counts bytes
            source = sources.get(kind)
            if source is None:
                chunk[at : at + size] = 0
            else:
                begin = taken[kind]
                chunk[at : at + size] = source[begin : begin + size]
                taken[kind] = begin + size
            at += size
        return chunk.data


def _fetch(store: ContentStore, columns: _Columns) -> Pages:
    origins = columns.codes >> NUMBER_BITS
    different = np.unique(origins).tolist()
    if unknown := [origin for origin in different if origin not in _ORIGINS]:
        raise CodecError(finding=f"origin {unknown[0]} is unknown")
    if len(different) == 1:
        return store.fetch(Origin(different[0]), columns.codes & np.uint32(MAX_NUMBER))
    pages = np.empty((len(columns.codes), CONTENT_BYTES), dtype=np.uint8)
    for origin in different:
        these = np.flatnonzero(origins == origin)
        pages[these] = store.fetch(Origin(origin), columns.codes[these] & np.uint32(MAX_NUMBER))
    return pages
