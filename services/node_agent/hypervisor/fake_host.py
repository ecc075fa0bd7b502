"""What the fake host consists of: its VMs, its libvirtd, its jobs, its listeners, and what befalls them. No migration.

A VM here is a QEMU process with its guest, and libvirt's view of it. libvirtd may die and come back; a QEMU lives on
meanwhile, and what libvirtd does with a VM that was being migrated follows libvirt's `qemu_process.c`, phase by phase.
The content of a disk is a version: `guest_writes` counts it up, and where the image is a file it stands at its start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from services.node_agent.hypervisor.fake_secrets import FakeSecrets
from services.node_agent.hypervisor.interface import (
    EventListener,
    HypervisorError,
    Lifecycle,
    LifecycleEvent,
    Obstacle,
    VmNotFound,
)
from services.node_agent.hypervisor.seen_cards import SeenCards
from shared.domain import describe
from shared.messages.vm import VmState

DISK_BYTES = 1 << 20
"""Virtual size of every disk here, whatever the XML's image says."""
_VERSION_BYTES = 8


class MigrationPhase(StrEnum):
    """How far libvirt's migration of a VM is, by libvirt's own names; it decides what a restarted libvirtd does."""

    NONE = "none"
    PREPARE = "prepare"
    BEGIN = "begin3"
    PERFORM = "perform3"
    PERFORM_DONE = "perform3_done"
    CONFIRM_CANCELLED = "confirm3_cancelled"
    CONFIRM = "confirm3"
    FINISH = "finish3"


@dataclass(slots=True)
class FakeVm:
    """A VM. `memory` is what a migration moves; read by address it is what lies there, and zeros follow it."""

    domain_xml: str
    state: VmState = VmState.RUNNING
    persistent: bool = True
    autostart: bool = False
    memory: bytes = b""
    disk: bytes = b""
    frozen: bool = False
    runs_after_thaw: bool = False
    phase: MigrationPhase = MigrationPhase.NONE
    unreachable: bool = False
    """libvirtd was restarted while QEMU was stopped: it waits for the monitor and can do nothing with this VM."""
    content: int = 0
    """The version of the disk's content as its guest knows it."""
    ran_at_s: list[float] = field(default_factory=list)
    """When it was started or resumed: two hosts' lists show whether two copies ever ran."""
    files: list[int] = field(default_factory=list)
    """Open images, as QEMU has them: what is unlinked stays open."""
    obstacles: tuple[Obstacle, ...] = ()
    """What libvirt and QEMU say against moving it, besides what its state and its images say."""
    unreadable: str = ""
    """Why its definition cannot be read; empty where it can."""
    seen: SeenCards | None = None
    """What is known of its cards; None: nothing but their MACs."""
    left_behind: bool = False
    """Post-copy has begun, and QEMU does not let it run again."""
    lasting_xml: str | None = None
    """Its lasting definition where that is another than it runs with."""

    @property
    def runs(self) -> bool:
        """Whether vCPUs execute now."""
        return self.state is VmState.RUNNING and not self.frozen


@dataclass(slots=True)
class FakeJob:
    """A running migration."""

    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    sent_bytes: int = 0
    total_bytes: int = 0


class FakeHost:
    """VMs by UUID. Knobs: `memory_flows` (clear it to stop a migration half way), `fail_finish`, `fail_prepare`,
    `pace_s` (per chunk of memory), `ends_within_s` (how long a restarted libvirtd shows what it ends as "shutting
    down"), `may_start` (a libvirt hook: the reason why a VM may not start, or None)."""

    def __init__(self) -> None:
        self.vms: dict[UUID, FakeVm] = {}
        self.memory_flows = asyncio.Event()
        self.memory_flows.set()
        self.prepared = asyncio.Event()
        self.pace_s = 0.0
        self.ends_within_s = 0.0
        self.fail_finish: str | None = None
        self.fail_prepare: str | None = None
        self.observer: Callable[[UUID], None] = lambda _: None
        """Called after each change of a VM's vCPUs, whether libvirtd notices or not."""
        self.after_cont: Callable[[UUID], None] | None = None
        """Called in Finish when the guest runs and libvirtd has not answered yet."""
        self.may_start: Callable[[UUID], str | None] = lambda _: None
        self.released: Callable[[UUID, str], None] = lambda *_: None
        """The hook again: why a guest ended. It hears what ended without libvirtd before anybody sees that."""
        self.moved: tuple[str, str] | None = None
        """A path prefix of this host's sockets, and the other host's: two hosts of one file system differ so."""
        self.listeners: list[EventListener] = []
        self.jobs: dict[UUID, FakeJob] = {}
        self.libvirtd_up = True
        self.libvirtd_starts = 0
        self.boots = 1
        self.connections: set[asyncio.StreamWriter] = set()
        """What libvirtd holds open, at either end of a migration."""
        self.migrations: dict[asyncio.Future[None], UUID] = {}
        self.secrets = FakeSecrets(self.ask_libvirtd, self._definitions)

    def _definitions(self) -> Iterator[tuple[str, str]]:
        for vm in self.vms.values():
            for xml in (vm.domain_xml, vm.lasting_xml or ""):
                yield describe(vm.domain_xml).name, xml

    def add(self, domain_xml: str, **facts: object) -> UUID:
        """Add a VM, running unless told otherwise."""
        uuid = UUID(describe(domain_xml).uuid)
        self.vms[uuid] = FakeVm(domain_xml, **facts)  # type: ignore[arg-type]  # FakeVm's own fields
        return uuid

    def vm(self, uuid: UUID) -> FakeVm:
        """Raises `VmNotFound`."""
        if uuid not in self.vms:
            raise VmNotFound(uuid)
        return self.vms[uuid]

    def ask_libvirtd(self) -> None:
        """Raise `HypervisorError` while there is no libvirtd."""
        if not self.libvirtd_up:
            raise HypervisorError("connect to libvirtd", "Failed to connect socket: Connection refused")

    def notify(self, uuid: UUID, kind: Lifecycle) -> None:
        """Tell the listeners of an event that happens now; nobody hears it while libvirtd is away."""
        self.observer(uuid)
        if not self.libvirtd_up:
            return
        for listener in tuple(self.listeners):
            listener(LifecycleEvent(uuid, kind, time.monotonic()))

    # ---- vCPUs ----

    def let_run(self, uuid: UUID, vm: FakeVm) -> None:
        """Start or resume it; a frozen one only when it is thawed."""
        if vm.frozen:
            vm.runs_after_thaw = True
            return
        vm.state = VmState.RUNNING
        vm.ran_at_s.append(time.monotonic())
        self.notify(uuid, Lifecycle.RESUMED)

    def stop(self, uuid: UUID, reason: str = "shutdown") -> None:
        """QEMU is gone: killed by libvirtd, by a signal, or by its guest's power-off. A VM that is not persistent is
        gone with it; libvirtd notices, now or when it is back. `reason`: libvirt's name for it."""
        vm = self.vms[uuid]
        vm.state, vm.frozen, vm.runs_after_thaw, vm.unreachable = VmState.SHUT_OFF, False, False, False
        vm.phase = MigrationPhase.NONE
        self.close_files(vm)
        if not vm.persistent:
            del self.vms[uuid]
        self.released(uuid, reason)
        self.notify(uuid, Lifecycle.STOPPED)

    def power_on(self, uuid: UUID) -> None:
        """Boot a VM that is shut off: an operator, or autostart. Raises `HypervisorError` where the hook refuses."""
        self.ask_libvirtd()
        vm = self.vm(uuid)
        if vm.state is not VmState.SHUT_OFF:
            raise HypervisorError(f"start VM {uuid}", "domain is already running")
        if (reason := self.may_start(uuid)) is not None:
            raise HypervisorError(f"start VM {uuid}", f"Hook script execution failed: {reason}")
        if self._image_is_missing(vm):
            raise HypervisorError(f"start VM {uuid}", "Cannot access storage file")
        self.open_files(vm)
        vm.content = self.stored_content(vm)
        self.let_run(uuid, vm)

    def suspend(self, uuid: UUID) -> None:
        """An operator pauses a VM, or an I/O error does."""
        vm = self.vm(uuid)
        if vm.state is VmState.RUNNING:
            vm.state = VmState.PAUSED
            self.notify(uuid, Lifecycle.SUSPENDED)

    # ---- what befalls a host ----

    def kill_libvirtd(self) -> None:
        """libvirtd dies: its connections break, its calls end; every QEMU goes on as it was."""
        self.libvirtd_up = False
        for writer in tuple(self.connections):
            writer.transport.abort()
        self.connections.clear()
        for migration in tuple(self.migrations):
            migration.cancel()
        self.jobs.clear()

    def start_libvirtd(self) -> None:
        """libvirtd is back. It reconnects to each QEMU and settles what was being migrated."""
        self.libvirtd_up = True
        self.libvirtd_starts += 1
        for uuid, vm in tuple(self.vms.items()):
            if vm.state in {VmState.SHUT_OFF, VmState.OTHER}:
                continue
            if vm.frozen:
                vm.unreachable = True
                continue
            self.reconnect(uuid, vm)

    def reconnect(self, uuid: UUID, vm: FakeVm) -> None:
        """What a restarted libvirtd does with one VM whose QEMU answers, by the phase of its migration."""
        vm.unreachable = False
        phase, vm.phase = vm.phase, MigrationPhase.NONE
        match phase:
            case MigrationPhase.PERFORM | MigrationPhase.CONFIRM_CANCELLED:
                if vm.state is VmState.PAUSED:
                    self.let_run(uuid, vm)
            case MigrationPhase.CONFIRM | MigrationPhase.PREPARE:
                self._end(uuid, vm)
            case MigrationPhase.FINISH if vm.state is not VmState.RUNNING:
                self._end(uuid, vm)
            case _:
                pass  # PERFORM_DONE: nobody knows what Finish did, so the guest stays as it is: paused

    def _end(self, uuid: UUID, vm: FakeVm) -> None:
        """At once, or it is shown as "shutting down" until its process is gone."""
        if not self.ends_within_s:
            self.stop(uuid, "daemon")
            return
        vm.state = VmState.OTHER
        self.observer(uuid)
        asyncio.get_running_loop().call_later(self.ends_within_s, self._ended_by_libvirtd, uuid, vm)

    def _ended_by_libvirtd(self, uuid: UUID, vm: FakeVm) -> None:
        if self.vms.get(uuid) is vm and vm.state is VmState.OTHER:
            self.stop(uuid, "daemon")

    def power_cut(self) -> None:
        """The host reboots: libvirtd and every QEMU are gone at once."""
        self.boots += 1
        self.kill_libvirtd()
        for uuid in tuple(self.vms):
            if self.vms[uuid].state is not VmState.SHUT_OFF:
                self.stop(uuid)

    def boot(self) -> None:
        """The host is back: libvirtd starts, and starts what has autostart."""
        self.start_libvirtd()
        for uuid, vm in tuple(self.vms.items()):
            if vm.autostart and vm.state is VmState.SHUT_OFF:
                with contextlib.suppress(HypervisorError):
                    self.power_on(uuid)

    # ---- contents ----

    def guest_writes(self, uuid: UUID) -> int:
        """A guest that runs writes to its disk; returns the version that it now has, synced."""
        vm = self.vm(uuid)
        self.open_files(vm)
        self.store_content(vm, vm.content + 1)
        return vm.content

    def store_content(self, vm: FakeVm, version: int) -> None:
        """Write a version to the VM's open images."""
        vm.content = version
        for file in vm.files:
            os.pwrite(file, version.to_bytes(_VERSION_BYTES, "big"), 0)

    def stored_content(self, vm: FakeVm) -> int:
        """The version in the VM's first image that is a file."""
        for path in _images(vm):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                return int.from_bytes(file.read(_VERSION_BYTES), "big")
        return vm.content

    def open_files(self, vm: FakeVm) -> None:
        """Open the VM's images, as QEMU does at its start."""
        if not vm.files:
            for path in _images(vm):
                with contextlib.suppress(OSError):
                    vm.files.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def _image_is_missing(self, vm: FakeVm) -> bool:
        return vm.content > 0 and not all(os.path.exists(path) for path in _images(vm))

    def close_files(self, vm: FakeVm) -> None:
        """QEMU has ended."""
        while vm.files:
            os.close(vm.files.pop())


def _images(vm: FakeVm) -> Iterator[str]:
    return (disk.source for disk in describe(vm.domain_xml).disks)
