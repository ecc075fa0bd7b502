"""Which codec a port's streams use at one end, and what they share. Owns the recipient's store; knows no socket.

At the donor, pages and blocks go out through the port's page-aware encoders; what comes back (return path, NBD replies)
is small and uses the chunk codec. At the recipient it is the other way round.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from services.node_agent.lanes.pump import Arrivals
from services.node_agent.nbd_stream import NbdFacts, ReplyScanner
from services.node_agent.page_codec.codec import ChunkDecoder, ChunkEncoder
from services.node_agent.page_codec.contents import KEY_BYTES
from services.node_agent.page_codec.disk_stream import DiskDecoder, DiskEncoder
from services.node_agent.page_codec.hello import ALL, Hello, Technique
from services.node_agent.page_codec.memory_decoder import MemoryDecoder
from services.node_agent.page_codec.memory_encoder import MemoryEncoder
from services.node_agent.page_codec.nbd_replies import ReplyDecoder, ReplyEncoder
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from services.node_agent.page_codec.raw_codec import RawDecoder, RawEncoder
from services.node_agent.page_codec.store import FileStore
from services.node_agent.page_codec.zstd_codec import ZstdDecoder, ZstdEncoder
from shared.topology import Lane

Pair = tuple[ChunkEncoder, ChunkDecoder]


class StreamCodecs(Protocol):
    """Makes the codecs of one end's streams."""

    arrivals: Arrivals

    def pair(self, lane: Lane) -> Pair:
        """For one new stream of a lane: what encodes this host's bytes, and what decodes the other's."""
        ...

    def close(self) -> None:
        """Give up what the streams shared."""
        ...


class DonorCodecs:
    """The end that the guest leaves."""

    def __init__(self, *, without: Collection[Technique] = ()) -> None:
        self.arrivals = Arrivals()
        self.techniques = ALL - frozenset(without)
        self.port = PortEncoder(os.urandom(KEY_BYTES), techniques=self.techniques)

    def pair(self, lane: Lane) -> Pair:
        """Pages and blocks out, the chunk codec in."""
        encoder, decoder = _chunk_pair(self.techniques)
        match lane:
            case Lane.DISK:
                facts = NbdFacts()
                return DiskEncoder(self.port, facts), ReplyDecoder(ReplyScanner(facts), decoder)
            case Lane.MEMORY:
                return MemoryEncoder(self.port), decoder
            case _:
                return encoder, decoder

    def close(self) -> None:
        """Nothing is held but memory."""


class RecipientCodecs:
    """The end where the guest arrives. `folder` is this port's own; it is removed at the end."""

    def __init__(self, folder: Path, *, without: Collection[Technique] = ()) -> None:
        self.arrivals = Arrivals()
        self.techniques = ALL - frozenset(without)
        self.port = PortDecoder(self._make_store)
        self._folder = folder
        self._store: FileStore | None = None

    def pair(self, lane: Lane) -> Pair:
        """The chunk codec out, pages and blocks in."""
        encoder, decoder = _chunk_pair(self.techniques)
        match lane:
            case Lane.DISK:
                facts = NbdFacts()
                return ReplyEncoder(ReplyScanner(facts), encoder), DiskDecoder(self.port, facts)
            case Lane.MEMORY:
                return encoder, MemoryDecoder(self.port)
            case _:
                return encoder, decoder

    def close(self) -> None:
        """Remove the store; idempotent."""
        if self._store is not None:
            self._store.close()
            self._store = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make_store(self, hello: Hello) -> FileStore:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._store = FileStore(self._folder, keep=hello.keep)
        return self._store


def _chunk_pair(techniques: frozenset[Technique]) -> Pair:
    if Technique.COMPRESS in techniques:
        return ZstdEncoder(), ZstdDecoder()
    return RawEncoder(), RawDecoder()
