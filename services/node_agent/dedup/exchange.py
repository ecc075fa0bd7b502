"""Before a transfer, the two node agents find out which contents the recipient already has. Both ends.

It uses a stream of the control lane labelled CONTENTS (messages: `page_codec.exchange.known`). The donor offers the
contents of the VM's disks and of what earlier ports of this VM left at its node. The recipient looks in its published
base images and in what earlier ports of this VM left there, never in other tenants' data. A failure here costs bytes,
not the port: without READY no content is known.

After READY the stream stays open: if a block at the recipient has changed, it asks for the content again, and the donor
sends it if its own copy is unchanged. If that has changed too, the port fails with that reason; nothing is guessed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.node_agent.dedup.base_images import published
from services.node_agent.dedup.block_index import BlockIndex
from services.node_agent.dedup.blocks import Scanned
from services.node_agent.dedup.file_scans import FileScans
from services.node_agent.dedup.known_blocks import KnownBlocks
from services.node_agent.lanes.arrivals import Arrivals
from services.node_agent.lanes.core.errors import LaneError, StreamError
from services.node_agent.lanes.patience import answer_within
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.contents import ContentMissingError, Numbers, Origin, Pages
from services.node_agent.page_codec.exchange import known as exchange
from services.node_agent.page_codec.port_codec import PortEncoder
from shared.logs import get_logger
from shared.page_stream.bodies import StreamKind

log = get_logger(__name__)

CONTENTS = "contents"
ANSWER_WITHIN_S = 60.0
"""For one message of the other end, outages of the link not counted."""
EXCHANGE_WITHIN_S = 25.0
"""At the donor, for the whole exchange, outages of the link not counted: an early start of the transfer is worth more.
What the recipient indexed meanwhile serves the next port."""


@dataclass(slots=True)
class ExchangeResult:
    """What the exchange found, and what `serve_blocks` needs. `exchanged_bytes` are payloads of both directions."""

    stream: LaneStream
    offers: int = 0
    exchanged_bytes: int = 0
    known: KnownBlocks | None = None

    @property
    def count(self) -> int:
        """Contents that the recipient has."""
        return 0 if self.known is None else len(self.known)


class _CountedStream:
    """A stream that counts its payload bytes and bounds each wait."""

    def __init__(self, stream: LaneStream) -> None:
        self._stream = stream
        self.bytes = 0

    async def send(self, payload: bytes) -> None:
        self.bytes += len(payload)
        await self._stream.write(payload)

    async def receive(self) -> bytes:
        async with answer_within(self._stream, ANSWER_WITHIN_S):
            payload = await self._stream.read()
        self.bytes += len(payload)
        return payload


async def offer_contents(
    control: LaneSession,
    port: PortEncoder,
    files: Sequence[Path],
    scans: FileScans,
    *,
    within_s: float = EXCHANGE_WITHIN_S,
) -> ExchangeResult:
    """The donor's side: find out what the recipient has of these files, and tell the port's encoders. Raises LaneError.

    Run `serve_blocks` afterwards, and then close `known`.
    """
    stream = control.open_stream(StreamKind.CONTROL, CONTENTS)
    result = ExchangeResult(stream)
    counted = _CountedStream(stream)
    try:
        async with answer_within(stream, within_s):
            await _offer(counted, port, files, scans, result)
        if result.known is None:
            stream.write_eof()
    except (StreamError, CodecError, TimeoutError, OSError) as error:
        log.warning("contents exchange failed", reason=str(error) or type(error).__name__)
        stream.reset("the exchange failed")
    result.exchanged_bytes = counted.bytes
    return result


async def _offer(
    counted: _CountedStream, port: PortEncoder, files: Sequence[Path], scans: FileScans, result: ExchangeResult
) -> None:
    offered = exchange.Offered(port.hello.key)
    await counted.send(offered.greet())
    if not exchange.read_have(await counted.receive()):
        return
    parts: dict[Path, Scanned] = {}
    seen: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
    for path in files:
        left = exchange.MAX_OFFERS - offered.offers - exchange.SAMPLE
        found = await scans.of(path, limit=max(left, 0))
        # What an earlier file has already is not offered twice.
        found = found.only(~np.isin(found.digests[:, 0], seen))
        if await _worth(counted, offered, found):
            seen = np.concatenate((seen, found.digests[:, 0]))
            parts[path] = found.only(await _offer_file(counted, offered, found))
    await counted.send(offered.commit())
    # The recipient assigns its numbers while the keyed ids are computed here.
    digests = [digest for part in parts.values() for digest in part.whole_digests()]
    ids, answer = await asyncio.gather(asyncio.to_thread(port.contents.ids_of, digests), counted.receive())
    count = exchange.read_ready(answer)
    result.offers = offered.offers
    known = sum(len(part.blocks) for part in parts.values())
    if count != known:
        raise CodecError(finding=f"the recipient numbered {count} contents, the donor {known}")
    file_of, contents = _join(list(parts.values()))
    result.known = await asyncio.to_thread(KnownBlocks, list(parts), file_of, contents.blocks, contents.digests)
    port.contents.learn(Origin.KNOWN, ids)


def _join(parts: Sequence[Scanned]) -> tuple[NDArray[np.int64], Scanned]:
    """All rows in one `Scanned`, and for each row the index of its part (int64)."""
    if not parts:
        return np.empty(0, dtype=np.int64), Scanned.empty()
    part_of = np.repeat(np.arange(len(parts)), [len(part.blocks) for part in parts]).astype(np.int64)
    blocks = np.concatenate([part.blocks for part in parts])
    return part_of, Scanned(blocks, np.concatenate([part.digests for part in parts]))


async def serve_blocks(result: ExchangeResult) -> None:
    """The donor's side after the exchange: send contents again that the recipient asks for, until the stream ends.

    A failed lane is reported by its session, not here.
    """
    known = result.known
    if known is None:
        return
    stream = result.stream
    try:
        while payload := await stream.read():
            for number in exchange.read_ask(payload):
                await stream.write(exchange.give(await asyncio.to_thread(_content, known, number)))
    except (LaneError, StreamError, CodecError) as error:
        log.info("serving of blocks ended", reason=str(error))


def _content(known: KnownBlocks, number: int) -> bytes:
    """The content, or b"" if the file no longer has it."""
    try:
        return known.fetch(np.array([number], dtype=np.uint32)).tobytes()
    except (ContentMissingError, OSError):
        return b""


async def _worth(counted: _CountedStream, offered: exchange.Offered, found: Scanned) -> bool:
    sample = found.digests[exchange.sample_of(found.digests)]
    if not len(sample):
        return False
    await counted.send(offered.offer(sample))
    hits = offered.receive_answer(sample, await counted.receive(), keep=False)
    return exchange.worth_offering(len(sample), int(hits.sum()))


async def _offer_file(counted: _CountedStream, offered: exchange.Offered, found: Scanned) -> NDArray[np.bool_]:
    """Offer all rows; returns which of them (bool) the recipient has.

    One batch is offered before the answer to the one before is read, so the link does not idle for a round trip.
    """
    parts = exchange.batches_of(found.digests)
    hits = np.zeros(len(found.digests), dtype=np.bool_)
    for ahead in range(len(parts) + 1):
        if ahead < len(parts):
            await counted.send(offered.offer(found.digests[parts[ahead]]))
        if ahead:
            part = parts[ahead - 1]
            hits[part] = offered.receive_answer(found.digests[part], await counted.receive())
    return hits


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the recipient looks. `images` is its catalogue of published base images, `cached` is of this VM only."""

    images: Path | None
    cached: tuple[Path, ...]
    index: BlockIndex

    def load(self) -> tuple[list[Path], NDArray[np.int64], Scanned]:
        """All files, and for every content its file and block. Blocking."""
        files: list[Path] = []
        scans: list[Scanned] = []
        for path in (*self.cached, *published(self.images)):
            try:
                scans.append(self.index.look_up(path, limit=exchange.MAX_OFFERS))
            except OSError as error:
                log.warning("file not indexed", file=str(path), reason=str(error))
                continue
            files.append(path)
        file_of, contents = _join(scans)
        return files, file_of, contents


def index_images(folder: Path, index: BlockIndex) -> None:
    """Index the catalogue before ports need it. Blocking. Raises OSError."""
    for path in published(folder):
        index.look_up(path, limit=exchange.MAX_OFFERS)


class AskingReader:
    """Reads blocks that the recipient has, and asks the donor for those that have changed. A `store.KnownReader`."""

    def __init__(self, known: KnownBlocks, arrivals: Arrivals) -> None:
        self._known = known
        self._arrivals = arrivals
        self._wanted: asyncio.Queue[int] = asyncio.Queue()
        self._asked: set[int] = set()
        self._trouble: str | None = None

    def fetch(self, numbers: Numbers) -> Pages:
        """The contents. Raises ContentMissingError while the donor is asked, CodecError if it no longer has them."""
        try:
            return self._known.fetch(numbers)
        except ContentMissingError as missing:
            if self._trouble is not None or not self._known.missing:
                raise CodecError(finding=self._trouble or missing.finding) from missing
            for number in set(self._known.missing) - self._asked:
                self._asked.add(number)
                self._wanted.put_nowait(number)
            raise

    async def serve(self, stream: LaneStream, index: BlockIndex) -> None:
        """Ask for what `fetch` missed, until cancelled, or until the donor does not have it. Raises LaneError."""
        try:
            while True:
                number = await self._wanted.get()
                path = self._known.path_of(number)
                log.warning("cached block changed, refetching", file=str(path), number=number)
                # The index is of a version of the file that no longer exists; the next port scans it again.
                index.forget(path)
                await stream.write(exchange.ask([number]))
                content = exchange.read_give(await stream.read())
                if not content or not self._known.store(number, content):
                    self._trouble = f"content {number} changed in {path} here and at the donor, too"
                self._arrivals.tell()
        except (StreamError, CodecError) as error:
            self._trouble = f"the donor gives no contents: {error}"
        finally:
            self._arrivals.tell()


async def answer_offers(stream: LaneStream, sources: Sources) -> KnownBlocks | None:
    """The recipient's side: answer the donor's offers. Returns the blocks that have numbers now, None if none has.

    Give them to the store, then call `tell_ready`. Raises LaneError, StreamError, CodecError, OSError, TimeoutError.
    """
    counted = _CountedStream(stream)
    key = exchange.read_greet(await counted.receive())
    files, file_of, contents = await asyncio.to_thread(sources.load)
    await counted.send(exchange.have(len(contents.blocks)))
    if not len(contents.blocks):
        return None
    table = await asyncio.to_thread(exchange.KnownTable, contents.digests, key)
    while (payload := await counted.receive())[:1] == bytes([exchange.OFFER]):
        await counted.send(table.answer(payload))
    if not payload:
        return None
    rows = table.commit(payload)
    return await asyncio.to_thread(KnownBlocks, files, file_of[rows], contents.blocks[rows], contents.digests[rows])


async def tell_ready(stream: LaneStream, known: KnownBlocks) -> None:
    """Tell the donor that references to these contents can be resolved now. Raises LaneError, StreamError."""
    await stream.write(exchange.ready(len(known)))
