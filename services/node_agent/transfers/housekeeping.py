"""What is done beside transfers: the cache is kept within its size, and what ended transfers left behind is removed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol
from uuid import UUID

import structlog

from services.node_agent.malloc import trim
from shared.tasks import Tasks

REMOVE_AGAIN_S = 60.0
"""How often it is tried to remove what ended transfers left behind."""


class Contents(Protocol):
    """The contents of disks that this node keeps."""

    async def sweep(self, active: Collection[UUID]) -> None:
        """Remove what is too much, but nothing of these ports."""
        ...


class Ended(Protocol):
    """Transfers that have ended."""

    async def remove_again(self, active: Callable[[], Collection[UUID]]) -> None:
        """Try to remove what could not be removed, but nothing of active ports."""
        ...


class Housekeeping:
    """One per node. Its work runs in the tasks that it is given."""

    def __init__(
        self,
        contents: Contents,
        ended: Ended,
        *,
        active: Callable[[], Collection[UUID]],
        tasks: Tasks,
        remove_again_s: float | None = None,
    ) -> None:
        self._contents = contents
        self._ended = ended
        self._active = active
        self._tasks = tasks
        self._remove_again_s = REMOVE_AGAIN_S if remove_again_s is None else remove_again_s

    def start(self) -> None:
        """Begin; once per process."""
        self._tasks.spawn(self._remove_again(), name="remove again")
        self.sweep()

    def sweep(self) -> None:
        """At the start and after each transfer: the cache grows only by transfers."""
        self._tasks.spawn(self._sweep_cache(), name="sweep the cache")

    async def _remove_again(self) -> None:
        while True:
            await self._ended.remove_again(self._active)
            await asyncio.sleep(self._remove_again_s)

    async def _sweep_cache(self) -> None:
        # This task inherits the context of the transfer that ended; its log lines are not about that port.
        structlog.contextvars.clear_contextvars()
        await self._contents.sweep(tuple(self._active()))
        await asyncio.to_thread(trim)
