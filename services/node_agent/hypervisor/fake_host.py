"""What the fake host consists of: its VMs, its jobs, its listeners, and the knobs that tests turn. No migration yet."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from uuid import UUID

from services.node_agent.hypervisor.interface import EventListener, Lifecycle, LifecycleEvent, VmNotFound
from shared.domain import describe
from shared.messages.vm import VmState

DISK_BYTES = 1 << 20
"""Virtual size of every disk here, whatever the XML's image says."""


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
    ran_at_s: list[float] = field(default_factory=list)
    """When it was started or resumed: two hosts' lists show whether two copies ever ran."""


@dataclass(slots=True)
class FakeJob:
    """A running migration."""

    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    sent_bytes: int = 0
    total_bytes: int = 0


class FakeHost:
    """VMs by UUID. Knobs: `memory_flows` (clear it to stop a migration half way), `fail_finish`, `fail_prepare`."""

    def __init__(self) -> None:
        self.vms: dict[UUID, FakeVm] = {}
        self.memory_flows = asyncio.Event()
        self.memory_flows.set()
        self.prepared = asyncio.Event()
        self.fail_finish: str | None = None
        self.fail_prepare: str | None = None
        self.moved: tuple[str, str] | None = None
        """A path prefix of this host's sockets, and the other host's: two hosts of one file system differ so."""
        self.listeners: list[EventListener] = []
        self.jobs: dict[UUID, FakeJob] = {}

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

    def notify(self, uuid: UUID, kind: Lifecycle) -> None:
        """Tell the listeners of an event that happens now."""
        for listener in tuple(self.listeners):
            listener(LifecycleEvent(uuid, kind, time.monotonic()))

    def let_run(self, uuid: UUID, vm: FakeVm) -> None:
        """Start or resume it; a frozen one only when it is thawed."""
        if vm.frozen:
            vm.runs_after_thaw = True
            return
        vm.state = VmState.RUNNING
        vm.ran_at_s.append(time.monotonic())
        self.notify(uuid, Lifecycle.RESUMED)

    def stop(self, uuid: UUID) -> None:
        """Shut it off; a VM that is not persistent is gone."""
        vm = self.vms[uuid]
        vm.state, vm.frozen, vm.runs_after_thaw = VmState.SHUT_OFF, False, False
        if not vm.persistent:
            del self.vms[uuid]
        self.notify(uuid, Lifecycle.STOPPED)
