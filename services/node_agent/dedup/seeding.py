"""Seeding: contents of a VM's disks and memory are sent before the port's window opens. Both ends.

It uses a stream of the disk lane labelled SEED (messages: `page_codec.exchange.seed`). The disk lane carries nothing
else until the migration begins, and the control lane, where answers must be quick, stays free. The guest is not
touched: its images are read as files, its memory by the hypervisor in small pieces, and no migration runs. The
recipient stores what arrives beside the contents of earlier ports of this VM, and the exchange of the port itself finds
it there.

The donor reads the VM in passes (`seed_plan`) with a pause between them: a pass loads the host's disk and QEMU's main
loop, and an idle guest has little new data. A failure here costs bytes, not the port. When the donor is cancelled,
because the window opens or the port ends, it stops at once and waits for no answer.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from uuid import UUID

import numpy as np

from services.node_agent.dedup.blocks import read_piece
from services.node_agent.dedup.exchange import Sources
from services.node_agent.dedup.seed_plan import SeedPlan
from services.node_agent.hypervisor.interface import MAX_PEEK_BYTES, Hypervisor, HypervisorError
from services.node_agent.hypervisor.ram_layout import RamRange, pieces_of
from services.node_agent.lanes.core.errors import LaneError, StreamError
from services.node_agent.lanes.routes.caps import SharedBucket
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.contents import CONTENT_BYTES, Origin, Pages
from services.node_agent.page_codec.digests import Digests, digests_of_pages
from services.node_agent.page_codec.exchange.known import MAX_OFFERS
from services.node_agent.page_codec.exchange.seed import PIECE_CONTENTS, SeedReceiver, SeedSender
from services.node_agent.page_codec.store import FileStore
from shared.logs import get_logger
from shared.messages.service_change import StreamProgress
from shared.page_stream.bodies import StreamKind

log = get_logger(__name__)

SEED: Final = "seed"
ANSWER_WITHIN_S: Final = 900.0
"""The recipient first reads what it has, and base images may be large; later a lane may be down for minutes."""
REST: Final = 4
"""A pause lasts this many times as long as the pass before it, so the host's disk is busy a fifth of the time."""
PIECE_BYTES: Final = PIECE_CONTENTS * CONTENT_BYTES
MAX_FAILED_PEEKS: Final = 8
"""In a row; then the rest of the memory waits for the next pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedTuning:
    """Rate limits, bytes per second, and the pace of the passes. None: no limit."""

    send_bytes_per_s: float | None
    read_bytes_per_s: float | None = 64 << 20
    """Reading disk images: the guest uses the same disk."""
    peek_bytes_per_s: float | None = 16 << 20
    """Reading memory: 16 pieces a second; each stops QEMU's main loop for some milliseconds."""
    least_pause_s: float = 300.0
    """Between passes; see `pause_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSource:
    """What seeding reads: disk images, and guest-physical address ranges `ram` (`ram_layout`)."""

    vm_uuid: UUID
    disks: Sequence[Path]
    disk_bytes: int
    ram: Sequence[RamRange]


@dataclass(slots=True)
class _Read:
    """How much of the disks or of the memory the first pass has read."""

    total_bytes: int
    bytes: int = 0

    def progress(self, *, done: bool) -> StreamProgress:
        read = self.total_bytes if done else min(self.bytes, self.total_bytes)
        return StreamProgress(
            total_bytes=self.total_bytes, processed_bytes=read, remaining_bytes=self.total_bytes - read
        )


class Seeding:
    """The donor's side of one port. `run` it once, and cancel it when the window opens."""

    def __init__(
        self,
        lane: LaneSession,
        key: bytes,
        source: SeedSource,
        *,
        hypervisor: Hypervisor,
        keep: Callable[[Pages], None],
        tuning: SeedTuning,
    ) -> None:
        """`key` is the port's. `keep` stores the memory pages that were offered, since the guest may overwrite them
        before the recipient asks for them again. It may raise OSError.
        """
        self._lane = lane
        self._source = source
        self._hypervisor = hypervisor
        self._keep = keep
        self._tuning = tuning
        self._sender = SeedSender(key)
        self._plan = SeedPlan()
        self._sending = SharedBucket(tuning.send_bytes_per_s)
        self._reading = SharedBucket(tuning.read_bytes_per_s)
        self._peeking = SharedBucket(tuning.peek_bytes_per_s)
        self._disk = _Read(source.disk_bytes)
        self._memory = _Read(sum(each.end - each.start for each in source.ram))
        self.sent_bytes = 0
        """Payload bytes of contents so far."""

    @property
    def passes(self) -> int:
        """How often the whole VM was read."""
        return self._plan.passes

    @property
    def disk(self) -> StreamProgress:
        """Progress of the first pass."""
        return self._disk.progress(done=self.passes > 0)

    @property
    def memory(self) -> StreamProgress:
        """Progress of the first pass."""
        return self._memory.progress(done=self.passes > 0)

    async def run(self) -> None:
        """Send until cancelled, or until the recipient has no more room. Raises nothing but CancelledError."""
        if not self._source.disks and not self._source.ram:
            return
        try:
            stream = self._lane.open_stream(StreamKind.DISK, SEED)
            try:
                await self._run(stream)
                stream.write_eof()
            finally:
                stream.reset("the seeding is over")
        except (StreamError, LaneError, CodecError, TimeoutError, OSError, ValueError) as error:
            log.warning("seeding stopped", reason=str(error) or type(error).__name__)
        except Exception:
            log.exception("seeding failed; this is a defect")
        finally:
            log.info("seeding ended", contents=self._sender.sent, sent_bytes=self.sent_bytes, passes=self.passes)

    async def _run(self, stream: LaneStream) -> None:
        await stream.write(self._sender.greet())
        self._sender.enter(await _receive(stream))
        loop = asyncio.get_running_loop()
        while self._sender.takes:
            began_s = loop.time()
            for disk in self._source.disks:
                await self._send_disk(stream, disk)
            await self._send_memory(stream)
            self._plan.end_pass()
            await asyncio.sleep(pause_s(loop.time() - began_s, least_s=self._tuning.least_pause_s))

    async def _send_disk(self, stream: LaneStream, path: Path) -> None:
        at = 0
        while self._sender.takes:
            await self._reading.throttle(PIECE_BYTES)
            try:
                at, data = await asyncio.to_thread(read_piece, path, at, PIECE_BYTES)
            except OSError as error:
                log.info("seeding skipped a file", file=str(path), reason=str(error))
                return
            if not data:
                return
            await self._send(stream, data, keep=False)
            self._disk.bytes += len(data)

    async def _send_memory(self, stream: LaneStream) -> None:
        failed = 0
        for start, end in pieces_of(self._source.ram, MAX_PEEK_BYTES):
            if not self._sender.takes:
                return
            await self._peeking.throttle(end - start)
            try:
                data = await self._hypervisor.peek_memory(self._source.vm_uuid, start, end - start)
            except HypervisorError as error:
                log.info("seeding skipped a piece of memory", address=start, reason=str(error))
                failed += 1
                if failed == MAX_FAILED_PEEKS:
                    return
                continue
            failed = 0
            await self._send(stream, data, keep=True)
            self._memory.bytes += len(data)

    async def _send(self, stream: LaneStream, data: bytes, *, keep: bool) -> None:
        pages, digests = await asyncio.to_thread(_contents_of, data)
        rows = self._plan.choose(digests)[: self._sender.takes]
        if not len(rows):
            return
        pages, digests = pages[rows], digests[rows]
        if keep:
            self._keep(pages)
        await stream.write(self._sender.offer(digests))  # 5 bytes per content: not worth a rate limit
        missing = self._sender.missing(digests, await _receive(stream))
        payloads = self._sender.fill(pages[missing])
        for payload in payloads:
            await self._sending.throttle(len(payload))
            await stream.write(payload)
            self.sent_bytes += len(payload)
        for _ in payloads:
            self._sender.stored(await _receive(stream))
        self._plan.stored(digests)


def pause_s(took_s: float, *, least_s: float) -> float:
    """Seconds to wait after a pass that took `took_s`."""
    return max(least_s, REST * took_s)


async def _receive(stream: LaneStream) -> bytes:
    async with asyncio.timeout(ANSWER_WITHIN_S):
        return await stream.read()


def _contents_of(data: bytes) -> tuple[Pages, Digests]:
    """The whole contents that are not zero, and their digests."""
    whole = len(data) // CONTENT_BYTES * CONTENT_BYTES
    pages = np.frombuffer(data, dtype=np.uint8, count=whole).reshape(-1, CONTENT_BYTES)
    pages = pages[pages.any(axis=1)]
    return pages, digests_of_pages(pages)


@dataclass(frozen=True, slots=True)
class SeedPlace:
    """Where seeded contents are stored: at most `most_bytes`, and at most half of what the file system has free."""

    folder: Path
    most_bytes: int

    def room(self) -> int:
        """How many contents fit. Raises OSError."""
        # The folder may not exist yet; the nearest parent that does is on the same file system.
        there = next(path for path in self.folder.parents if path.exists())
        free_bytes = shutil.disk_usage(there).free
        return min(min(self.most_bytes, free_bytes // 2) // CONTENT_BYTES, MAX_OFFERS)

    def files(self) -> tuple[Path, ...]:
        """Files with seeded contents."""
        return tuple(sorted(self.folder.glob("*.contents")))


class SeedKeeper:
    """The donor's copy of seeded memory, to offer and send again. The file is made with the first page."""

    def __init__(self, place: SeedPlace) -> None:
        self._place = place
        self._store: FileStore | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._store is not None:
            self._store.close()

    def keep(self, pages: Pages) -> None:
        """Store these. Raises OSError."""
        if self._store is None:
            self._store = FileStore(self._place.folder, keep=max(1, self._place.room()))
        self._store.append(Origin.MEMORY, pages)


async def receive_seed(stream: LaneStream, sources: Sources, place: SeedPlace) -> None:
    """The recipient's side: store what arrives until the donor ends the stream. Raises LaneError."""
    receiver: SeedReceiver | None = None
    try:
        greeting = await stream.read()
        _, _, known = await asyncio.to_thread(sources.load)
        room = place.room()
        receiver = SeedReceiver(greeting, known.digests, room=room)
        await stream.write(receiver.welcome())
        if room:
            await _store(stream, receiver, place.folder, room)
        stream.write_eof()
    except (StreamError, CodecError, OSError) as error:
        reason = str(error) or type(error).__name__
        log.info("seeding refused", reason=reason)
        stream.reset(reason)
    finally:
        log.info("seed received", contents=receiver.stored if receiver else 0)


async def _store(stream: LaneStream, receiver: SeedReceiver, folder: Path, room: int) -> None:
    with FileStore(folder, keep=room) as store:
        while payload := await stream.read():
            reply, pages = receiver.receive(payload)
            store.append(Origin.KNOWN, pages)
            await stream.write(reply)
