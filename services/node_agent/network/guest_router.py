"""Speaks to guests whose IPv6 router this host is, on the bridges of their cards; a shell over `router_frames`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final
from uuid import UUID

from services.node_agent.network.announcer import Send
from services.node_agent.network.journal import NetworkRecord
from services.node_agent.network.packets import hear_discovery, send_frames
from services.node_agent.network.plan import own_bridges
from services.node_agent.network.router_frames import advertisement, answer, is_router
from services.node_agent.network.steps import Address
from shared.logs import get_logger, port_bound
from shared.messages.network import CardNetwork
from shared.tasks import Tasks

log = get_logger(__name__)

EVERY_S: Final = 200.0
AGAIN_S: Final = 1.0
"""How long until a bridge that could not be spoken on is tried again."""
_MOST_FRAMES: Final = 64
_FRAME_BYTES: Final = 2048

Hear = Callable[[str], socket.socket]
"""Hears the solicitations at a device; raises OSError."""


class GuestRouters:
    """One per node."""

    def __init__(
        self,
        send: Send = send_frames,
        hear: Hear = hear_discovery,
        *,
        every_s: float = EVERY_S,
        again_s: float = AGAIN_S,
    ) -> None:
        self._send = send
        self._hear = hear
        self._every_s = every_s
        self._again_s = again_s
        self._speaking: dict[UUID, dict[str, tuple[CardNetwork, asyncio.Task[None]]]] = {}
        self._tasks = Tasks("guest routers")

    def follow(self, record: NetworkRecord) -> None:
        """Speak where the record makes this host the guest's router, and take leave where it does not any more."""
        ours = {step.device for step in record.wanted if isinstance(step, Address)}
        wanted = {card.bridge: card.card for _, card in own_bridges(record.plan) if card.bridge in ours}
        speaking = self._speaking.setdefault(record.port_id, {})
        for bridge in speaking.keys() - wanted.keys():
            self._take_leave(bridge, *speaking.pop(bridge))
        for bridge, card in wanted.items():
            if bridge not in speaking and is_router(card):
                task = self._tasks.spawn(self._speak(record.port_id, bridge, card), name=f"router on {bridge}")
                speaking[bridge] = (card, task)
        if not speaking:
            del self._speaking[record.port_id]

    def cease(self, port_id: UUID) -> None:
        """All that the port has made here is removed next."""
        for bridge, spoken in self._speaking.pop(port_id, {}).items():
            self._take_leave(bridge, *spoken)

    async def close(self) -> None:
        """This process ends, and the next one goes on: nothing is said."""
        await self._tasks.close()

    def _take_leave(self, bridge: str, card: CardNetwork, task: asyncio.Task[None]) -> None:
        task.cancel()
        if (last := advertisement(card, lifetime_s=0)) is not None:
            try:
                self._send(bridge, (last,))
            except OSError as error:
                log.info("end of a router not told", device=bridge, error=str(error))

    async def _speak(self, port_id: UUID, bridge: str, card: CardNetwork) -> None:
        with port_bound(port_id):
            told = ""
            while True:
                try:
                    await self._serve(bridge, card)
                except OSError as error:
                    if str(error) != told:
                        told = str(error)
                        log.warning("guest not told of its router", device=bridge, error=told)
                await asyncio.sleep(self._again_s)

    async def _serve(self, bridge: str, card: CardNetwork) -> None:
        """Raises OSError where the bridge is not there."""
        loop = asyncio.get_running_loop()
        with self._hear(bridge) as listener:
            loop.add_reader(listener.fileno(), self._read, listener, bridge, card)
            try:
                while (frame := advertisement(card)) is not None:
                    self._send(bridge, (frame,))
                    await asyncio.sleep(self._every_s)
            finally:
                loop.remove_reader(listener.fileno())

    def _read(self, listener: socket.socket, bridge: str, card: CardNetwork) -> None:
        for _ in range(_MOST_FRAMES):
            try:
                frame, place = listener.recvfrom(_FRAME_BYTES)
                if place[2] != socket.PACKET_OUTGOING and (said := answer(card, frame)) is not None:
                    self._send(bridge, (said,))
            except OSError:
                return  # nothing more to read, or the bridge is gone, which the next advertisement tells
