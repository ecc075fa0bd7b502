"""Scans of the donor's own files for the exchange, begun before the recipient is asked.

Lanes and hypervisors need seconds to start, and so does the scan of a disk: the two run at the same time. If the
recipient then has nothing, only the part that was read until its answer was wasted.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from pathlib import Path

from services.node_agent.dedup.blocks import Scanned, scan
from services.node_agent.page_codec.exchange.known import MAX_OFFERS, SAMPLE
from shared.logs import get_logger
from shared.tasks import Tasks

log = get_logger(__name__)


class FileScans:
    """The scans of one port. One file is read at a time, in a thread. Close it at the end."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._tasks = Tasks("file scans")
        self._turn = asyncio.Lock()
        self._scans: dict[Path, asyncio.Task[Scanned]] = {}

    def begin(self, paths: Iterable[Path]) -> None:
        """Begin to scan these files, as far as they are not being scanned already."""
        for path in paths:
            if path not in self._scans:
                self._scans[path] = self._tasks.spawn(self._scan(path), name=path.name)

    async def of(self, path: Path, *, limit: int) -> Scanned:
        """At most `limit` contents of a file; none if it cannot be read."""
        self.begin([path])
        return (await asyncio.shield(self._scans[path])).first(limit)

    async def close(self) -> None:
        """Stop reading and drop the results; idempotent."""
        self._stopped.set()
        self._scans.clear()
        await self._tasks.close()

    async def _scan(self, path: Path) -> Scanned:
        async with self._turn:
            try:
                return await asyncio.to_thread(scan, path, limit=MAX_OFFERS - SAMPLE, stopped=self._stopped.is_set)
            except OSError as error:
                log.info("file not offered", file=str(path), reason=str(error))
                return Scanned.empty()
