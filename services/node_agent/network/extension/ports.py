"""PortExtensions: the extensions of this node's ports, each kept open until it is closed.

Makes their devices, puts them into the bridges of the agreement, and begins again when a device was taken away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.keys import LaneKeys
from services.node_agent.metrics import NodeMetrics
from services.node_agent.network.extension.card import Card
from services.node_agent.network.extension.carrier import Extension
from services.node_agent.network.extension.lane import MakeLink
from services.node_agent.network.extension.stats import ExtensionStats
from services.node_agent.network.netlink import Netlink
from services.node_agent.network.plan import EXTENSION_PREFIX, device_name, own_bridges
from services.node_agent.network.tap import Tap, TapError
from shared.errors import VmportError
from shared.logs import get_logger, port_bound
from shared.messages.porting import ServiceChangeAgreement, Side
from shared.page_stream.bodies import LaneRole
from shared.tasks import Tasks

log = get_logger(__name__)

AGAIN_S = 1.0
"""How long to wait before devices that were taken away are made again."""


class ExtensionFailed(VmportError):
    """An extension's devices cannot be made."""

    code = "extension_failed"


class PortExtensions:
    """All extensions of this node."""

    def __init__(
        self,
        make_link: MakeLink,
        keys: LaneKeys,
        *,
        forget: Callable[[UUID], None] = lambda _: None,
        metrics: NodeMetrics | None = None,
        again_s: float = AGAIN_S,
    ) -> None:
        """`forget` is called when the links of a port's extension are needed no more."""
        self._forget = forget
        self._make_link = make_link
        self._metrics = metrics
        self._keys = keys
        self._again_s = again_s
        self._tasks = Tasks("extensions")
        self._open: dict[UUID, Extension] = {}
        self._running: dict[UUID, asyncio.Task[None]] = {}
        self._activated: set[UUID] = set()

    async def open(self, agreement: ServiceChangeAgreement, side: Side, *, activated: bool) -> None:
        """Have an extension with its devices in their bridges. Nothing is done where it is open.

        Raises `ExtensionFailed`, `TapError`, `NetlinkError`, `SealError`.
        """
        if agreement.port_id in self._running:
            return
        extension = await self._make(agreement, side, activated=activated)
        keep = self._keep(extension, agreement, side)
        self._running[agreement.port_id] = self._tasks.spawn(keep, name=f"extension of {agreement.port_id}")

    def activate(self, port_id: UUID) -> None:
        """The guest may run at the recipient from now on, or does; see `Extension.activate`. Holds until `close`."""
        self._activated.add(port_id)
        extension = self._open.get(port_id)
        if extension is not None:
            extension.activate()

    def deactivate(self, port_id: UUID) -> None:
        """Donor: the guest runs here again. Until `activate` nobody speaks for it from the recipient."""
        self._activated.discard(port_id)
        extension = self._open.get(port_id)
        if extension is not None:
            extension.deactivate()

    async def close(self, port_id: UUID) -> None:
        """End one; nothing is done where there is none."""
        self._activated.discard(port_id)
        running = self._running.pop(port_id, None)
        if running is not None:
            running.cancel()
            await asyncio.wait([running])
            self._forget(port_id)

    async def close_all(self) -> None:
        """This process ends: the devices go, and the next process makes them again."""
        await self._tasks.close()

    def idle_s(self, port_id: UUID) -> float | None:
        """For how many seconds it has carried no packet, since it was opened at most; None where there is none."""
        stats = self.stats(port_id)
        return None if stats is None else stats.idle_s

    def stats(self, port_id: UUID) -> ExtensionStats | None:
        """Its counters; None where there is none."""
        extension = self._open.get(port_id)
        return None if extension is None else extension.stats()

    async def _make(self, agreement: ServiceChangeAgreement, side: Side, *, activated: bool) -> Extension:
        if agreement.network is None:
            raise ExtensionFailed(f"port {agreement.port_id} has no plan for its network")
        role = LaneRole.INITIATOR if side is Side.OUTBOUND else LaneRole.ACCEPTOR
        tls = self._keys.tls(agreement, role)
        end = LaneEnd(agreement, role)
        cards: dict[int, tuple[Tap, Card]] = {}
        try:
            async with Netlink() as kernel:
                for place, card in own_bridges(agreement.network):
                    bridge = card.donor_bridge if side is Side.OUTBOUND else card.bridge
                    if not bridge:
                        raise ExtensionFailed(f"network card {card.card.mac} is on no bridge of this host")
                    tap = Tap(device_name(EXTENSION_PREFIX, agreement.port_id, place), mtu_bytes=card.card.mtu)
                    cards[place] = (tap, Card.of(card.card))
                    await kernel.join_bridge(tap.name, bridge)
        except BaseException:
            for tap, _ in cards.values():
                tap.close()
            raise
        activated = activated or agreement.port_id in self._activated
        return Extension(end, self._make_link, tls, cards, activated=activated, metrics=self._metrics)

    async def _keep(self, extension: Extension, agreement: ServiceChangeAgreement, side: Side) -> None:
        with port_bound(agreement.port_id):
            while True:
                self._open[agreement.port_id] = extension
                if agreement.port_id in self._activated:
                    extension.activate()
                try:
                    await extension.run()
                except TapError as error:
                    log.warning("extension lost its device; making it again", error=str(error))
                finally:
                    self._open.pop(agreement.port_id, None)
                    await extension.close()
                extension = await self._made_again(agreement, side, activated=extension.activated.is_set())

    async def _made_again(self, agreement: ServiceChangeAgreement, side: Side, *, activated: bool) -> Extension:
        while True:
            await asyncio.sleep(self._again_s)
            try:
                return await self._make(agreement, side, activated=activated)
            except VmportError as error:
                log.warning("extension cannot be made again yet", error=str(error))
