"""ExtensionLane: the lane of one port's network extension, for as long as the extension is wanted.

Owns the lane's sessions, one after the other, and its streams, one for each of the VM's cards. It gives payloads in and
takes payloads out; it does not know what they mean. No error of a session ends it: the next one begins.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from services.node_agent.lanes.core.errors import LaneError, LaneRouteError, StreamError
from services.node_agent.lanes.core.seal import SealError
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.core.stats import LaneStats
from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.routes.link import LaneLink, LinkDown
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.lanes.tls import LaneTls
from services.node_agent.network.extension.fresh_link import FreshLink
from services.node_agent.network.extension.wire import MAX_PAYLOAD_BYTES, VERSION
from shared.logs import get_logger
from shared.page_stream.bodies import LaneRole, StreamKind
from shared.tasks import first_error, run_together
from shared.topology import Lane

log = get_logger(__name__)

WINDOW_BYTES: Final = 4 << 20
"""1 Gbit/s and 30 ms. Within it the lane takes what bandwidth and delay need."""
SILENCE_S: Final = 30.0
"""When the other end was not heard for so long, a new session begins: old packets are of no use to anybody."""
KEEPALIVE_S: Final = 5.0
HELLO_RETRY_S: Final = 0.5
PAUSE_S: Final = 0.1
PAUSE_LIMIT_S: Final = 2.0
"""Between two sessions, if they end at once."""
_STEADY_S: Final = 10.0

MakeLink = Callable[[LaneEnd, Lane], Awaitable[LaneLink]]


class CardPort(Protocol):
    """One card's side of the lane."""

    def began(self) -> None:
        """The lane has begun: both ends have a stream for the card."""
        ...

    async def next_payload(self) -> bytes:
        """What is to be sent next; waits for it."""
        ...

    def deliver(self, payload: memoryview | bytes) -> None:
        """One payload of the other end; valid during the call only."""
        ...

    def unsent(self, payload: bytes) -> None:
        """A payload that was taken and cannot be sent."""
        ...


class ExtensionLane:
    """`run` serves until it is cancelled."""

    def __init__(self, end: LaneEnd, make_link: MakeLink, tls: LaneTls, cards: dict[int, CardPort]) -> None:
        """`cards` by their number in the agreement, the same at both ends."""
        self._end = end
        self._make_link = make_link
        self._tls = tls
        self._cards = {f"{VERSION}.{number}": card for number, card in cards.items()}
        self._session: LaneSession | None = None
        self._link: LaneLink | None = None
        self.sessions = 0
        self.connected = asyncio.Event()
        """Set while both ends speak."""

    def stats(self) -> LaneStats | None:
        """Counters of the session that runs now."""
        return None if self._session is None else self._session.stats()

    async def run(self) -> None:
        """One session after the other; the link is closed at the end."""
        loop = asyncio.get_running_loop()
        pause_s = PAUSE_S
        try:
            while True:
                began_s = loop.time()
                reason = await self._one_session()
                log.info("extension lane ended", port_id=str(self._end.port_id), reason=reason)
                pause_s = PAUSE_S if loop.time() - began_s > _STEADY_S else min(2 * pause_s, PAUSE_LIMIT_S)
                await asyncio.sleep(pause_s * (0.5 + secrets.randbelow(1000) / 2000))
        finally:
            await self._drop_link()

    async def _one_session(self) -> str:
        """Serve until it ends; returns why."""
        try:
            link = await self._open_link()
            epoch = secrets.randbelow(2**64 - 1) + 1
            fresh = FreshLink(link, epoch=epoch)
            await fresh.settle()
            self._session = LaneSession(fresh, self._settings(), seal=self._tls.seal(), epoch=epoch)
            self.sessions += 1
            await run_together(self._session.run(), self._serve(self._session))
        except LinkDown as error:
            return error.reason
        except SealError as error:
            return str(error)
        except ExceptionGroup as errors:
            return await self._judge(first_error(errors))
        finally:
            self._session = None
            self.connected.clear()
        return "it was closed"

    async def _judge(self, error: Exception) -> str:
        """Why a session ended, where another one can follow; other errors are raised."""
        if not isinstance(error, LaneError | StreamError):
            raise error
        if isinstance(error, LaneRouteError):  # the link will not mend by itself
            await self._drop_link()
        return str(error)

    async def _open_link(self) -> LaneLink:
        if self._link is None:
            self._link = await self._make_link(self._end, Lane.EXTENSION)
        return self._link

    async def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    def _settings(self) -> LaneSettings:
        return LaneSettings(
            lane=f"{self._end.port_id}.{Lane.EXTENSION}",
            role=self._end.role,
            window_bytes=WINDOW_BYTES,
            max_payload_bytes=MAX_PAYLOAD_BYTES,
            silence_s=SILENCE_S,
            keepalive_s=KEEPALIVE_S,
            hello_retry_s=HELLO_RETRY_S,
            resend_after_s=1.0,
            probe_limit_s=KEEPALIVE_S,
        )

    async def _serve(self, session: LaneSession) -> None:
        await session.wait_ready()
        streams = await self._streams(session)
        log.info("extension lane connected", port_id=str(self._end.port_id))
        self.connected.set()
        for card in self._cards.values():
            card.began()
        await run_together(
            *(self._send(self._cards[label], stream) for label, stream in streams.items()),
            *(self._receive(self._cards[label], stream) for label, stream in streams.items()),
        )

    async def _streams(self, session: LaneSession) -> dict[str, LaneStream]:
        """A stream for each card: the donor's end opens them."""
        if self._end.role is LaneRole.INITIATOR:
            return {label: session.open_stream(StreamKind.NETWORK, label) for label in self._cards}
        found: dict[str, LaneStream] = {}
        while len(found) < len(self._cards):
            stream = await session.accept()
            if stream.kind is StreamKind.NETWORK and stream.label in self._cards and stream.label not in found:
                found[stream.label] = stream
            else:
                stream.reset(f"no card {stream.label} is expected here")
        return found

    @staticmethod
    async def _send(card: CardPort, stream: LaneStream) -> None:
        while True:
            payload = await card.next_payload()
            sent = False
            try:
                await stream.write(payload)
                sent = True
            finally:
                if not sent:
                    card.unsent(payload)

    @staticmethod
    async def _receive(card: CardPort, stream: LaneStream) -> None:
        while payload := await stream.read_view():
            card.deliver(payload)
