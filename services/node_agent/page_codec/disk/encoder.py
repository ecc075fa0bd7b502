"""The disk stream of a port: NBD's writes as contents, everything else as it is. Pure; both ends are here.

The donor's `DiskEncoder` finds the contents of WRITE in the NBD stream (`nbd_stream`), cuts them where the *disk* has
multiples of 4 KiB, and sends each block as zeros, as a reference to a content that the recipient holds, or in full.
The recipient's `DiskDecoder` puts the same bytes together again: exactly those, headers and cookies too.

A batch (`batch`) has these columns; integers little-endian:

    kinds    u8 per run: PLAIN, ZERO, FULL or REFERENCE
    counts   u32 per run: bytes of a PLAIN run, blocks of another
    plain    the bytes of the PLAIN runs
    codes    u32 per reference: its code (`contents`) less the last one's, less one, mod 2^32; a known file costs zeros
    first    u32, if there are FULL runs: the number of the first block of them in origin DISK
    full     the blocks of FULL runs; their numbers follow each other

The first payload is a hello. What the scanner calls opaque (no NBD, or TLS) goes as PLAIN runs.

A batch waits for the rest of the request that it ends in, while nothing in it is FULL: what a payload costs by itself
is most of what references cost. One with new contents leaves at once: other streams may refer to those already.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np

from services.node_agent.page_codec.batch import STORED_LEVEL, BatchPacker, Column
from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, CodecError, CodecStats
from services.node_agent.page_codec.contents import (
    CONTENT_BYTES,
    NUMBER_BITS,
    Codes,
    Origin,
)
from services.node_agent.page_codec.disk.format import MAX_OUT_BYTES, Kinds, Run
from services.node_agent.page_codec.disk.nbd_stream import NbdError, NbdFacts, RequestScanner, Span
from services.node_agent.page_codec.hello import Technique
from services.node_agent.page_codec.pace import DEFAULT_LEVEL, Pace
from services.node_agent.page_codec.port_codec import PortEncoder

# To read an enum's member costs more than its use here, and this runs thousands of times a second.
_ZERO, _FULL, _REFERENCE = (np.uint8(kind) for kind in (Run.ZERO, Run.FULL, Run.REFERENCE))
_ORIGIN_NAMES: Final = tuple(origin.name.lower() for origin in sorted(Origin))

_LIGHT_BYTES: Final = 2048
"""Columns with which a batch may wait: together with a chunk of new contents they must fit one DATA frame."""


@dataclass(slots=True)
class _Batch:
    """What is to go into one payload."""

    runs: list[tuple[int, int]] = field(default_factory=list)
    plain: list[memoryview] = field(default_factory=list)
    codes: list[Codes] = field(default_factory=list)
    full: list[bytes] = field(default_factory=list)
    first: int = 0
    """The number of the first FULL block, where there is one."""
    plain_bytes: int = 0
    raw_bytes: int = 0

    @property
    def may_wait(self) -> bool:
        """Whether nothing in it is of use to other streams, and more fits in."""
        column_bytes = self.plain_bytes + 5 * len(self.runs) + sum(each.nbytes for each in self.codes)
        return not self.full and column_bytes <= _LIGHT_BYTES

    def add_plain(self, data: memoryview) -> None:
        """Bytes that are no blocks."""
        if not len(data):
            return
        self.plain.append(data)
        self.plain_bytes += len(data)
        self.raw_bytes += len(data)
        if self.runs and self.runs[-1][0] == Run.PLAIN:
            self.runs[-1] = (Run.PLAIN, self.runs[-1][1] + len(data))
        else:
            self.runs.append((Run.PLAIN, len(data)))

    def columns(self) -> list[Column]:
        """As they are packed."""
        table = np.array(self.runs, dtype=np.uint32).reshape(-1, 2)
        return [
            Column(table[:, 0].astype(np.uint8).tobytes()),
            Column(table[:, 1].astype("<u4").tobytes()),
            Column(b"".join(self.plain)),
            Column(_differences(self.codes).tobytes()),
            Column(self.first.to_bytes(4, "little") if self.full else b""),
            Column(b"".join(self.full)),
        ]


class DiskEncoder:
    """One NBD connection's requests, at the donor. A `ChunkEncoder`."""

    def __init__(self, port: PortEncoder, facts: NbdFacts, *, level: int = DEFAULT_LEVEL) -> None:
        """`facts` are this connection's, shared with whoever scans its replies."""
        self._port = port
        self._scanner = RequestScanner(facts)
        compress = Technique.COMPRESS in port.techniques
        self._packer = BatchPacker(level=level if compress else STORED_LEVEL)
        self._pace = Pace(level=level) if compress and Technique.ADAPT in port.techniques else None
        self._greeted = False
        self._tail = b""
        self._batch = _Batch()
        self._raw_bytes = 0
        self._wire_bytes = 0
        self.raw_bytes_by_kind: Counter[str] = Counter()
        """How each raw byte went: plain, zero, full, or the origin that was referred to."""

    @property
    def holds_back(self) -> bool:
        """Whether the start of a block waits for its end, or a batch for the rest of its request."""
        return bool(self._tail or self._batch.runs)

    def adapt(self, *, busy_s: float, blocked_s: float, starved_s: float) -> None:
        """See `Adaptive`."""
        if self._pace is not None:
            self._packer.level = self._pace.sample(busy_s=busy_s, blocked_s=blocked_s, starved_s=starved_s)

    def encode(self, chunk: bytes) -> list[bytes]:
        """Payloads of at most a chunk each. Raises CodecError for a damaged stream."""
        if not chunk:
            return []
        self._raw_bytes += len(chunk)
        payloads = [] if self._greeted else [self._port.hello.encode()]
        self._greeted = True
        # With the tail in front, a whole chunk might not fit into one batch.
        border = MAX_CHUNK_BYTES - len(self._tail)
        for part in (chunk[:border], chunk[border:]):
            if part:
                payloads += self._encode_part(part)
        self._wire_bytes += sum(map(len, payloads))
        return payloads

    def flush(self) -> list[bytes]:
        """What waits. With the start of a block whose rest does not come now; its rest will not be a block either."""
        self._batch.add_plain(memoryview(self._tail))
        self._tail = b""
        payloads = self._pack()
        self._wire_bytes += sum(map(len, payloads))
        return payloads

    def stats(self) -> CodecStats:
        """Counters so far."""
        return CodecStats(raw_bytes=self._raw_bytes, wire_bytes=self._wire_bytes, contents=dict(self.raw_bytes_by_kind))

    def _encode_part(self, part: bytes) -> list[bytes]:
        try:
            spans = self._scanner.scan(part)
        except NbdError as error:
            raise CodecError(finding=str(error)) from error
        if held := len(self._tail):
            part = self._tail + part
            spans = _with_tail(spans, held)
            self._tail = b""
        view = memoryview(part)
        payloads = self._pack() if self._batch.raw_bytes + len(view) > MAX_OUT_BYTES else []
        more_comes = self._scanner.within_contents
        for span in spans:
            if span.offset is None:
                self._batch.add_plain(view[span.start : span.end])
            else:
                last = span.end == len(view) and more_comes
                self._add_contents(view[span.start : span.end], span.offset, more_comes=last)
        if not (more_comes and self._batch.may_wait):
            payloads += self._pack()
        return payloads

    def _add_contents(self, data: memoryview, offset: int, *, more_comes: bool) -> None:
        """Blocks where the disk has them. A block that is cut at the end waits, if more of the payload comes."""
        head = min(len(data), -offset % CONTENT_BYTES)
        tail = (len(data) - head) % CONTENT_BYTES
        self._batch.add_plain(data[:head])
        if blocks := data[head : len(data) - tail]:
            self._add_blocks(blocks)
        if more_comes:
            self._tail = bytes(data[len(data) - tail :])
        else:
            self._batch.add_plain(data[len(data) - tail :])

    def _add_blocks(self, blocks: memoryview) -> None:
        batch, first = self._batch, self._port.contents.next_number(Origin.DISK)
        kinds, references = self._place(blocks)
        batch.runs += _runs_of(kinds)
        batch.codes.append(references)
        batch.raw_bytes += len(blocks)
        full = kinds == _FULL
        if full.any():
            batch.first = batch.first if batch.full else first
            batch.full.append(np.frombuffer(blocks, dtype=np.uint8).reshape(-1, CONTENT_BYTES)[full].tobytes())

    def _pack(self) -> list[bytes]:
        """The batch's payload; none for an empty one."""
        batch, self._batch = self._batch, _Batch()
        if not batch.runs:
            return []
        self.raw_bytes_by_kind["plain"] += batch.plain_bytes
        return [self._packer.pack(batch.columns())]

    def _place(self, blocks: memoryview) -> tuple[Kinds, Codes]:
        """Each block's kind, and the codes of those that are references."""
        pages = np.frombuffer(blocks, dtype=np.uint64).reshape(-1, CONTENT_BYTES // 8)
        # Where there is anything it nearly always begins so, and to look at all of it costs a good part of what ids do.
        written = pages[:, 0] != 0
        doubtful = np.flatnonzero(~written)
        written[doubtful] = pages[doubtful].any(axis=1)
        there = int(written.sum())
        kinds = np.where(written, _FULL, _ZERO)
        references: Codes = np.empty(0, dtype=np.uint32)
        if there and Technique.DEDUP in self._port.techniques:
            index = self._port.contents
            data = blocks if there == len(kinds) else memoryview(pages[written].tobytes())
            codes, fresh = index.place(Origin.DISK, index.ids(data))
            kinds[written] = np.where(fresh, _FULL, _REFERENCE)
            references = codes[~fresh]
            for origin, count in enumerate(np.bincount(references >> NUMBER_BITS).tolist()):
                self.raw_bytes_by_kind[_ORIGIN_NAMES[origin]] += count * CONTENT_BYTES
        else:
            self._port.contents.skip(Origin.DISK, there)
        self.raw_bytes_by_kind["zero"] += (len(kinds) - there) * CONTENT_BYTES
        self.raw_bytes_by_kind["full"] += (there - len(references)) * CONTENT_BYTES
        return kinds, references


def _with_tail(spans: list[Span], held: int) -> list[Span]:
    """The spans of a part in front of which `held` bytes were put, which belong to the content that it begins with."""
    first, *rest = spans
    moved = [Span(span.start + held, span.end + held, span.offset) for span in rest]
    if first.offset is None:
        return [Span(0, first.end + held, None), *moved]
    return [Span(0, first.end + held, first.offset - held), *moved]


def _runs_of(kinds: Kinds) -> list[tuple[int, int]]:
    borders = [0, *(np.flatnonzero(kinds[1:] != kinds[:-1]) + 1).tolist(), len(kinds)]
    return [(int(kinds[start]), end - start) for start, end in pairwise(borders)]


def _differences(codes: list[Codes]) -> Codes:
    every = np.concatenate(codes) if codes else np.empty(0, dtype=np.uint32)
    # The code before the first one counts as -1, so that the first is sent as it is.
    before = np.concatenate((np.full(1, 0xFFFFFFFF, dtype=np.uint32), every[:-1])) if len(every) else every
    return (every - before - np.uint32(1)).astype("<u4")
