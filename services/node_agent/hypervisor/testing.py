"""A host without virtualisation, for tests: VMs are values, but a migration is a real one over real unix sockets.

`FakeHypervisor.migrate` speaks libvirt's RPC to the plan's driver socket and pours bytes into the memory and disk
sockets, as
libvirtd and QEMU do; `serve` is the libvirtd that the other end talks to. Held to the same contract as the real
adapter.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from services.node_agent.hypervisor.interface import (
    MAX_PEEK_BYTES,
    EventListener,
    HypervisorError,
    JobStats,
    Lifecycle,
    LifecycleEvent,
    LiveVm,
    MigrationAborted,
    MigrationPlan,
    VmNotFound,
)
from services.node_agent.libvirt_rpc.messages import (
    FeatureCall,
    FinishCall,
    Frame,
    FrameParser,
    OpenCall,
    ParamType,
    PlainCall,
    PrepareCall,
    Procedure,
    TypedParam,
    decode_call,
    encode_error,
    encode_feature_reply,
    encode_finish_reply,
)
from services.node_agent.libvirt_rpc.testing import CHUNK_BYTES, RpcClient, RpcFailed, reply_to
from services.node_agent.libvirt_rpc.xdr import XdrWriter
from shared.domain import describe
from shared.messages.vm import (
    Disk,
    Firmware,
    HostCapacity,
    HostPlatform,
    HypervisorVersions,
    Nic,
    VmDescription,
    VmState,
    VmSummary,
)

GIB = 1 << 30
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
class _Job:
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    sent_bytes: int = 0
    total_bytes: int = 0


class FakeHypervisor:
    """One host. Knobs: `memory_flows` (clear it to stop a migration half way), `fail_finish`, `fail_prepare`,
    `can_fence`."""

    def __init__(self, *, bridges: tuple[str, ...] = ("vmbr0",)) -> None:
        self.vms: dict[UUID, FakeVm] = {}
        self.memory_flows = asyncio.Event()
        self.memory_flows.set()
        self.prepared = asyncio.Event()
        self.fail_finish: str | None = None
        self.fail_prepare: str | None = None
        self.can_fence = True
        self.max_downtimes_ms: list[int] = []
        self.peeks = 0
        self.moved: tuple[str, str] | None = None
        """A path prefix of this host's sockets, and the other host's: two hosts of one file system differ so."""
        self._bridges = bridges
        self._listeners: list[EventListener] = []
        self._jobs: dict[UUID, _Job] = {}
        self._migrations: set[asyncio.Future[None]] = set()

    def add(self, domain_xml: str, **facts: object) -> UUID:
        """Add a VM, running unless told otherwise."""
        uuid = UUID(describe(domain_xml).uuid)
        self.vms[uuid] = FakeVm(domain_xml, **facts)  # type: ignore[arg-type]  # FakeVm's own fields
        return uuid

    @asynccontextmanager
    async def serve(self, path: Path) -> AsyncIterator[None]:
        """Be the libvirtd at this socket."""
        server = await asyncio.start_unix_server(self._on_connection, path)
        try:
            yield
        finally:
            server.close()

    # ---- the port ----

    async def connect(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    def listen(self, listener: EventListener) -> Callable[[], None]:
        """Hear events."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _tell(self, uuid: UUID, kind: Lifecycle) -> None:
        for listener in tuple(self._listeners):
            listener(LifecycleEvent(uuid, kind, time.monotonic()))

    async def versions(self) -> HypervisorVersions:
        """Fixed."""
        return HypervisorVersions(qemu=(10, 0, 2), libvirt=(11, 3, 0), kernel="6.1.0")

    async def platform(self) -> HostPlatform:
        """Fixed."""
        return HostPlatform(
            architecture="x86_64",
            versions=await self.versions(),
            accelerators=("qemu",),
            machines=("pc-q35-10.0",),
            cpu_models=("qemu64",),
            firmwares=(Firmware.BIOS, Firmware.DIRECT_KERNEL),
            bridges=self._bridges,
            disk_formats=("raw", "qcow2"),
        )

    async def capacity(self) -> HostCapacity:
        """Fixed."""
        return HostCapacity(
            vcpus=4, memory_bytes=8 * GIB, memory_free_bytes=6 * GIB, disk_bytes=100 * GIB, disk_free_bytes=50 * GIB
        )

    async def inventory(self) -> tuple[VmSummary, ...]:
        """All VMs."""
        summaries = []
        for uuid, vm in self.vms.items():
            facts = describe(vm.domain_xml)
            summaries.append(
                VmSummary(
                    uuid=uuid,
                    name=facts.name,
                    state=vm.state,
                    memory_bytes=facts.memory_bytes,
                    vcpus=facts.vcpus,
                    disk_bytes=DISK_BYTES * len(facts.disks),
                    macs=tuple(nic.mac for nic in facts.nics),
                )
            )
        return tuple(summaries)

    def _vm(self, uuid: UUID) -> FakeVm:
        if uuid not in self.vms:
            raise VmNotFound(uuid)
        return self.vms[uuid]

    async def describe(self, uuid: UUID) -> LiveVm:
        """One VM."""
        vm = self._vm(uuid)
        facts = describe(vm.domain_xml)
        blockers = [f"{blocker.code}: {blocker.detail}" for blocker in facts.blockers]
        if vm.state is VmState.SHUT_OFF:
            blockers.append("not_running: the VM does not run; only a running VM is ported")
        description = VmDescription(
            uuid=uuid,
            name=facts.name,
            state=vm.state,
            memory_bytes=facts.memory_bytes,
            vcpus=facts.vcpus,
            architecture=facts.arch,
            machine=facts.machine,
            cpu_model=facts.cpu_model or facts.cpu_mode,
            domain_type=facts.virt_type,
            firmware=Firmware.DIRECT_KERNEL if facts.kernel else Firmware.BIOS,
            disks=tuple(
                Disk(
                    target=disk.target,
                    bus=disk.bus,
                    format=disk.format,
                    virtual_size_bytes=DISK_BYTES,
                    allocated_bytes=DISK_BYTES // 2,
                    beneath_bytes=DISK_BYTES * len(disk.layers),
                )
                for disk in facts.disks
            ),
            nics=tuple(Nic(mac=nic.mac, model=nic.model, bridge=nic.bridge or "") for nic in facts.nics),
            autostart=vm.autostart,
            persistent=vm.persistent,
            blockers=tuple(blockers),
        )
        layers = {disk.target: disk.layers for disk in facts.disks if disk.layers}
        return LiveVm(description, vm.domain_xml, tuple(disk.source for disk in facts.disks), layers)

    async def state(self, uuid: UUID) -> VmState | None:
        """Its state."""
        return self.vms[uuid].state if uuid in self.vms else None

    async def peek_memory(self, uuid: UUID, address: int, size: int) -> bytes:
        """As much of `memory`, and zeros."""
        vm = self._vm(uuid)
        if vm.state is VmState.SHUT_OFF or size > MAX_PEEK_BYTES:
            raise HypervisorError(f"read the memory of VM {uuid}", f"it is {vm.state}, {size} bytes asked for")
        self.peeks += 1
        return vm.memory[address : address + size].ljust(size, b"\0")

    async def define(self, domain_xml: str) -> None:
        """Make it persistent, or add it shut off."""
        uuid = UUID(describe(domain_xml).uuid)
        known = self.vms.get(uuid)
        if known is None:
            self.vms[uuid] = FakeVm(domain_xml, state=VmState.SHUT_OFF)
        else:
            known.persistent = True

    async def undefine(self, uuid: UUID, *, keep_nvram: bool) -> None:  # noqa: ARG002  # there is no NVRAM here
        """Make it transient; gone if it does not run."""
        vm = self._vm(uuid)
        vm.persistent = vm.autostart = False
        if vm.state is VmState.SHUT_OFF:
            del self.vms[uuid]

    async def set_autostart(self, uuid: UUID, *, enabled: bool) -> None:
        """Remember it."""
        self._vm(uuid).autostart = enabled

    async def resume(self, uuid: UUID) -> None:
        """Run, if it may."""
        vm = self._vm(uuid)
        if vm.state is VmState.PAUSED:
            self.let_run(uuid, vm)

    def let_run(self, uuid: UUID, vm: FakeVm) -> None:
        """Start or resume it; a frozen one only when it is thawed."""
        if vm.frozen:
            vm.runs_after_thaw = True
            return
        vm.state = VmState.RUNNING
        vm.ran_at_s.append(time.monotonic())
        self._tell(uuid, Lifecycle.RESUMED)

    async def destroy(self, uuid: UUID) -> None:
        """End it."""
        if uuid in self.vms and self.vms[uuid].state is not VmState.SHUT_OFF:
            self._stop(uuid)

    def _stop(self, uuid: UUID) -> None:
        vm = self.vms[uuid]
        vm.state, vm.frozen, vm.runs_after_thaw = VmState.SHUT_OFF, False, False
        if not vm.persistent:
            del self.vms[uuid]
        self._tell(uuid, Lifecycle.STOPPED)

    async def job(self, uuid: UUID) -> JobStats | None:
        """The running migration."""
        job = self._jobs.get(uuid)
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
        return JobStats(downtime_ms=7) if uuid in self.vms else None

    async def abort_job(self, uuid: UUID) -> None:
        """Abort the migration."""
        if uuid in self._jobs:
            self._jobs[uuid].aborted.set()

    async def takes_switchover_bandwidth(self) -> bool:
        """Its downtimes are fixed; it plans nothing."""
        return True

    async def set_max_downtime(self, uuid: UUID, milliseconds: int) -> None:
        """Remember it."""
        self._vm(uuid)
        self.max_downtimes_ms.append(milliseconds)

    async def start_post_copy(self, uuid: UUID) -> None:
        """Not possible here."""
        raise HypervisorError(f"start post-copy of VM {uuid}", "the fake has none")

    async def freeze(self, uuid: UUID) -> bool:
        """Keep it from running."""
        self._vm(uuid).frozen = self.can_fence
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

    # ---- the migration's source: libvirtd and QEMU of the donor ----

    async def migrate(self, plan: MigrationPlan) -> None:
        """Move a VM as libvirt does: eight procedures, disks, memory, pause, Finish. Goes on when its caller dies."""
        migration = asyncio.ensure_future(self._migrate(plan))
        self._migrations.add(migration)
        migration.add_done_callback(self._ended)
        await asyncio.shield(migration)

    def _ended(self, migration: asyncio.Future[None]) -> None:
        self._migrations.discard(migration)
        if not migration.cancelled():
            migration.exception()  # its caller may be dead

    async def _migrate(self, plan: MigrationPlan) -> None:
        vm = self._vm(plan.vm_uuid)
        job = self._jobs[plan.vm_uuid] = _Job(total_bytes=len(vm.memory))
        doing = f"migrate VM {plan.vm_uuid}"
        try:
            await self._peer_to_peer(plan, vm, job)
        except (RpcFailed, OSError, asyncio.IncompleteReadError) as error:
            if vm.state is VmState.PAUSED:
                self.let_run(plan.vm_uuid, vm)
            if job.aborted.is_set():
                raise MigrationAborted(doing, "canceled by client") from error
            raise HypervisorError(doing, str(error)) from error
        finally:
            self._jobs.pop(plan.vm_uuid, None)
        self._stop(plan.vm_uuid)

    async def _peer_to_peer(self, plan: MigrationPlan, vm: FakeVm, job: _Job) -> None:
        path = parse_qs(urlsplit(plan.driver_uri).query)["socket"][0]
        client = RpcClient(*await asyncio.open_unix_connection(path))
        try:
            for call in (PlainCall(Procedure.AUTH_LIST), FeatureCall(10), OpenCall("qemu:///system", 0)):
                await client.call(call)
            await client.call(PlainCall(Procedure.REGISTER_CLOSE_CALLBACK))
            prepare = _prepare_call(plan, self.moved)
            await client.call(prepare)
            finish = FinishCall(prepare.params, b"", prepare.flags, cancelled=False)
            try:
                for _ in plan.disks:
                    await self._pour(plan.disks_uri, vm.disk, None)
                await self._pour(plan.memory_uri, vm.memory, job, before_end=lambda: self._pause(plan.vm_uuid, vm))
            except (RpcFailed, OSError):
                with contextlib.suppress(RpcFailed):
                    await client.call(FinishCall(finish.params, b"", finish.flags, cancelled=True))
                raise
            await client.call(finish)
            await client.call(PlainCall(Procedure.UNREGISTER_CLOSE_CALLBACK))
            await client.call(PlainCall(Procedure.CONNECT_CLOSE))
        finally:
            client.close()

    def _pause(self, uuid: UUID, vm: FakeVm) -> None:
        vm.state = VmState.PAUSED
        self._tell(uuid, Lifecycle.SUSPENDED)

    async def _pour(
        self, uri: str, content: bytes, job: _Job | None, *, before_end: Callable[[], None] | None = None
    ) -> None:
        reader, writer = await asyncio.open_unix_connection(uri.removeprefix("unix://"))
        try:
            for start in range(0, len(content), CHUNK_BYTES):
                if job is not None:
                    await self._flow_or_abort(job, start)
                writer.write(content[start : start + CHUNK_BYTES])
                await writer.drain()
            if before_end is not None:
                before_end()
            writer.write_eof()
            if await reader.read():
                raise RpcFailed("the other side sent something back")
        finally:
            writer.close()

    async def _flow_or_abort(self, job: _Job, sent_bytes: int) -> None:
        job.sent_bytes = sent_bytes
        flows = asyncio.ensure_future(self.memory_flows.wait())
        aborted = asyncio.ensure_future(job.aborted.wait())
        if sent_bytes == 0:
            flows.cancel()
            flows = asyncio.ensure_future(asyncio.sleep(0, result=True))
        await asyncio.wait({flows, aborted}, return_when=asyncio.FIRST_COMPLETED)
        flows.cancel()
        aborted.cancel()
        if job.aborted.is_set():
            raise RpcFailed("canceled by client")

    # ---- the migration's destination: libvirtd and QEMU of the recipient ----

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        incoming = _Incoming(self)
        parser = FrameParser()
        try:
            while data := await reader.read(CHUNK_BYTES):
                for frame in parser.receive_data(data):
                    reply = await incoming.answer(frame)
                    writer.write(reply.to_bytes())
                    await writer.drain()
        except ConnectionError:
            pass  # as libvirtd: the end of the connection ends what was not finished
        finally:
            incoming.close()
            writer.close()


class _Incoming:
    """One driver connection at the destination, and the guest that it prepares."""

    def __init__(self, host: FakeHypervisor) -> None:
        self._host = host
        self._uuid: UUID | None = None
        self._servers: list[asyncio.Server] = []
        self._arrived = asyncio.Event()
        self._memory = b""

    async def answer(self, frame: Frame) -> Frame:
        """Do a call."""
        match decode_call(frame):
            case FeatureCall():
                return encode_feature_reply(frame, supported=True)
            case PrepareCall(params=params):
                if self._host.fail_prepare is not None:
                    return encode_error(frame, self._host.fail_prepare)
                await self._prepare({param.field: str(param.value) for param in params})
                return reply_to(frame, bytes(XdrWriter().opaque(b"").optional_string(None)))
            case FinishCall(cancelled=cancelled):
                return await self._finish(frame, cancelled=cancelled)
            case _:
                return reply_to(frame, b"")

    async def _prepare(self, params: dict[str, str]) -> None:
        xml = params["destination_xml"]
        self._uuid = UUID(describe(xml).uuid)
        self._host.vms[self._uuid] = FakeVm(xml, state=VmState.PAUSED, persistent=False)
        self._host.prepared.set()
        for name, serve in (("migrate_uri", self._on_memory), ("disks_uri", self._on_disk)):
            if name in params:
                self._servers.append(await asyncio.start_unix_server(serve, params[name].removeprefix("unix://")))

    async def _on_memory(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._memory = await reader.read()
        self._arrived.set()
        writer.close()

    async def _on_disk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        content = await reader.read()
        if self._uuid is not None and self._uuid in self._host.vms:
            self._host.vms[self._uuid].disk = content
        writer.close()

    async def _finish(self, frame: Frame, *, cancelled: bool) -> Frame:
        uuid = self._uuid
        vm = self._host.vms.get(uuid) if uuid is not None else None
        if cancelled or self._host.fail_finish is not None or uuid is None or vm is None:
            self.close()
            return encode_error(frame, self._host.fail_finish or "migration successfully aborted")
        await self._arrived.wait()
        vm.memory = self._memory
        self._uuid = None
        self._host.let_run(uuid, vm)
        return encode_finish_reply(frame.serial, describe(vm.domain_xml).name, uuid.bytes)

    def close(self) -> None:
        """Destroy what was not finished."""
        for server in self._servers:
            server.close()
        if self._uuid is not None:
            self._host.vms.pop(self._uuid, None)
            self._uuid = None


def _prepare_call(plan: MigrationPlan, moved: tuple[str, str] | None) -> PrepareCall:
    facts = describe(plan.domain_xml)
    memory_uri, disks_uri = (uri.replace(*moved, 1) if moved else uri for uri in (plan.memory_uri, plan.disks_uri))
    params = [
        TypedParam("destination_xml", ParamType.STRING, plan.domain_xml),
        TypedParam("migrate_uri", ParamType.STRING, memory_uri),
    ]
    if plan.disks:
        params.append(TypedParam("disks_uri", ParamType.STRING, disks_uri))
        params += [TypedParam("migrate_disks", ParamType.STRING, disk) for disk in plan.disks]
    cookie = f"<qemu-migration><name>{facts.name}</name><uuid>{facts.uuid}</uuid></qemu-migration>".encode()
    copied = 0x80 if plan.overlays else 0x40
    return PrepareCall(tuple(params), cookie + b"\0", 0x3 | copied if plan.disks else 0x3)
