"""The donor's own files as they are offered: read from when it is clear that they may be, which is before anybody asks.

A disk is read as long as lanes and hypervisors take to begin, so the two go on at once; a recipient that knows nothing
costs the part that was read when it says so.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from pathlib import Path

import structlog

from services.node_agent.dedup.blocks import Scanned, scan
from services.node_agent.page_codec.exchange.known import MAX_OFFERS, SAMPLE
from shared.tasks import Tasks

log = structlog.stdlib.get_logger(__name__)


class FileScans:
    """Of one port. One file is read at a time, in a thread. `close` it at the end."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._tasks = Tasks("file scans")
        self._turn = asyncio.Lock()
        self._scans: dict[Path, asyncio.Task[Scanned]] = {}

    def begin(self, paths: Iterable[Path]) -> None:
        """Read these, unless that has begun."""
        for path in paths:
            if path not in self._scans:
                self._scans[path] = self._tasks.spawn(self._scan(path), name=path.name)

    async def of(self, path: Path, *, limit: int) -> Scanned:
        """At most so many contents of a file; none of one that cannot be read."""
        self.begin([path])
        return (await asyncio.shield(self._scans[path])).first(limit)

    async def close(self) -> None:
        """Read no further, and forget what was read; idempotent."""
        self._stopped.set()
        self._scans.clear()
        await self._tasks.close()

    async def _scan(self, path: Path) -> Scanned:
        async with self._turn:
            try:
                return await asyncio.to_thread(scan, path, limit=MAX_OFFERS - SAMPLE, stopped=self._stopped.is_set)
            except OSError as error:
                log.info("a file cannot be offered", file=str(path), reason=str(error))
                return Scanned.empty()
