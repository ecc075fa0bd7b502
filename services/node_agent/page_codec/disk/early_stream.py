"""The wire format of the early transfer: disk contents sent before the disk streams, which then refer to them. Pure.

The first payload is a hello. Each other one is a batch (`batch`) of these columns; integers little-endian:

    first    u32: the number of the first content in origin DISK
    full     contents of 4 KiB; their numbers follow each other

No message says where a content belongs: the disk streams do. A content that the guest overwrites before it is copied
was sent in vain, which costs bytes only.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from services.node_agent.page_codec.batch import STORED_LEVEL, BatchPacker, BatchUnpacker, Column
from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, CodecError
from services.node_agent.page_codec.contents import CONTENT_BYTES, ContentStore, Origin
from services.node_agent.page_codec.hello import Technique
from services.node_agent.page_codec.pace import DEFAULT_LEVEL
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder

_COLUMNS: Final = 2


class EarlyEncoder:
    """The donor's side.

    What `encode` returns must be sent, and before anything that is encoded later: its contents have their numbers, and
    are referred to. So it is one payload.
    """

    def __init__(self, port: PortEncoder) -> None:
        self._port = port
        self._packer = BatchPacker(level=DEFAULT_LEVEL if Technique.COMPRESS in port.techniques else STORED_LEVEL)
        # The disk streams refer to the newest half of what the recipient holds, and have contents of their own.
        self._most = port.hello.keep // 4
        self.sent = 0
        """Contents so far."""

    @property
    def takes(self) -> bool:
        """Whether more may be sent. Without dedup nothing would refer to it."""
        return self.sent < self._most and Technique.DEDUP in self._port.techniques

    def greet(self) -> bytes:
        """The first payload."""
        return self._port.hello.encode()

    def encode(self, data: bytes) -> bytes:
        """A payload of whole contents, at most a chunk of them: what the recipient has not, and is not zero.

        Empty where there is none.
        """
        if len(data) > MAX_CHUNK_BYTES or len(data) % CONTENT_BYTES:
            raise ValueError(f"{len(data)} bytes are no whole contents, or more than a chunk")
        pages = np.frombuffer(data, dtype=np.uint8).reshape(-1, CONTENT_BYTES)
        pages = pages[pages.any(axis=1)]
        contents = self._port.contents
        first = contents.next_number(Origin.DISK)
        _, fresh = contents.place(Origin.DISK, contents.ids(pages.tobytes()))
        if not fresh.any():
            return b""
        self.sent += int(fresh.sum())
        return self._packer.pack([Column(first.to_bytes(4, "little")), Column(pages[fresh].tobytes())])


class EarlyDecoder:
    """The recipient's side."""

    def __init__(self, port: PortDecoder) -> None:
        self._port = port
        self._unpacker = BatchUnpacker()
        self._store: ContentStore | None = None
        self.stored = 0
        """Contents so far."""

    def receive(self, payload: bytes | memoryview) -> None:
        """Store what came. Raises CodecError for damage and for numbers that are taken, OSError where it cannot."""
        if self._store is None:
            self._store = self._port.greet(payload)
            return
        columns = self._unpacker.unpack(payload)
        if len(columns) != _COLUMNS:
            raise CodecError(finding=f"a batch of {len(columns)} columns in an early transfer")
        first, full = columns
        if len(first) != 4 or len(full) % CONTENT_BYTES or not len(full):
            raise CodecError(finding=f"{len(full)} bytes of contents with a number of {len(first)} bytes")
        pages = np.frombuffer(full, dtype=np.uint8).reshape(-1, CONTENT_BYTES)
        self._store.insert(Origin.DISK, int.from_bytes(first, "little"), pages)
        self.stored += len(pages)
