"""Announces guests: sends the frames of `announcements` in a few rounds, beside everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from services.node_agent.network.announcements import DELAYS_S, announcements
from services.node_agent.network.packets import send_frames
from shared.logs import get_logger, port_bound
from shared.messages.network import NetworkPlan
from shared.messages.porting import Side
from shared.tasks import Tasks

log = get_logger(__name__)

Send = Callable[[str, Iterable[bytes]], None]
"""Sends frames at a device; raises OSError."""


class Announcer:
    """One per node."""

    def __init__(self, send: Send = send_frames, *, delays_s: Sequence[float] = DELAYS_S) -> None:
        self._send = send
        self._delays_s = tuple(delays_s)
        self._tasks = Tasks("announcer")

    def announce(self, port_id: UUID, plan: NetworkPlan, side: Side) -> None:
        """The guest runs at this side. Returns at once; what cannot be sent is logged."""
        self._tasks.spawn(self._rounds(port_id, plan, side), name=f"announce {port_id}")

    async def _rounds(self, port_id: UUID, plan: NetworkPlan, side: Side) -> None:
        with port_bound(port_id):
            unsent: dict[str, str] = {}
            for delay_s in self._delays_s:
                await asyncio.sleep(delay_s)
                for device, frames in announcements(plan, side):
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
