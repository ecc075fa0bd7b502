"""Both ends of a network extension in one process: devices in memory, a relay in memory, real TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from services.donor_agent.testing import make_agreement
from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.routes.link import LaneLink
from services.node_agent.lanes.testing import MemoryLink, MemoryRoute
from services.node_agent.network.extension.carrier import Extension
from services.node_agent.network.extension.testing import MemoryTap
from shared.page_stream.bodies import LaneRole
from shared.tasks import Tasks
from shared.topology import Lane
from tests.support.card_frames import CARD
from tests.support.lane_credentials import Pair

DONOR, RECIPIENT = LaneRole.INITIATOR, LaneRole.ACCEPTOR


@dataclass
class End:
    """One end that runs."""

    extension: Extension
    taps: dict[int, MemoryTap]
    task: asyncio.Task[None]
    got: list[bytes] = field(default_factory=list)

    def say(self, frame: bytes, *, card: int = 0) -> None:
        """The host sends a frame by a card's device."""
        self.taps[card].host_send(frame)

    def heard(self, *, card: int = 0) -> list[bytes]:
        """All that the host has got by a card's device, since the beginning."""
        self.got += self.taps[card].host_receive()
        return self.got

    def dropped(self, *, card: int = 0) -> dict[str, int]:
        """Frames by reason."""
        return {str(reason): count for reason, count in self.extension.stats().cards[card].dropped.items()}


class ExtensionPair:
    """A relay, and ends that are started, killed and started again."""

    def __init__(self, credentials: Pair, tasks: Tasks) -> None:
        self.route = MemoryRoute(queue_frames=256)
        self._credentials = credentials
        self.tasks = tasks
        self._agreement = make_agreement()
        self.links = 0
        self.taps: list[MemoryTap] = []

    def start(self, role: LaneRole, *, cards: tuple[int, ...] = (0,), activated: bool | None = None) -> End:
        """Begin one end; unless said, the guest stands still at the donor, and has not spoken at the recipient."""
        taps = {number: MemoryTap() for number in cards}
        self.taps += taps.values()
        extension = Extension(
            LaneEnd(self._agreement, role),
            self._link,
            self._credentials.tls(role),
            {number: (tap, CARD) for number, tap in taps.items()},
            activated=role is DONOR if activated is None else activated,
        )
        return End(extension, taps, self.tasks.spawn(extension.run(), name=role.name))

    @staticmethod
    async def kill(end: End) -> None:
        """Its process dies: it says nothing to anybody."""
        end.task.cancel()
        await asyncio.gather(end.task, return_exceptions=True)

    async def _link(self, end: LaneEnd, lane: Lane) -> LaneLink:
        assert lane is Lane.EXTENSION
        self.links += 1
        to_a, to_b = self.route._to_a, self.route._to_b
        outgoing, incoming = (to_b, to_a) if end.role is DONOR else (to_a, to_b)
        return MemoryLink(self.route, outgoing=outgoing, incoming=incoming)


@asynccontextmanager
async def extension_pair(credentials: Pair) -> AsyncIterator[ExtensionPair]:
    """Nothing runs yet; what was started is ended."""
    tasks = Tasks("extensions")
    async with asyncio.timeout(60):
        pair = ExtensionPair(credentials, tasks)
        try:
            yield pair
        finally:
            await tasks.close()
            for tap in pair.taps:
                tap.close()
                tap.remove()


async def eventually(is_true: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Wait until it is true."""
    async with asyncio.timeout(within_s):
        while not is_true():  # noqa: ASYNC110  # the extension tells nobody
            await asyncio.sleep(0.005)
