"""Which codec a port's streams use at one end, and what they share. Owns the recipient's store; knows no socket.

At the donor, pages and blocks go out through the port's page-aware encoders; what comes back (return path, NBD replies)
is small and uses the chunk codec. At the recipient it is the other way round.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from services.node_agent.lanes.arrivals import Arrivals
from services.node_agent.page_codec.codec import ChunkDecoder, ChunkEncoder
from services.node_agent.page_codec.contents import KEY_BYTES, Origin, Pages
from services.node_agent.page_codec.copy_file import CopyFile
from services.node_agent.page_codec.disk.decoder import DiskDecoder
from services.node_agent.page_codec.disk.encoder import DiskEncoder
from services.node_agent.page_codec.disk.nbd_stream import NbdFacts, ReplyScanner
from services.node_agent.page_codec.disk.replies import ReplyDecoder, ReplyEncoder
from services.node_agent.page_codec.hello import ALL, Hello, Technique
from services.node_agent.page_codec.memory.decoder import MemoryDecoder
from services.node_agent.page_codec.memory.encoder import MemoryEncoder
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from services.node_agent.page_codec.raw_codec import RawDecoder, RawEncoder
from services.node_agent.page_codec.store import FileStore, KnownReader, NoStore
from services.node_agent.page_codec.zstd_codec import ZstdDecoder, ZstdEncoder
from shared.logs import get_logger
from shared.topology import Lane

log = get_logger(__name__)

Pair = tuple[ChunkEncoder, ChunkDecoder]


class PortCodecs(Protocol):
    """Makes the codecs of one end's streams."""

    arrivals: Arrivals

    def pair(self, lane: Lane) -> Pair:
        """For one new stream of a lane: what encodes this host's bytes, and what decodes the other's."""
        ...

    def close(self) -> None:
        """Give up what the streams shared."""
        ...


class DonorCodecs:
    """The end that the guest leaves. `folder` keeps the memory that goes in full, for a return port.

    In `scratch` a file without a name may grow to 1 GiB while the port runs.
    """

    def __init__(self, folder: Path, *, scratch: Path, without: Collection[Technique] = ()) -> None:
        self.arrivals = Arrivals()
        self.techniques = ALL - frozenset(without)
        self.port = PortEncoder(os.urandom(KEY_BYTES), techniques=self.techniques)
        self._folder = folder
        self._scratch = scratch
        self._sent: FileStore | None = None
        self._copies: list[CopyFile] = []
        self.port.open_copies = self._open_copies
        if Technique.CACHE in self.techniques:
            self.port.keeper = self._keep

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
        """Close what is kept, forget what was sent; idempotent."""
        self.port.keeper = None
        self.port.contents.forget()
        for copies in self._copies:
            copies.close()
        if self._sent is not None:
            self._sent.close()
            self._sent = None

    def _open_copies(self) -> CopyFile:
        """Without a file there are no deltas, and the port goes on."""
        try:
            self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._scratch, buffering=0) as file:
                copies = CopyFile(os.dup(file.fileno()), _deltas_end)
        except OSError as error:
            _deltas_end(error)
            copies = CopyFile.in_memory(_deltas_end)
            copies.close()
        self._copies.append(copies)
        return copies

    def _keep(self, pages: Pages) -> None:
        """A return port that costs more is better than a failed port: a full disk ends the keeping, not the port."""
        try:
            if self._sent is None:
                self._sent = FileStore(self._folder, keep=self.port.hello.keep)
            self._sent.append(Origin.MEMORY, pages)
        except OSError as error:
            log.warning("memory cache stopped", error=str(error))
            self.port.keeper = None


class RecipientCodecs:
    """The end where the guest arrives. `folder` is this port's own; what is in it is kept for the next port.

    With `stores` false nothing of the guest is stored, not even while the port runs.
    """

    def __init__(self, folder: Path, *, without: Collection[Technique] = (), stores: bool = True) -> None:
        self.arrivals = Arrivals()
        self.techniques = ALL - frozenset(without)
        self.port = PortDecoder(self._make_store if stores else lambda _hello: NoStore())
        self._folder = folder
        self._store: FileStore | None = None
        self._known: KnownReader | None = None

    def know(self, known: KnownReader) -> None:
        """The donor may refer to these from now on. Whoever gives them closes them."""
        self._known = known
        if self._store is not None:
            self._store.known = known

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
        """Close the store; idempotent."""
        if self._store is not None:
            self._store.close()
            self._store = None
        if Technique.CACHE not in self.techniques:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _make_store(self, hello: Hello) -> FileStore:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._store = FileStore(self._folder, keep=hello.keep)
        self._store.known = self._known
        return self._store


def _deltas_end(error: OSError) -> None:
    log.warning("deltas stopped; changed pages are sent whole", error=str(error))


def _chunk_pair(techniques: frozenset[Technique]) -> Pair:
    if Technique.COMPRESS in techniques:
        return ZstdEncoder(), ZstdDecoder()
    return RawEncoder(), RawDecoder()
