"""A host without virtualisation, for tests: VMs are values, but a migration is a real one over real unix sockets.

`FakeHypervisor.migrate` does what libvirtd and QEMU do at the donor (`fake_source`); `serve` is the libvirtd that the
other end talks to (`fake_destination`). It is held to the same contract as the real adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from uuid import UUID

from services.node_agent.hypervisor.fake_destination import serve_libvirtd
from services.node_agent.hypervisor.fake_host import DISK_BYTES, FakeVm
from services.node_agent.hypervisor.fake_platform import FakePlatform
from services.node_agent.hypervisor.fake_source import FakeSource
from services.node_agent.hypervisor.file_use import files_of
from services.node_agent.hypervisor.image_obstacles import told_by_images
from services.node_agent.hypervisor.interface import (
    MAX_PEEK_BYTES,
    EventListener,
    HypervisorError,
    JobStats,
    LiveVm,
    MigrationPlan,
    Obstacle,
    ObstacleCode,
)
from services.node_agent.hypervisor.running_check import RunningCheck
from services.node_agent.hypervisor.seen_cards import SeenCard, SeenCards
from shared.domain import DomainXmlError, describe, live_cards, parse
from shared.messages.vm import (
    HostCapacity,
    VmState,
    VmSummary,
)

GIB = 1 << 30


class FakeHypervisor(FakePlatform, RunningCheck):
    """One host, as `interface.Hypervisor`. `can_fence` is a knob; `max_downtimes_ms` and `peeks` say what was asked."""

    def __init__(self, *, bridges: tuple[str, ...] = ("vmbr0",)) -> None:
        super().__init__(bridges)
        self.can_fence = True
        self.max_downtimes_ms: list[int] = []
        self.peeks = 0
        self._source = FakeSource(self)

    def serve(self, path: Path) -> AbstractAsyncContextManager[None]:
        """Be the libvirtd at this socket."""
        return serve_libvirtd(self, path)

    async def connect(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    def listen(self, listener: EventListener) -> Callable[[], None]:
        """Hear events."""
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    async def capacity(self) -> HostCapacity:
        """Fixed."""
        self.ask_libvirtd()
        return HostCapacity(
            vcpus=4, memory_bytes=8 * GIB, memory_free_bytes=6 * GIB, disk_bytes=100 * GIB, disk_free_bytes=50 * GIB
        )

    async def inventory(self) -> tuple[VmSummary, ...]:
        """All VMs."""
        self.ask_libvirtd()
        summaries = []
        for uuid, vm in self.vms.items():
            facts = describe(vm.domain_xml)
            summary = VmSummary(
                uuid=uuid,
                name=facts.name,
                state=vm.state,
                memory_bytes=facts.memory_bytes,
                vcpus=facts.vcpus,
                disk_bytes=DISK_BYTES * len(facts.disks),
                macs=tuple(nic.mac for nic in facts.nics),
            )
            if vm.unreadable:
                unknown = {"disk_bytes": 0, "unsized_disks": ("all",), "macs": (), "problem": vm.unreadable}
                summary = summary.model_copy(update=unknown)
            summaries.append(summary)
        return tuple(summaries)

    async def describe(self, uuid: UUID) -> LiveVm:
        """One VM."""
        self.ask_libvirtd()
        vm = self.vm(uuid)
        if vm.unreadable:
            raise DomainXmlError(vm.unreadable)
        domain = parse(vm.domain_xml)
        facts = describe(domain)
        blockers = []
        if vm.state is VmState.SHUT_OFF:
            blockers.append("not_running: the VM does not run; only a running VM is ported")
        description = facts.told(
            state=vm.state,
            disks=tuple(
                drive.told(
                    virtual_size_bytes=DISK_BYTES if drive.source else 0,
                    allocated_bytes=DISK_BYTES // 2 if drive.source else 0,
                    beneath_bytes=DISK_BYTES * len(drive.layers),
                    file_bytes=DISK_BYTES if drive.source else 0,
                )
                for drive in facts.drives
            ),
            autostart=vm.autostart,
            persistent=vm.persistent,
            besides=tuple(blockers),
        )
        layers = {disk.target: disk.layers for disk in facts.disks if disk.layers}
        files = tuple(disk.source for disk in facts.disks if not disk.read_only)
        lasting = vm.lasting_xml or vm.domain_xml if vm.persistent else None
        return LiveVm(description, vm.domain_xml, domain, files, layers, lasting_xml=lasting)

    async def seen_cards(self, uuid: UUID) -> SeenCards:
        """What the test has set, or the cards alone."""
        self.ask_libvirtd()
        vm = self.vm(uuid)
        return vm.seen or SeenCards(tuple(SeenCard(*card) for card in live_cards(vm.domain_xml)))

    async def obstacles(self, uuid: UUID) -> tuple[Obstacle, ...]:
        """Those that the test gave the VM, and what its state and its images say."""
        self.ask_libvirtd()
        vm = self.vm(uuid)
        found = list(vm.obstacles)
        if vm.state is VmState.PAUSED:
            found.append(Obstacle(ObstacleCode.PAUSED, "the VM is paused by its operator"))
        facts = describe(vm.domain_xml + "\n")  # as with libvirt, not the text that `describe` reads
        found += told_by_images(facts, {disk.target: disk.layers for disk in facts.disks if disk.layers})
        found += self.secrets.obstacles(facts)
        if vm.frozen:
            found.append(Obstacle(ObstacleCode.NOT_ANSWERED, "its QEMU has not answered"))
        return tuple(found)

    async def state(self, uuid: UUID) -> VmState | None:
        """Its state."""
        self.ask_libvirtd()
        return self.vms[uuid].state if uuid in self.vms else None

    async def is_left_behind(self, uuid: UUID) -> bool:
        """As the test says."""
        self.ask_libvirtd()
        vm = self.vms.get(uuid)
        return vm is not None and vm.state is VmState.PAUSED and vm.left_behind

    async def is_paused_after_start(self, uuid: UUID) -> bool:
        """As the test says."""
        self.ask_libvirtd()
        vm = self.vms.get(uuid)
        return vm is not None and vm.state is VmState.PAUSED and bool(vm.ran_at_s)

    async def files_in_use(self, *, besides: UUID | None = None) -> Mapping[str, str]:
        """As the definitions say, and the headers of the images that they name."""
        return {
            path: describe(vm.domain_xml).name
            for uuid, vm in reversed(self.vms.items())
            if uuid != besides
            for path in files_of(vm.domain_xml, lambda _pool, _volume: None)
        }

    async def peek_memory(self, uuid: UUID, address: int, size: int) -> bytes:
        """As much of `memory`, and zeros."""
        self.ask_libvirtd()
        vm = self.vm(uuid)
        if vm.state is VmState.SHUT_OFF or size > MAX_PEEK_BYTES:
            raise HypervisorError(f"read the memory of VM {uuid}", f"it is {vm.state}, {size} bytes asked for")
        self.peeks += 1
        return vm.memory[address : address + size].ljust(size, b"\0")

    async def define(self, domain_xml: str) -> None:
        """Make it persistent, or add it shut off."""
        self.ask_libvirtd()
        uuid = UUID(describe(domain_xml).uuid)
        known = self.vms.get(uuid)
        if known is None:
            self.vms[uuid] = FakeVm(domain_xml, state=VmState.SHUT_OFF)
        else:
            known.persistent = True
            known.lasting_xml = domain_xml

    async def undefine(self, uuid: UUID, *, keep_nvram: bool) -> None:  # noqa: ARG002  # there is no such state here
        """Make it transient; gone if it does not run."""
        self.ask_libvirtd()
        vm = self.vm(uuid)
        vm.persistent = vm.autostart = False
        if vm.state is VmState.SHUT_OFF:
            del self.vms[uuid]

    async def set_autostart(self, uuid: UUID, *, enabled: bool) -> None:
        """Remember it."""
        self.ask_libvirtd()
        self.vm(uuid).autostart = enabled

    async def start(self, uuid: UUID) -> None:
        """Boot it."""
        self.ask_libvirtd()
        if self.vm(uuid).state is VmState.SHUT_OFF:
            self.power_on(uuid)

    async def resume(self, uuid: UUID) -> None:
        """Run, if it may."""
        vm = self._reachable(uuid)
        if vm.state is VmState.PAUSED:
            self.let_run(uuid, vm)

    async def destroy(self, uuid: UUID) -> None:
        """End it."""
        self.ask_libvirtd()
        if uuid in self.vms and self.vms[uuid].state is not VmState.SHUT_OFF:
            self._reachable(uuid)
            self.stop(uuid, "destroyed")

    async def destroy_created(self, uuid: UUID, *, disks: tuple[str, ...]) -> None:
        """End it if it has these disks and does not last."""
        self.ask_libvirtd()
        vm = self.vms.get(uuid)
        if vm is None or not {disk.source for disk in describe(vm.domain_xml).disks} & set(disks):
            return
        if vm.persistent:
            raise HypervisorError(f"destroy VM {uuid}", "a lasting VM of this host uses the port's disks")
        await self.destroy(uuid)

    async def job(self, uuid: UUID) -> JobStats | None:
        """The running migration."""
        self.ask_libvirtd()
        job = self.jobs.get(uuid)
        if job is None:
            return None
        return JobStats(
            memory_total_bytes=job.total_bytes,
            memory_processed_bytes=job.sent_bytes,
            memory_remaining_bytes=job.total_bytes - job.sent_bytes,
            memory_iteration=1,
        )

    async def completed_job(self, uuid: UUID) -> JobStats | None:
        """Always a downtime of 7 ms, where the VM is still known."""
        self.ask_libvirtd()
        return JobStats(downtime_ms=7) if uuid in self.vms else None

    async def abort_job(self, uuid: UUID) -> None:
        """Abort the migration."""
        self.ask_libvirtd()
        if uuid in self.vms:
            self._reachable(uuid)
        if uuid in self.jobs:
            self.jobs[uuid].aborted.set()

    async def takes_switchover_bandwidth(self) -> bool:
        """Its downtimes are fixed; it plans nothing."""
        self.ask_libvirtd()
        return True

    async def set_max_downtime(self, uuid: UUID, milliseconds: int) -> None:
        """Remember it."""
        self.ask_libvirtd()
        self.vm(uuid)
        self.max_downtimes_ms.append(milliseconds)

    async def start_post_copy(self, uuid: UUID) -> None:
        """Not possible here."""
        raise HypervisorError(f"start post-copy of VM {uuid}", "the fake has none")

    async def freeze(self, uuid: UUID) -> bool:
        """Keep it from running. Needs no libvirtd: the fence is a signal to QEMU's process."""
        vm = self.vm(uuid)
        vm.frozen = self.can_fence and vm.state is not VmState.SHUT_OFF
        return self.can_fence

    async def thaw(self, uuid: UUID) -> None:
        """Let it run again, at once if somebody wanted it meanwhile."""
        vm = self.vms.get(uuid)
        if vm is None:
            return
        vm.frozen = False
        if vm.runs_after_thaw:
            vm.runs_after_thaw = False
            self.let_run(uuid, vm)
        if vm.unreachable and self.libvirtd_up:
            self.reconnect(uuid, vm)

    def _reachable(self, uuid: UUID) -> FakeVm:
        """A VM with which libvirtd can do something. Raises `HypervisorError`."""
        self.ask_libvirtd()
        vm = self.vm(uuid)
        if vm.unreachable:
            raise HypervisorError(f"change VM {uuid}", "cannot acquire state change lock (held by reconnect)")
        return vm

    async def kill_frozen(self, uuid: UUID) -> bool:
        """End it if it is frozen."""
        vm = self.vms.get(uuid)
        if vm is None or not vm.frozen:
            return False
        self.stop(uuid)
        return True

    async def frozen(self) -> frozenset[UUID]:
        """Those that are frozen."""
        return frozenset(uuid for uuid, vm in self.vms.items() if vm.frozen)

    async def vcpu_time_ns(self, uuid: UUID) -> int | None:
        """A second for each time that it was started or resumed."""
        vm = self.vms.get(uuid)
        return None if vm is None or vm.state is VmState.SHUT_OFF else len(vm.ran_at_s) * 1_000_000_000

    async def migrate(self, plan: MigrationPlan) -> None:
        """Move a VM as libvirt does. It goes on when its caller is cancelled, and ends with its libvirtd."""
        self._reachable(plan.vm_uuid)
        migration = asyncio.ensure_future(self._source.migrate(plan))
        self.migrations[migration] = plan.vm_uuid
        migration.add_done_callback(self._ended)
        try:
            await asyncio.shield(migration)
        except asyncio.CancelledError:
            if not migration.cancelled():
                raise
            raise HypervisorError(f"migrate VM {plan.vm_uuid}", "Cannot recv data: connection reset") from None

    def _ended(self, migration: asyncio.Future[None]) -> None:
        del self.migrations[migration]
        if not migration.cancelled():
            migration.exception()  # its caller may be dead
