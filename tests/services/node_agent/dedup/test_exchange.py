"""Two node agents and a lane between them: what the recipient has crosses as references, even if it changes."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from services.node_agent.dedup.base_images import BaseImages
from services.node_agent.dedup.block_index import BlockIndex
from services.node_agent.dedup.exchange import CONTENTS, ExchangeResult, Sources, offer_contents, serve_blocks
from services.node_agent.dedup.file_scans import FileScans
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.testing import MemoryRoute, PlainSeal
from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.contents import CONTENT_BYTES, ContentMissingError, Origin
from services.node_agent.transfers.port_codecs import DonorCodecs, RecipientCodecs
from services.node_agent.transfers.port_contents import InboundContents
from shared.page_stream.bodies import LaneRole
from shared.topology import Lane

BLOCKS = 900
NOISE = np.random.default_rng(5).bytes(BLOCKS * CONTENT_BYTES)
FLAGS = struct.pack(">I", 3)
SOON_S = 10.0


def write(offset: int, data: bytes) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, 0, 1, 9, offset, len(data)) + data


def change(path: Path, at: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(b"changed")


@dataclass
class Port:
    """A donor with a disk, a recipient with a catalogue, and the control lane between them."""

    donor: DonorCodecs
    recipient: RecipientCodecs
    learnt: ExchangeResult
    disk: Path
    image: Path

    def send(self, data: bytes) -> tuple[bytes, int]:
        """What arrives of a disk connection, and how many bytes crossed. Raises ContentMissingError."""
        encoder, _ = self.donor.pair(Lane.DISK)
        _, decoder = self.recipient.pair(Lane.DISK)
        payloads = [
            payload for at in range(0, len(data), 1 << 18) for payload in encoder.encode(data[at : at + (1 << 18)])
        ]
        payloads += encoder.flush()
        found = b"".join(bytes(chunk) for payload in payloads for chunk in decoder.decode(payload))
        return found, sum(map(len, payloads))


@asynccontextmanager
async def porting(tmp_path: Path, *, disk: bytes, image: bytes | None) -> AsyncIterator[Port]:
    """The exchange is over; the donor answers questions; all ends within 30 s."""
    route = MemoryRoute()
    ends = [
        LaneSession(link, LaneSettings(lane="p.control", role=role), seal=PlainSeal())
        for link, role in ((route.a, LaneRole.INITIATOR), (route.b, LaneRole.ACCEPTOR))
    ]
    disk_file, images = tmp_path / "disk.raw", tmp_path / "images"
    disk_file.write_bytes(disk)
    images.mkdir()
    if image is not None:
        (images / "base.raw").write_bytes(image)
    donor, recipient = DonorCodecs(tmp_path / "sent", scratch=tmp_path), RecipientCodecs(tmp_path / "received")
    scans = FileScans()
    scans.begin([disk_file])
    bases = BaseImages(tmp_path / "index")
    inbound = InboundContents(recipient, Sources(images=images, cached=(), index=BlockIndex(tmp_path / "index")), bases)

    async def answer() -> None:
        stream = await ends[1].accept()
        assert stream.label == CONTENTS
        await inbound.answer(stream)

    loop = asyncio.get_running_loop()
    async with asyncio.timeout(30):
        tasks = [loop.create_task(work) for work in (ends[0].run(), ends[1].run(), answer())]
        try:
            learnt = await offer_contents(ends[0], donor.port, [disk_file, tmp_path / "gone"], scans)
            tasks.append(loop.create_task(serve_blocks(learnt)))
            yield Port(donor, recipient, learnt, disk_file, images / "base.raw")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if learnt.known is not None:
                learnt.known.close()
            await scans.close()
            donor.close()
            recipient.close()


async def test_a_known_base_image_crosses_as_references(tmp_path: Path) -> None:
    """Of a disk that the recipient has, little crosses; the exchange costs less than 2 % of what it saves."""
    own = np.random.default_rng(6).bytes(50 * CONTENT_BYTES)
    disk = own + NOISE + bytes(1 << 20)
    async with porting(tmp_path, disk=disk, image=NOISE[::-1] + NOISE) as port:
        assert port.learnt.count == BLOCKS
        assert port.learnt.exchanged_bytes < 0.02 * 1800 * BLOCKS
        stream = FLAGS + write(0, disk)
        found, wire_bytes = port.send(stream)
        assert found == stream
        assert wire_bytes < len(own) + 4000


async def test_nothing_known_costs_nothing(tmp_path: Path) -> None:
    """A recipient without images says so at once; the transfer is as without the exchange."""
    async with porting(tmp_path, disk=NOISE, image=None) as port:
        assert (port.learnt.count, port.learnt.offers) == (0, 0)
        assert port.learnt.exchanged_bytes < 50
        stream = FLAGS + write(0, NOISE)
        assert port.send(stream)[0] == stream


async def test_a_strange_image_costs_a_sample(tmp_path: Path) -> None:
    """Where hardly anything is known, not everything is offered."""
    async with porting(tmp_path, disk=NOISE, image=bytes(1 << 20) + NOISE[: 20 * CONTENT_BYTES]) as port:
        assert port.learnt.count == 0
        assert port.learnt.exchanged_bytes < 3000


async def test_what_changed_is_asked_for_again(tmp_path: Path) -> None:
    """A base image that is damaged after the exchange does not damage the disk: the donor gives the content again."""
    async with porting(tmp_path, disk=NOISE, image=NOISE) as port:
        change(port.image, 7 * CONTENT_BYTES)
        encoder, _ = port.donor.pair(Lane.DISK)
        _, decoder = port.recipient.pair(Lane.DISK)
        stream = FLAGS + write(0, NOISE[: 20 * CONTENT_BYTES])
        hello, payload = encoder.encode(stream)
        decoder.decode(hello)
        with pytest.raises(ContentMissingError):
            decoder.decode(payload)
        async with asyncio.timeout(SOON_S):
            await port.recipient.arrivals.wait()
        assert b"".join(bytes(chunk) for chunk in decoder.decode(payload)) == stream


async def test_what_changed_at_both_ends_is_an_error(tmp_path: Path) -> None:
    """Neither end has it any more: the stream ends with the reason, and no other content takes its place."""
    async with porting(tmp_path, disk=NOISE, image=NOISE) as port:
        for path in (port.image, port.disk):
            change(path, 0)
        with pytest.raises(ContentMissingError):
            port.send(FLAGS + write(0, NOISE[: 4 * CONTENT_BYTES]))
        async with asyncio.timeout(SOON_S):
            await port.recipient.arrivals.wait()
        store = port.recipient.port.greet(port.donor.port.hello.encode())
        with pytest.raises(CodecError, match="changed in"):
            store.fetch(Origin.KNOWN, np.array([0], dtype=np.uint32))


async def test_a_number_that_was_never_given_is_an_error(tmp_path: Path) -> None:
    """At once: nobody can bring it."""
    async with porting(tmp_path, disk=NOISE, image=NOISE) as port:
        store = port.recipient.port.greet(port.donor.port.hello.encode())
        with pytest.raises(CodecError) as caught:
            store.fetch(Origin.KNOWN, np.array([BLOCKS], dtype=np.uint32))
        assert not isinstance(caught.value, ContentMissingError)
