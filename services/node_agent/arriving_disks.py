"""The disks of a VM that arrives: made whole and empty, anew as overlays if the donor asks in time, then left alone.

An overlay's base is this provider's own published image that is the very one which the donor named by what it is; a
path never comes from outside. All disks that the donor names become overlays, or none: libvirt copies the top layers of
all disks, or all layers. Owns no stream and fills no disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from services.node_agent import disk_images
from services.node_agent.base_images import OVERLAY_FORMAT, BaseImage
from services.node_agent.journal import HalfJournal, Kind
from services.node_agent.port_contents import InboundContents
from services.node_agent.signals import SignalError
from shared.messages.porting import ReservedDisk, ServiceChangeAgreement


class ArrivingDisks:
    """Those of one port; nothing is made outside of `image_dir`."""

    def __init__(
        self, agreement: ServiceChangeAgreement, *, image_dir: Path, journal: HalfJournal, contents: InboundContents
    ) -> None:
        self._agreement = agreement
        self._image_dir = image_dir
        self._journal = journal
        self._contents = contents
        self._making = asyncio.Lock()
        self._overlays: bool | None = None
        """None as long as that may still be decided."""

    async def make(self) -> None:
        """Make them whole. Raises `DiskImageError`."""
        for disk in self._agreement.disks:
            self._check_place(disk.path)
            if Path(disk.path).exists():  # noqa: ASYNC240  # one stat call
                raise disk_images.DiskImageError(disk.path, "exists already; it is not overwritten", code="disk_exists")
            self._journal.will_make(Kind.DISK, disk.path)
            await _make_whole(disk)

    def _check_place(self, path: str) -> None:
        if not Path(path).resolve().is_relative_to(self._image_dir.resolve()):
            raise disk_images.DiskImageError(path, f"lies outside of {self._image_dir}", code="disk_outside")

    async def make_overlays(self, wanted: Mapping[str, BaseImage]) -> str | None:
        """Make disks anew, by target; None, or why they all stay as they are.

        Raises `SignalError` where it is too late, `DiskImageError` where a disk is neither one nor the other now.
        """
        overlays = await self._find(wanted)
        async with self._making:
            if self._overlays is not None:
                raise SignalError("overlays are asked for too late, or twice")
            refusal = overlays if isinstance(overlays, str) else await self._make_anew(overlays)
            self._overlays = refusal is None
        return refusal

    async def _find(self, wanted: Mapping[str, BaseImage]) -> list[tuple[ReservedDisk, Path, BaseImage]] | str:
        """Each disk with the file that is its base and what that is, or why there are none."""
        if self._agreement.limits.overlays == "never":
            return "the tenant wants whole disks"
        disks = {disk.target: disk for disk in self._agreement.disks if disk.format == OVERLAY_FORMAT}
        if strange := sorted(wanted.keys() - disks.keys()):
            return f"not agreed as {OVERLAY_FORMAT} disks: {', '.join(strange)}"
        bases = await self._contents.find_bases(wanted)
        if missing := sorted(wanted.keys() - bases.keys()):
            return f"no such base image here for {', '.join(missing)}"
        return [(disks[target], bases[target], image) for target, image in wanted.items()]

    async def _make_anew(self, overlays: list[tuple[ReservedDisk, Path, BaseImage]]) -> str | None:
        try:
            for disk, base, image in overlays:
                await asyncio.to_thread(disk_images.remove, disk.path)
                await disk_images.create_overlay(
                    disk.path, disk.virtual_size_bytes, base=str(base), base_format=image.format
                )
        except disk_images.DiskImageError as error:
            for disk, _, _ in overlays:
                await asyncio.to_thread(disk_images.remove, disk.path)
                await _make_whole(disk)
            return str(error)
        return None

    async def settle(self) -> bool:
        """Whether they are overlays: from now on they stay what they are, and are used, or removed."""
        async with self._making:
            self._overlays = bool(self._overlays)
        return self._overlays


async def _make_whole(disk: ReservedDisk) -> None:
    await disk_images.create(disk.path, disk.format, disk.virtual_size_bytes)
