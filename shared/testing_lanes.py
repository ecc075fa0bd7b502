"""The broker's right to make lanes, in memory. Ships, for tests; `shared.testing` has the bus."""

from __future__ import annotations

from uuid import UUID

from shared.bus import LaneEnds


class MemoryLaneAdmin:
    """Remembers which lanes are open; implements `shared.bus.LaneAdmin`."""

    def __init__(self) -> None:
        self.open: dict[UUID, LaneEnds] = {}
        self.closed: list[UUID] = []
        self.extensions: dict[UUID, LaneEnds] = {}

    async def open_lanes(self, ends: LaneEnds) -> None:
        """Declare a port's lanes; idempotent."""
        self.open[ends.port_id] = ends

    async def close_lanes(self, ends: LaneEnds) -> None:
        """Remove a port's lanes; idempotent."""
        if self.open.pop(ends.port_id, None) is not None:
            self.closed.append(ends.port_id)

    async def open_extension(self, ends: LaneEnds) -> None:
        """Declare an extension's lane; idempotent."""
        self.extensions[ends.port_id] = ends

    async def close_extension(self, ends: LaneEnds) -> None:
        """Remove it; idempotent."""
        self.extensions.pop(ends.port_id, None)
