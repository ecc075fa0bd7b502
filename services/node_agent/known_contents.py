"""Before a transfer: the two node agents find out which contents the recipient has already (`known_exchange`).

On a stream of the control lane labelled CONTENTS. The donor offers the contents of the VM's disks and of what earlier
ports of this VM left here; the recipient looks among its published base images and what earlier ports of this VM left
there, never among other tenants' data. Whatever fails here costs bytes, not the port: without READY nothing is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from services.node_agent.block_files import BlockIndex, KnownContents, Scanned, scan
from services.node_agent.lanes.errors import StreamError
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.page_codec import known_exchange as exchange
from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.contents import Origin
from services.node_agent.page_codec.port_codec import PortEncoder
from shared.page_stream.bodies import StreamKind

log = structlog.stdlib.get_logger(__name__)

CONTENTS = "contents"
ANSWER_WITHIN_S = 120.0
"""For one message: the recipient may have to read a new base image first."""


@dataclass(slots=True)
class Learnt:
    """What the exchange was worth. Bytes are payloads, both directions."""

    offers: int = 0
    known: int = 0
    exchanged_bytes: int = 0


class _Talk:
    def __init__(self, stream: LaneStream) -> None:
        self._stream = stream
        self.bytes = 0

    async def say(self, payload: bytes) -> None:
        self.bytes += len(payload)
        await self._stream.write(payload)

    async def hear(self) -> bytes:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            payload = await self._stream.read()
        self.bytes += len(payload)
        return payload


async def offer_contents(control: LaneSession, port: PortEncoder, files: Sequence[Path]) -> Learnt:
    """Ask the recipient what it has of these files, and teach the port's encoders. Raises LaneError."""
    learnt = Learnt()
    stream = control.open_stream(StreamKind.CONTROL, CONTENTS)
    talk = _Talk(stream)
    try:
        await _offer(talk, port, files, learnt)
        stream.write_eof()
    except (StreamError, CodecError, TimeoutError, OSError) as error:
        log.warning("the recipient's contents are not known", reason=str(error) or type(error).__name__)
        stream.reset("the exchange failed")
        learnt.known = 0
    learnt.exchanged_bytes = talk.bytes
    return learnt


async def _offer(talk: _Talk, port: PortEncoder, files: Sequence[Path], learnt: Learnt) -> None:
    key = port.hello.key
    offered = exchange.Offered(key)
    await talk.say(offered.greet())
    if not exchange.read_have(await talk.hear()):
        return
    ids: list[bytes] = []
    seen: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
    for path in files:
        left = exchange.MAX_OFFERS - offered.offers - exchange.SAMPLE
        found = await asyncio.to_thread(_scan, path, key, max(left, 0))
        found = found.only(~np.isin(found.digests[:, 0], seen))
        if not await _worth(talk, offered, found):
            continue
        seen = np.concatenate((seen, found.digests[:, 0]))
        ids += await _offer_file(talk, offered, found)
    await talk.say(offered.commit())
    count = exchange.read_ready(await talk.hear())
    learnt.offers = offered.offers
    if count != len(ids):
        raise CodecError(finding=f"the recipient numbered {count} contents, the donor {len(ids)}")
    port.contents.learn(Origin.KNOWN, ids)
    learnt.known = count


def _scan(path: Path, key: bytes, limit: int) -> Scanned:
    try:
        return scan(path, key=key, limit=limit)
    except OSError as error:
        log.info("a file cannot be offered", file=str(path), reason=str(error))
        return Scanned.empty()


async def _worth(talk: _Talk, offered: exchange.Offered, found: Scanned) -> bool:
    sample = found.digests[exchange.sample_of(found.digests)]
    if not len(sample):
        return False
    await talk.say(offered.offer(sample))
    hits = offered.take(sample, await talk.hear(), keep=False)
    return exchange.worth_offering(len(sample), int(hits.sum()))


async def _offer_file(talk: _Talk, offered: exchange.Offered, found: Scanned) -> list[bytes]:
    """Offer all of it, the answers of a batch on their way while the next ones are sent. Keyed ids of the hits."""
    parts = exchange.batches_of(found.digests)
    ids: list[bytes] = []
    for ahead in range(len(parts) + 1):
        if ahead < len(parts):
            await talk.say(offered.offer(found.digests[parts[ahead]]))
        if ahead:
            part = parts[ahead - 1]
            hits = np.zeros(len(found.digests), dtype=np.bool_)
            hits[part] = offered.take(found.digests[part], await talk.hear())
            ids += found.keyed_ids(hits)
    return ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the recipient looks. `images` is its catalogue of published base images, `kept` is of this VM only."""

    images: Path | None
    kept: tuple[Path, ...]
    index: BlockIndex

    def load(self) -> tuple[list[Path], NDArray[np.int64], Scanned]:
        """All files, and for every content its file and block. Blocking."""
        files: list[Path] = []
        scans: list[Scanned] = []
        for path in (*self.kept, *_images(self.images)):
            try:
                scans.append(self.index.look_up(path, limit=exchange.MAX_OFFERS))
            except OSError as error:
                log.warning("a file's contents cannot be known", file=str(path), reason=str(error))
                continue
            files.append(path)
        if not scans:
            return files, np.empty(0, dtype=np.int64), Scanned.empty()
        file_of = np.repeat(np.arange(len(scans)), [len(each.blocks) for each in scans]).astype(np.int64)
        blocks = np.concatenate([each.blocks for each in scans])
        return files, file_of, Scanned(blocks, np.concatenate([each.digests for each in scans]))


def _images(folder: Path | None) -> list[Path]:
    """Regular files of the catalogue, no links: what is published lies there."""
    if folder is None or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())


async def answer_offers(stream: LaneStream, sources: Sources) -> KnownContents | None:
    """Answer the donor. What has numbers now; None where nothing has.

    Give it to the store, then `tell_ready`. Raises LaneError, StreamError, CodecError, OSError, TimeoutError.
    """
    talk = _Talk(stream)
    key = exchange.read_greet(await talk.hear())
    files, file_of, contents = await asyncio.to_thread(sources.load)
    await talk.say(exchange.have(len(contents.blocks)))
    if not len(contents.blocks):
        return None
    table = await asyncio.to_thread(exchange.KnownTable, contents.digests, key)
    while (payload := await talk.hear())[:1] == bytes([exchange.OFFER]):
        await talk.say(table.answer(payload))
    if not payload:
        return None
    rows = table.commit(payload)
    return await asyncio.to_thread(KnownContents, files, file_of[rows], contents.blocks[rows], contents.digests[rows])


async def tell_ready(stream: LaneStream, known: KnownContents) -> None:
    """The contents can be referred to now."""
    await stream.write(exchange.ready(len(known)))
    stream.write_eof()
