"""Contents of raw images use the link until the disks flow; a port with them is as one without, and none is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import structlog.testing

from services.node_agent.dedup.early_transfer import EARLY, receive_early, send_early
from services.node_agent.hypervisor.fake_host import DISK_BYTES
from services.node_agent.lanes.arrivals import Arrivals
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.testing import MemoryRoute, PlainSeal
from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.contents import CONTENT_BYTES, Origin
from services.node_agent.page_codec.hello import ALL, Technique
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from services.node_agent.page_codec.store import FileStore
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.outbound_result import OutboundResult
from shared.page_stream.bodies import LaneRole, StreamKind
from tests.support.transfer_pair import VM

if TYPE_CHECKING:
    from tests.support.transfer_pair import Pair

KEY = bytes(32)
BLOCKS = 200
NOISE = np.random.default_rng(9).bytes(BLOCKS * CONTENT_BYTES)
SOON_S = 10.0


class Sent:
    """A donor's images, and what a recipient stored of them."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.looks = 0

    async def run(self, *images: bytes, after: int = 1 << 30, techniques: frozenset[Technique] = ALL) -> bytes:
        """What is stored when it is over, at the latest when it was asked `after` times."""
        paths = [self.tmp / f"{at}.raw" for at in range(len(images))]
        for path, data in zip(paths, images, strict=True):
            path.write_bytes(data)
        paths.insert(1, self.tmp / "is-not-there.raw")

        def over() -> bool:
            self.looks += 1
            return self.looks > after

        route = MemoryRoute()
        near, far = (
            LaneSession(link, LaneSettings(lane="p.disk", role=role), seal=PlainSeal())
            for link, role in ((route.a, LaneRole.INITIATOR), (route.b, LaneRole.ACCEPTOR))
        )
        with FileStore(self.tmp / "store", keep=1024) as store:
            running = [asyncio.ensure_future(session.run()) for session in (near, far)]
            async with asyncio.timeout(SOON_S):
                await send_early(near, PortEncoder(KEY, techniques=techniques), paths, over=over)
                # What follows in the lane tells that nothing of it is left.
                near.open_stream(StreamKind.DISK, "next").write_eof()
                stream = await far.accept()
                if stream.label == EARLY:
                    await receive_early(stream, PortDecoder(lambda _: store), Arrivals())
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            count = store.count(Origin.DISK)
            return store.fetch(Origin.DISK, np.arange(count, dtype=np.uint32)).tobytes()


async def test_all_images_go_in_order(tmp_path: Path) -> None:
    """Whole contents, once each; an image that cannot be read is left out."""
    half = len(NOISE) // 2
    images = (NOISE[:half] + bytes(CONTENT_BYTES), NOISE[:half], NOISE[half:] + b"end")
    assert await Sent(tmp_path).run(*images) == NOISE


async def test_it_stops_when_it_is_over(tmp_path: Path) -> None:
    """After a piece; what has a number was sent."""
    stored = await Sent(tmp_path).run(NOISE, after=2)
    assert 0 < len(stored) < len(NOISE)
    assert NOISE.startswith(stored)


@pytest.mark.parametrize(("after", "without"), [(0, frozenset()), (9, {Technique.DEDUP})], ids=["over", "no dedup"])
async def test_nothing_is_opened_for_nothing(tmp_path: Path, after: int, without: frozenset[Technique]) -> None:
    """The recipient sees no stream."""
    assert await Sent(tmp_path).run(NOISE, after=after, techniques=ALL - without) == b""


def fill(pair: Pair) -> None:
    """The disk of the guest to port has contents."""
    (pair.tmp / "a" / "web.raw").write_bytes(NOISE[:DISK_BYTES])


async def test_a_port_sends_them(pair: Pair) -> None:
    """Both halves; the guest arrives."""
    fill(pair)
    with structlog.testing.capture_logs() as logs:
        result, failure = await pair.run()
    assert failure is None
    assert isinstance(result, OutboundResult)
    counts = {line["event"]: line["contents"] for line in logs if "contents" in line}
    assert counts["early transfer sent"] == counts["early transfer received"] > 0
    assert pair.recipient.vms[VM].memory == pair.memory


async def test_what_cannot_be_stored_ends_the_port(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disks would refer to it: the port fails before they do, says why, and the guest stays."""

    async def take(*_: object) -> None:
        raise CodecError(finding="disk full")

    fill(pair)
    monkeypatch.setattr("services.node_agent.transfers.port_contents.receive_early", take)
    async with asyncio.timeout(SOON_S):
        result, failure = await pair.run()
    assert isinstance(failure, TransferError)
    assert failure.code == "early_contents"
    assert "disk full" in failure.detail
    assert isinstance(result, TransferError)
    assert result.guest_running
