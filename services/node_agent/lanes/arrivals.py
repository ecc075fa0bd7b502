"""A wake-up that several tasks may wait for: contents have arrived, so try again."""

from __future__ import annotations

import asyncio


class Arrivals:
    """Tells the streams of one port that another one has decoded something, which they may be waiting for."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def tell(self) -> None:
        """Wake every task that waits now."""
        # A new event each time: set() has released all who wait, and nobody can miss it between set() and clear().
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self) -> None:
        """Return at the next `tell`."""
        await self._changed.wait()
