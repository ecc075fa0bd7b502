"""Extension: one port's network extension at one end: TAP devices, filters and a lane, running.

    extension = Extension(end, routes.link, keys.tls(agreement, end.role), {0: (Tap(name), Card.of(card))})
    running = tasks.spawn(extension.run(), name="extension")      # raises TapError when a device is gone
    extension.activate()                                          # at the donor: the guest stands still
    await extension.activated.wait()                              # at the recipient: the guest has spoken
    await extension.close()

It owns the devices that it is given and removes them at its end. It makes no bridge, no route and no rule, and keeps
nothing: after a restart of this agent it is opened again with the same values, and the other end goes on with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.tls import LaneTls
from services.node_agent.metrics import NodeMetrics
from services.node_agent.network.extension.card import Card
from services.node_agent.network.extension.card_carrier import CardCarrier, FrameDevice
from services.node_agent.network.extension.lane import ExtensionLane, MakeLink
from services.node_agent.network.extension.metering import ExtensionMetering
from services.node_agent.network.extension.stats import ExtensionStats
from services.node_agent.network.extension.verdict import Towards
from services.node_agent.network.tap import TapError
from shared.logs import get_logger
from shared.page_stream.bodies import LaneRole
from shared.tasks import first_of

log = get_logger(__name__)


class Extension:
    """One end. `run` once, then `close`."""

    def __init__(
        self,
        end: LaneEnd,
        make_link: MakeLink,
        tls: LaneTls,
        cards: Mapping[int, tuple[FrameDevice, Card]],
        *,
        activated: bool = False,
        metrics: NodeMetrics | None = None,
    ) -> None:
        """`cards` by their number in the agreement. `activated`: the guest is known to have left the donor's host."""
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._opened_s = self._loop.time()
        self._taps = {number: tap for number, (tap, _) in cards.items()}
        towards = Towards.RECIPIENT if end.role is LaneRole.INITIATOR else Towards.DONOR
        self.activated = asyncio.Event()
        """Set when the gate of any card is open, by the guest's first frame or by `activate`."""
        self._carriers = {
            number: CardCarrier(tap, card, towards, activated=activated, on_activated=self._on_activated)
            for number, (tap, card) in cards.items()
        }
        if any(each.activated for each in self._carriers.values()):
            self.activated.set()
        self._lane = ExtensionLane(end, make_link, tls, dict(self._carriers))
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._metering = None if metrics is None else ExtensionMetering(metrics, self.stats)
        self._closing = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    @property
    def connected(self) -> asyncio.Event:
        """Set while both ends speak."""
        return self._lane.connected

    async def run(self) -> None:
        """Carry frames until `close`. Raises TapError when a device is gone; then the extension is over."""
        self._ended.clear()
        try:
            for number, tap in self._taps.items():
                self._loop.add_reader(tap.fileno(), self._read, number)
            counting = [] if self._metering is None else [self._metering.run()]
            await first_of(self._lane.run(), self._broken, self._closing.wait(), *counting)
            if self._broken.done():
                self._broken.result()
        finally:
            self._remove_devices()
            self._ended.set()

    def activate(self) -> None:
        """At the donor: the guest stands still, and may speak by the extension next. At the recipient: it runs here, if
        it has not said so itself. Idempotent.
        """
        for carrier in self._carriers.values():
            carrier.activate()

    def deactivate(self) -> None:
        """At the donor: the guest runs there again, and nobody speaks for it by the extension. Idempotent."""
        self.activated.clear()
        for carrier in self._carriers.values():
            carrier.deactivate()

    async def close(self) -> None:
        """End: the devices and the lane of this end are gone. Idempotent."""
        self._closing.set()
        await self._ended.wait()
        self._remove_devices()

    def stats(self) -> ExtensionStats:
        """Counters so far; may be asked at any time."""
        cards = {number: carrier.stats() for number, carrier in self._carriers.items()}
        latest = [card.last_traffic_s for card in cards.values() if card.last_traffic_s is not None]
        return ExtensionStats(
            cards=cards,
            sessions=self._lane.sessions,
            connected=self._lane.connected.is_set(),
            idle_s=self._loop.time() - max(latest, default=self._opened_s),
        )

    def _read(self, number: int) -> None:
        try:
            self._carriers[number].read_device()
        except TapError as error:
            self._loop.remove_reader(self._taps[number].fileno())
            if not self._broken.done():
                self._broken.set_exception(error)

    def _on_activated(self) -> None:
        if not self.activated.is_set():
            log.info("extension open to the guest", port_id=str(self._end.port_id), role=self._end.role.name.lower())
            self.activated.set()

    def _remove_devices(self) -> None:
        for tap in self._taps.values():
            if tap.fileno() >= 0:
                self._loop.remove_reader(tap.fileno())
                tap.close()
        if self._broken.done():
            self._broken.exception()  # mark it as retrieved: it may have come after the end
