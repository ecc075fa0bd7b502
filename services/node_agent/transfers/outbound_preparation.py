"""Everything an outbound transfer does before libvirt migrates: checks the VM, seeds until the window opens, agrees on
overlays, exchanges known contents with the recipient and sends read-only disks.

The guest and libvirt know nothing of this, so there is nothing to undo. Starts no migration.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from services.node_agent.dedup.overlay_request import ask_for_overlays
from services.node_agent.dedup.seeding import Seeding, SeedSource
from services.node_agent.hypervisor.disk_images import DiskImageError
from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError, LiveVm, MigrationAborted
from services.node_agent.hypervisor.ram_layout import ram_ranges
from services.node_agent.lanes.core.errors import LaneError, QuestionError, StreamError
from services.node_agent.switchover.readiness import BrokerReadiness
from services.node_agent.transfers.errors import ReadOnlyDiskError
from services.node_agent.transfers.outbound_secrets import hand_over_secrets
from services.node_agent.transfers.port_contents import OutboundContents
from services.node_agent.transfers.port_lanes import PortLanes
from services.node_agent.transfers.progress import ProgressMeter, SeedingMeter
from services.node_agent.transfers.read_only_disks import ReadOnlyImage, send_read_only
from services.node_agent.transfers.reporting import OutboundReporter
from shared.domain import describe, guest_abi_differences, without_media_in
from shared.ejecting import ejected_targets, without_media
from shared.logs import get_logger
from shared.messages.porting import ServiceChangeAgreement
from shared.messages.vm import VmState
from shared.tasks import Tasks, first_of
from shared.topology import Lane

log = get_logger(__name__)

CLOCK_EVERY_S = 60.0
"""How often the broker is asked before the window opens, so that its clock is known: ours may be wrong by minutes."""
CLOCK_WITHIN_S = 5.0
GREETING_BYTES = 64 * 1024
"""More than NBD says before it writes."""


class OutboundPreparation:
    """Prepares one outbound transfer. Its background work belongs to `tasks`; `trouble` hears (code, detail)."""

    def __init__(
        self,
        agreement: ServiceChangeAgreement,
        *,
        hypervisor: Hypervisor,
        lanes: PortLanes,
        contents: OutboundContents,
        reporter: OutboundReporter,
        started: Callable[[], Awaitable[None]],
        trouble: Callable[[str, str], None],
        tasks: Tasks,
        ready_within_s: float,
        progress_every_s: float,
        seeding_every_s: float,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        readiness: BrokerReadiness | None = None,
    ) -> None:
        """`clock` measures, in seconds. The window opens by the broker's time of day, which `readiness` knows, or by
        `now`.
        """
        self._agreement = agreement
        self._hypervisor = hypervisor
        self._lanes = lanes
        self._contents = contents
        self._reporter = reporter
        self._started = started
        self._note_trouble = trouble
        self._tasks = tasks
        self._ready_within_s = ready_within_s
        self._progress_every_s = progress_every_s
        self._seeding_every_s = seeding_every_s
        self._clock = clock
        self._now = now if readiness is None else readiness.brokers_now
        self._readiness = readiness
        self.cancelled = asyncio.Event()
        # Set once it is known what the recipient has, and when the port ends before that. What left earlier would leave
        # in full, so the recipient's libvirt is prepared and then this is waited for.
        self.contents_known = asyncio.Event()
        self.overlays = False
        """Whether only the disks' top layers are copied; settled by `negotiate_overlays`."""
        self.seeded_bytes = 0
        self._read_only_sent = asyncio.Event()

    # ---- seeding ----

    def _to_window_s(self) -> float:
        return (self._agreement.window_start - self._now()).total_seconds()

    async def seed_until_window(self) -> None:
        """Return when the window is open. A seeding that fails is waited out; a lane or a cancel ends the port.

        Raises LaneError, TimeoutError, HypervisorError, MigrationAborted.
        """
        if not self._agreement.limits.seed:
            return
        if self._readiness is None:
            await self._seed_until_window()
            return
        asking = self._tasks.spawn(self._readiness.run(every_s=CLOCK_EVERY_S), name="the broker's clock")
        try:
            await self._readiness.wait_fresh(CLOCK_WITHIN_S)
            await self._seed_until_window()
        finally:
            asking.cancel()

    async def _seed_until_window(self) -> None:
        if self._to_window_s() <= 0:
            return
        vm = await self.check_vm()
        await self._unless_cancelled(self._lanes.wait_ready(self._ready_within_s))
        await self._started()
        source = SeedSource(
            vm_uuid=self._agreement.vm_uuid,
            disks=[Path(file) for file in (*vm.files, *read_only_files(vm).values())],
            disk_bytes=sum(disk.allocated_bytes for disk in vm.description.disks),
            ram=ram_ranges(vm.domain),
        )
        with self._contents.seeding(self._lanes.disk, source, self._hypervisor) as seeding:
            running = self._tasks.spawn(seeding.run(), name="seed")
            try:
                await self._unless_cancelled(self._report_until_window(seeding))
            finally:
                running.cancel()
                await asyncio.wait({running})
        self.seeded_bytes = self._lanes.wire_bytes()

    async def _report_until_window(self, seeding: Seeding) -> None:
        """Report how far the seeding is until the window opens. Raises LaneError."""
        meter = SeedingMeter()
        while (left_s := self._to_window_s()) > 0:
            progress = meter.update(
                disk=seeding.disk, memory=seeding.memory, sent_bytes=seeding.sent_bytes, now_s=self._clock()
            )
            await self._reporter.progressed(progress, wire_bytes=self._lanes.wire_bytes())
            await asyncio.wait({self._lanes.failed}, timeout=min(left_s, self._seeding_every_s))
            if self._lanes.failed.done():
                raise self._lanes.failed.result()

    async def _unless_cancelled(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what takes minutes when the other end does not answer, or hours until the window; a cancel ends it."""
        if await first_of(work, self.cancelled.wait()) == 1:
            raise MigrationAborted("wait for the recipient's node agent or the window", "cancelled before it began")

    # ---- the VM ----

    async def check_vm(self) -> LiveVm:
        """The VM as it runs now. Raises `HypervisorError` where it cannot leave, or is not what was agreed."""
        agreement = self._agreement
        vm = await self._hypervisor.describe(agreement.vm_uuid)
        if vm.description.state is not VmState.RUNNING:
            raise HypervisorError("check the VM", f"{agreement.vm_name} is {vm.description.state}, not running")
        obstacles = await self._hypervisor.obstacles(agreement.vm_uuid)
        eject = agreement.limits.eject
        if against := (*without_media(vm.description, eject).blockers, *map(str, obstacles)):
            raise HypervisorError("check the VM", "; ".join(against))
        gone = ejected_targets(vm.description, eject)
        goes = without_media_in(vm.domain, gone) if gone else vm.domain
        if differences := guest_abi_differences(goes, agreement.domain_xml):
            raise HypervisorError("check the VM", "it changed since the agreement: " + "; ".join(differences[:5]))
        self._check_media(vm)
        return vm

    def _check_media(self, vm: LiveVm) -> None:
        """The guest would find another medium in a drive than it left there, or none."""
        agreed = {disk.target for disk in self._agreement.disks if disk.read_only}
        here = read_only_files(vm).keys() - ejected_targets(vm.description, self._agreement.limits.eject)
        if agreed != here:
            detail = f"{', '.join(sorted(here)) or 'none'}, agreed: {', '.join(sorted(agreed)) or 'none'}"
            raise HypervisorError(
                "check the VM", f"its media and read-only disks changed since the agreement: {detail}"
            )

    # ---- overlays ----

    async def negotiate_overlays(self, vm: LiveVm) -> None:
        """Wait for the other end, and settle with it whether it makes overlays. Raises as `seed_until_window`."""
        await self._unless_cancelled(self._ask_for_overlays(vm))
        if not self.overlays:
            return
        # The top layers alone are the disks only while beneath them lies what the recipient was asked for.
        now = await self._hypervisor.describe(self._agreement.vm_uuid)
        if (now.files, now.layers) != (vm.files, vm.layers):
            raise HypervisorError("check the VM", "what its disks lie on changed while the port was prepared")

    async def _ask_for_overlays(self, vm: LiveVm) -> None:
        await self._lanes.wait_ready(self._ready_within_s)
        if self._agreement.limits.overlays == "never" or not vm.layers or describe(vm.domain).encrypted_disks:
            return
        wanted = await self._contents.overlays(vm.layers)
        self.overlays = wanted is not None and await ask_for_overlays(self._lanes.control, wanted)
        log.info("overlays negotiated", overlays=self.overlays, disks=sorted(vm.layers))

    # ---- secrets ----

    async def hand_over_secrets(self, vm: LiveVm) -> tuple[UUID, ...]:
        """Let the recipient's libvirt have the keys of what is encrypted; return which of this host's they are.

        Raises as `seed_until_window`.
        """
        handed: tuple[UUID, ...] = ()

        async def hand_over() -> None:
            nonlocal handed
            handed = await hand_over_secrets(vm, self._agreement, self._hypervisor, self._lanes.control)

        await self._unless_cancelled(hand_over())
        return handed

    # ---- read-only disks ----

    def meter(self, vm: LiveVm) -> ProgressMeter:
        """For what is to be moved, when the overlays are settled."""
        return ProgressMeter(
            disk_bytes=sum(
                disk.allocated_bytes + (0 if self.overlays else disk.beneath_bytes)
                for disk in vm.description.disks
                if not disk.read_only
            ),
            memory_bytes=vm.description.memory_bytes,
            ahead_bytes=sum(disk.file_bytes for disk in self._agreement.disks),
        )

    async def send_read_only(self, vm: LiveVm, meter: ProgressMeter) -> None:
        """Send what QEMU will not; return when the recipient has it on its disk. Progress is reported by `meter`.

        Raises `ReadOnlyDiskError`, and as `seed_until_window`.
        """
        files = read_only_files(vm)
        images = [
            ReadOnlyImage(disk.target, files[disk.target], disk.file_bytes)
            for disk in self._agreement.disks
            if disk.read_only
        ]
        if not images:
            return
        await self._started()
        try:
            await self._unless_cancelled(self._send_read_only(images, meter))
        except (DiskImageError, QuestionError, StreamError) as error:
            raise ReadOnlyDiskError(str(error)) from error
        if read_only_files(await self._hypervisor.describe(self._agreement.vm_uuid)) != files:
            raise HypervisorError("check the VM", "its media changed while the port was prepared")

    async def _send_read_only(self, images: list[ReadOnlyImage], meter: ProgressMeter) -> None:
        await self.contents_known.wait()
        reporting = self._tasks.spawn(self._report_read_only(meter), name="progress of read-only disks")
        try:
            await send_read_only(self._lanes.disk, self._contents.codecs.port, images, meter.sent_ahead)
        finally:
            reporting.cancel()
        self._read_only_sent.set()

    async def _report_read_only(self, meter: ProgressMeter) -> None:
        while True:
            await asyncio.sleep(self._progress_every_s)
            await self._reporter.progressed(meter.ahead(now_s=self._clock()), wire_bytes=self._lanes.wire_bytes())

    # ---- known contents ----

    def exchange_contents(self, vm: LiveVm) -> None:
        """Begin to learn what the other end has, while both hypervisors prepare; then send early and serve refetches.

        `contents_known` is set when the first part is over, whatever came of it.
        """
        self._tasks.spawn(self._exchange_contents(vm), name="exchange contents")

    async def _exchange_contents(self, vm: LiveVm) -> None:
        beneath = {layer.path: None for layers in vm.layers.values() for layer in layers if layer.path is not None}
        copied = (*vm.files, *read_only_files(vm).values(), *(() if self.overlays else beneath))
        try:
            await self._contents.learn(self._lanes.control, [Path(file) for file in copied])
        except LaneError as error:
            self._note_trouble("lane_failed", str(error))
        finally:
            self.contents_known.set()
        self._tasks.spawn(self._send_early(vm), name="early transfer")
        await self._contents.serve_refetches()

    async def _send_early(self, vm: LiveVm) -> None:
        """Use the link until the disks' own bytes flow; before that only NBD's greetings cross. What the migration
        waits for goes first.
        """
        if any(disk.read_only for disk in self._agreement.disks):
            await self._read_only_sent.wait()
        disks = describe(vm.domain).disks
        images = [Path(disk.source) for disk in disks if disk.format == "raw" and not disk.read_only]
        try:
            await self._contents.send_early(self._lanes.disk, images, over=self._disks_flow)
        except LaneError as error:
            log.info("early transfer stopped: lane lost", error=str(error))
        except StreamError as error:
            self._note_trouble("early_contents", str(error))

    def _disks_flow(self) -> bool:
        return self._lanes.raw_bytes_by_direction(Lane.DISK)[0] > GREETING_BYTES


def read_only_files(vm: LiveVm) -> dict[str, str]:
    """By target, the files of read-only disks and inserted media."""
    return {disk.target: disk.source for disk in describe(vm.domain).disks if disk.read_only}
