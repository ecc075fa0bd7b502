"""Both ends of a disk stream, and requests to send through them, for tests."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES
from services.node_agent.page_codec.contents import CONTENT_BYTES
from services.node_agent.page_codec.disk.decoder import DiskDecoder
from services.node_agent.page_codec.disk.encoder import DiskEncoder
from services.node_agent.page_codec.disk.format import MAX_OUT_BYTES
from services.node_agent.page_codec.disk.nbd_stream import NbdFacts
from services.node_agent.page_codec.hello import ALL, Technique
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from services.node_agent.page_codec.store import FileStore

KEY = bytes(32)


FLAGS = struct.pack(">I", 3)


NOISE = np.random.default_rng(7).bytes(64 * CONTENT_BYTES)


def write(offset: int, data: bytes, *, extended: bool = False) -> bytes:
    if extended:
        return struct.pack(">IHHQQQ", 0x21E41C71, 32, 1, 9, offset, len(data)) + data
    return struct.pack(">IHHQQI", 0x25609513, 0, 1, 9, offset, len(data)) + data


def block(number: int) -> bytes:
    return NOISE[number * CONTENT_BYTES :][:CONTENT_BYTES]


class Ends:
    """Both ends of one port's disk stream."""

    def __init__(self, folder: Path, *, techniques: frozenset[Technique] = ALL, keep: int | None = None) -> None:
        self.store = FileStore(folder, keep=keep or 1024)
        self.port = PortEncoder(KEY, techniques=techniques)
        self.encoder = DiskEncoder(self.port, NbdFacts())
        self.decoder = DiskDecoder(PortDecoder(lambda _: self.store), NbdFacts())
        self.wire_bytes = 0

    def carry(self, payloads: Sequence[bytes]) -> bytes:
        found = bytearray()
        for payload in payloads:
            self.wire_bytes += len(payload)
            given_out = [bytes(each) for each in self.decoder.decode(payload)]
            assert sum(map(len, given_out)) <= MAX_OUT_BYTES
            found += b"".join(given_out)
        return bytes(found)

    def send(self, data: bytes, cuts: Sequence[int] = (), *, flush: bool = False) -> bytes:
        found = bytearray()
        borders = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        for start, end in pairwise(borders):
            for at in range(start, end, MAX_CHUNK_BYTES):
                found += self.carry(self.encoder.encode(data[at : min(end, at + MAX_CHUNK_BYTES)]))
                if flush:
                    found += self.carry(self.encoder.flush())
                    assert not self.encoder.holds_back
        found += self.carry(self.encoder.flush())
        assert self.encoder.stats() == self.decoder.stats()
        return bytes(found)


def payload_sizes(ends: Ends, *chunks: bytes) -> list[int]:
    """How many payloads each chunk gives; all of it arrives."""
    counts, found = [], b""
    for chunk in chunks:
        payloads = ends.encoder.encode(chunk)
        found += ends.carry(payloads)
        counts.append(len(payloads))
    assert found + ends.carry(ends.encoder.flush()) == b"".join(chunks)
    return counts
