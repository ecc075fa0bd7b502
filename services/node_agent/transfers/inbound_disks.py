"""The disks of a guest that arrives: made where the agreement says, laid on base images where both sides have them,
written back to the host's disk while they fill; read-only ones are filled before the migration, encrypted ones made
when their keys have come.

Nothing is overwritten and nothing lies outside of the image directory. The journal knows each disk before it is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from services.node_agent.dedup.base_images import OverlaysWanted
from services.node_agent.dedup.overlay_request import answer_overlays, read_overlays_wanted
from services.node_agent.hypervisor import disk_images, luks
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.state.journal import Kind, TransferJournal
from services.node_agent.transfers.port_contents import InboundContents
from services.node_agent.transfers.read_only_disks import ReadOnlyReceiver, of_reserved
from services.node_agent.transfers.secret_handover import HandedSecret
from services.node_agent.transfers.write_back import write_back
from shared.domain import describe
from shared.logs import get_logger
from shared.messages.porting import ServiceChangeAgreement
from shared.tasks import Tasks

log = get_logger(__name__)


class InboundDisks:
    """One port's disks at the recipient. `settle` before anybody opens or removes them."""

    def __init__(
        self,
        agreement: ServiceChangeAgreement,
        *,
        image_dir: Path,
        journal: TransferJournal,
        contents: InboundContents,
        tasks: Tasks,
    ) -> None:
        self._agreement = agreement
        self._image_dir = image_dir
        self._journal = journal
        self._contents = contents
        self._tasks = tasks
        self._read_only = ReadOnlyReceiver(of_reserved(agreement.disks), contents.codecs.port, contents.codecs.arrivals)
        self._encrypted: frozenset[str] = frozenset()
        self._lock = asyncio.Lock()
        self._settled = False
        self._writing_back: asyncio.Task[None] | None = None
        self.overlays = False
        """Whether the disks lie on base images of this host; final once settled."""

    async def create(self) -> None:
        """Make all disks, empty, but the encrypted ones.

        Raises `DiskImageError`, also for one that is there already; DomainXmlError, OSError.
        """
        self._encrypted = describe(self._agreement.domain_xml).encrypted_disks
        for disk in self._agreement.disks:
            self._check_place(disk.path)
            if Path(disk.path).exists():  # noqa: ASYNC240  # one stat call
                raise disk_images.DiskImageError(disk.path, "exists already; it is not overwritten", code="disk_exists")
            if disk.target in self._encrypted:
                continue  # made when its key is here
            self._journal.will_create(Kind.DISK, disk.path)
            if disk.read_only:
                await disk_images.create(disk.path, "raw", disk.file_bytes)  # filled byte for byte, whatever it is
            else:
                await disk_images.create(disk.path, disk.format, disk.virtual_size_bytes)

    async def create_encrypted(self, keys: Mapping[str, HandedSecret]) -> None:
        """Make the encrypted disks, by target, empty. Raises as `create`."""
        for disk in self._agreement.disks:
            if (handed := keys.get(disk.target)) is None:
                continue
            if disk.format != "qcow2" or handed.luks is None or disk.read_only:
                raise disk_images.DiskImageError(disk.path, "is encrypted, and not agreed as LUKS inside QCOW2")
            if Path(disk.path).exists():  # noqa: ASYNC240  # one stat call
                raise disk_images.DiskImageError(disk.path, "exists already; it is not overwritten", code="disk_exists")
            self._journal.will_create(Kind.DISK, disk.path)
            await luks.create_encrypted(disk.path, disk.virtual_size_bytes, handed.value, handed.luks)

    def _check_place(self, path: str) -> None:
        if not Path(path).resolve().is_relative_to(self._image_dir.resolve()):
            raise disk_images.DiskImageError(path, f"lies outside of {self._image_dir}", code="disk_outside")

    async def receive_read_only(self, stream: LaneStream) -> None:
        """Fill read-only disks. Raises as `ReadOnlyReceiver.receive`."""
        await self._read_only.receive(stream)

    def check_read_only(self) -> None:
        """Raise `DiskImageError` while a read-only disk is not complete: the guest would find nothing in it."""
        if self._read_only.missing:
            disks = ", ".join(sorted(self._read_only.missing))
            raise disk_images.DiskImageError(
                f"of {disks}", "has not come, and the migration begins", code="read_only_disk"
            )

    async def answer_overlays(self, stream: LaneStream) -> None:
        """Answer the donor's question for overlays, and make them. Raises QuestionError, `DiskImageError`."""
        wanted = await read_overlays_wanted(stream)
        async with self._lock:
            if not self._settled:
                self._settled = True
                self.overlays = await self._make_overlays(wanted)
        await answer_overlays(stream, made=self.overlays)

    async def _make_overlays(self, wanted: OverlaysWanted) -> bool:
        """Lay the images on the catalogue's, all or none. Raises `DiskImageError` where some are and some are not."""
        if self._agreement.limits.overlays == "never" or self._encrypted:
            return False
        layered = (disk for disk in self._agreement.disks if disk.format == "qcow2" and not disk.read_only)
        paths = {disk.target: disk.path for disk in layered}
        if not wanted.bases.keys() <= paths.keys():
            return False
        bases = await self._contents.bases(wanted)
        if bases is None:
            return False
        try:
            for target, base in bases.items():
                # The path is ours and the format is what we found: of the donor's words only the digest counts.
                await disk_images.lay_on(paths[target], str(base), wanted.bases[target].format)
        except disk_images.DiskImageError as error:
            log.warning("overlays cannot be made; disks are copied whole", error=str(error))
            for target in bases:
                await disk_images.lay_on(paths[target], "", "")
            return False
        return True

    async def settle(self) -> None:
        """From now on nothing changes how the disks are made: somebody opens them, or removes them."""
        async with self._lock:
            self._settled = True

    def write_back(self) -> None:
        """The disks begin to fill: write them to the host's disk from now on; idempotent."""
        if self._writing_back is None:
            images = [Path(disk.path) for disk in self._agreement.disks if not disk.read_only]
            self._writing_back = self._tasks.spawn(write_back(images), name="write images back")
