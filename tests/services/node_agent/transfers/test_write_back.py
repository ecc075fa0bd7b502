"""Images that are written to their disk while they come."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from services.node_agent.transfers.write_back import write_back


async def test_images_are_synced_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them; one that is gone does not keep the others from it."""
    synced: list[Path] = []
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()

    def sync(file: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{file}")))
        if len(synced) >= 6:
            loop.call_soon_threadsafe(enough.set)

    monkeypatch.setattr(os, "fdatasync", sync)
    images = [tmp_path / name for name in ("one.raw", "two.raw")]
    for image in images:
        image.write_bytes(b"written")
    async with asyncio.timeout(10):
        writing = asyncio.ensure_future(write_back([images[0], tmp_path / "gone.raw", images[1]], pause_s=0.0))
        await enough.wait()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    assert synced[:4] == [*images, *images]


async def test_ends_when_no_image_can_be_written(tmp_path: Path) -> None:
    """QEMU then finds out, and the donor hears it from there."""
    async with asyncio.timeout(10):
        await write_back([tmp_path / "gone.raw"])
