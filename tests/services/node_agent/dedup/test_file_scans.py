"""Files that are read before anybody asks for them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from services.node_agent.dedup import file_scans
from services.node_agent.dedup.blocks import Scanned, scan
from services.node_agent.dedup.file_scans import FileScans
from services.node_agent.page_codec.contents import CONTENT_BYTES

NOISE = np.random.default_rng(3).bytes(600 * CONTENT_BYTES)


async def test_what_is_read_ahead_is_what_a_scan_finds(tmp_path: Path) -> None:
    """Begun before or not, and no more than is asked for."""
    files = [tmp_path / name for name in ("one.raw", "two.raw")]
    for number, file in enumerate(files):
        file.write_bytes(NOISE[number * CONTENT_BYTES :])
    scans = FileScans()
    scans.begin(files[:1])
    for file in files:
        found, expected = await scans.of(file, limit=400), scan(file, limit=400)
        assert (found.blocks == expected.blocks).all()
        assert (found.digests == expected.digests).all()
        assert found.whole == expected.whole
        assert len(found.blocks) == 400
    await scans.close()


async def test_a_file_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    """It costs bytes, not the port."""
    scans = FileScans()
    assert len((await scans.of(tmp_path / "gone.raw", limit=10)).blocks) == 0
    await scans.close()


async def test_closing_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that reads a large disk ends with the port, not with the disk."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    reading = asyncio.Event()

    def endless(path: Path, *, limit: int, stopped: object) -> Scanned:  # noqa: ARG001  # scan's signature
        loop.call_soon_threadsafe(reading.set)
        while not stopped():  # type: ignore[operator]
            pass
        loop.call_soon_threadsafe(ended.set)
        return Scanned.empty()

    monkeypatch.setattr(file_scans, "scan", endless)
    scans = FileScans()
    scans.begin([tmp_path / "large.raw", tmp_path / "next.raw"])
    async with asyncio.timeout(10):
        await reading.wait()
        await scans.close()
        await ended.wait()
