"""Announces guests: sends the frames of `announcements` in a few rounds, beside everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from services.node_agent.network.announcements import DELAYS_S, Frames, announcements, stand_in
from services.node_agent.network.packets import mac_of, send_frames
from shared.logs import get_logger, port_bound
from shared.messages.network import NetworkPlan
from shared.messages.porting import Side
from shared.tasks import Tasks

log = get_logger(__name__)

Send = Callable[[str, Iterable[bytes]], None]
"""Sends frames at a device; raises OSError."""


class Announcer:
    """One per node."""

    def __init__(
        self,
        send: Send = send_frames,
        *,
        delays_s: Sequence[float] = DELAYS_S,
        mac_of: Callable[[str], bytes] = mac_of,
    ) -> None:
        self._send = send
        self._mac_of = mac_of
        self._delays_s = tuple(delays_s)
        self._tasks = Tasks("announcer")

    def announce(self, port_id: UUID, plan: NetworkPlan, side: Side) -> None:
        """The guest runs at this side. Returns at once; what cannot be sent is logged."""
        self._tasks.spawn(self._rounds(port_id, lambda: announcements(plan, side)), name=f"announce {port_id}")

    def stand_in(self, port_id: UUID, plan: NetworkPlan) -> None:
        """At the donor: this host takes what is sent to the guest, which is elsewhere. Returns at once."""
        bridges = {card.donor_bridge for card in plan.cards if card.donor_bridge}

        def frames() -> tuple[Frames, ...]:
            return stand_in(plan, {bridge: mac for bridge in bridges if (mac := self._mac(bridge)) is not None})

        self._tasks.spawn(self._rounds(port_id, frames), name=f"stand in for {port_id}")

    def _mac(self, bridge: str) -> bytes | None:
        try:
            return self._mac_of(bridge)
        except OSError:
            return None  # a bridge that is not there has no neighbours

    async def _rounds(self, port_id: UUID, made: Callable[[], tuple[Frames, ...]]) -> None:
        with port_bound(port_id):
            unsent: dict[str, str] = {}
            for delay_s in self._delays_s:
                await asyncio.sleep(delay_s)
                for device, frames in made():
                    try:
                        self._send(device, frames)
                        unsent.pop(device, None)
                    except OSError as error:
                        unsent[device] = error.strerror or str(error)
            for device, reason in unsent.items():
                log.warning("guest not announced", device=device, reason=reason)

    async def close(self) -> None:
        """End what still runs."""
        await self._tasks.close()
