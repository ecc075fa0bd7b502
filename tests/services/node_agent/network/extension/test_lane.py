"""The lane of an extension: sessions that follow each other, streams for the cards that were agreed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.donor_agent.testing import make_agreement
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.routes.link import LaneLink
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.testing import MemoryRoute
from services.node_agent.network.extension.lane import ExtensionLane
from shared.page_stream.bodies import LaneRole, StreamKind
from shared.topology import Lane
from tests.support.extension_pair import eventually
from tests.support.lane_credentials import Pair, make_pair

AGREEMENT = make_agreement()


class Card:
    """Sends what it is told to, remembers what came."""

    def __init__(self) -> None:
        self.to_send: asyncio.Queue[bytes] = asyncio.Queue()
        self.got: list[bytes] = []
        self.lost: list[bytes] = []
        self.beginnings = 0

    def began(self) -> None:
        """Count."""
        self.beginnings += 1

    async def next_payload(self) -> bytes:
        """As it was told."""
        return await self.to_send.get()

    def deliver(self, payload: memoryview | bytes) -> None:
        """Remember."""
        self.got.append(bytes(payload))

    def unsent(self, payload: bytes) -> None:
        """Remember."""
        self.lost.append(payload)


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two node agents."""
    return make_pair(Path(tmp_path_factory.mktemp("lane")))


def session(credentials: Pair, route: MemoryRoute) -> LaneSession:
    """A donor's end that is made by hand."""
    settings = LaneSettings(lane=f"{AGREEMENT.port_id}.extension", role=LaneRole.INITIATOR, hello_retry_s=0.05)
    return LaneSession(route.a, settings, seal=credentials.tls(LaneRole.INITIATOR).seal())


async def test_streams_that_were_not_agreed_are_refused(credentials: Pair) -> None:
    """A card that is not known, a version that is not spoken, a card twice: reset; the right one is served."""
    route, card = MemoryRoute(), Card()

    async def make_link(_: LaneEnd, lane: Lane) -> LaneLink:
        assert lane is Lane.EXTENSION
        return route.b

    end = ExtensionLane(
        LaneEnd(AGREEMENT, LaneRole.ACCEPTOR), make_link, credentials.tls(LaneRole.ACCEPTOR), {0: card, 1: Card()}
    )
    donor = session(credentials, route)
    async with asyncio.timeout(20):
        running = [asyncio.ensure_future(end.run()), asyncio.ensure_future(donor.run())]
        await donor.wait_ready()
        right = donor.open_stream(StreamKind.NETWORK, "1.0")
        wrong = [
            donor.open_stream(StreamKind.NETWORK, "1.7"),
            donor.open_stream(StreamKind.NETWORK, "2.1"),
            donor.open_stream(StreamKind.MEMORY, "1.1"),
            donor.open_stream(StreamKind.NETWORK, "1.0"),
        ]
        for stream in wrong:
            with pytest.raises(Exception, match="no card"):
                await stream.read()
        donor.open_stream(StreamKind.NETWORK, "1.1")
        await right.write(b"payload")
        await eventually(lambda: card.got == [b"payload"])
        assert end.connected.is_set()
        assert card.beginnings == 1
        stats = end.stats()
        assert stats is not None
        assert stats.data_received_bytes == 7
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        assert (end.connected.is_set(), end.stats(), route.b.closed) == (False, None, True)


class Broken:
    """A link that waiting does not mend."""

    def __init__(self) -> None:
        self.closed = False

    async def send(self, frame: bytes) -> None:
        """Not any more."""
        raise OSError(len(frame), "broken for good")

    async def receive(self) -> bytes:
        """Nothing comes."""
        await asyncio.sleep(3600)
        return b""

    async def wait_up(self) -> None:
        """It seems to be."""

    async def close(self) -> None:
        """Remember."""
        self.closed = True


async def test_a_link_that_is_broken_for_good_is_made_again(credentials: Pair) -> None:
    """The session ends, the link is closed, and the next session has a new one."""
    route, broken, made = MemoryRoute(), Broken(), 0

    async def make_link(_: LaneEnd, __: Lane) -> LaneLink:
        nonlocal made
        made += 1
        return broken if made == 1 else route.b

    end = ExtensionLane(
        LaneEnd(AGREEMENT, LaneRole.ACCEPTOR), make_link, credentials.tls(LaneRole.ACCEPTOR), {0: Card()}
    )
    donor = session(credentials, route)
    async with asyncio.timeout(20):
        running = [asyncio.ensure_future(end.run()), asyncio.ensure_future(donor.run())]
        await donor.wait_ready()
        assert (made, end.sessions, broken.closed) == (2, 2, True)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_a_payload_that_cannot_be_sent_is_given_back(credentials: Pair) -> None:
    """What was taken when the lane ended is counted by its owner."""
    route, card = MemoryRoute(), Card()

    async def make_link(_: LaneEnd, __: Lane) -> LaneLink:
        return route.b

    end = ExtensionLane(LaneEnd(AGREEMENT, LaneRole.ACCEPTOR), make_link, credentials.tls(LaneRole.ACCEPTOR), {0: card})
    donor = session(credentials, route)
    async with asyncio.timeout(20):
        running = [asyncio.ensure_future(end.run()), asyncio.ensure_future(donor.run())]
        await donor.wait_ready()
        donor.open_stream(StreamKind.NETWORK, "1.0")
        for _ in range(100):
            card.to_send.put_nowait(bytes(100_000))
        await eventually(lambda: card.to_send.qsize() < 100)
        route.cut()
        await asyncio.sleep(0.1)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        assert len(card.lost) == 1
