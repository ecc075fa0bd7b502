"""The fake migration's source: what libvirtd and QEMU do at the donor, over real unix sockets.

libvirt's RPC goes to the plan's driver socket, bytes to its memory and disk sockets. As in libvirt, a Finish that
succeeded is followed by Confirm, which kills this copy, and only then by the goodbye, whose loss means nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from services.node_agent.hypervisor.fake_host import FakeHost, FakeJob, FakeVm, MigrationPhase
from services.node_agent.hypervisor.interface import HypervisorError, Lifecycle, MigrationAborted, MigrationPlan
from services.node_agent.libvirt_rpc.gate_terms import LIVE, NON_SHARED_DISK, NON_SHARED_INC, PEER2PEER, SYSTEM_DRIVER
from services.node_agent.libvirt_rpc.messages import (
    FeatureCall,
    FinishCall,
    OpenCall,
    ParamType,
    PlainCall,
    PrepareCall,
    Procedure,
    TypedParam,
)
from services.node_agent.libvirt_rpc.testing import CHUNK_BYTES, RpcClient, RpcFailed
from shared.domain import describe
from shared.messages.vm import VmState

CONTENT_MARK = b"\0fake content "
"""What a memory stream ends with where the guest has written to its disk; the version follows in eight bytes."""
_A_PASSED_FEATURE = 10
"""Of VIR_DRV_FEATURE_*: any of the gate's PASSED_FEATURES does."""
_BROKEN = (RpcFailed, OSError, asyncio.IncompleteReadError)


class FakeSource:
    """One host's outgoing migrations."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def migrate(self, plan: MigrationPlan) -> None:
        """Eight procedures, disks, memory, pause, Finish, Confirm. Raises as `Hypervisor.migrate`."""
        host, uuid = self._host, plan.vm_uuid
        vm = host.vm(uuid)
        job = host.jobs[uuid] = FakeJob(total_bytes=len(vm.memory))
        doing = f"migrate VM {uuid}"
        vm.phase = MigrationPhase.BEGIN
        try:
            await self._peer_to_peer(plan, vm, job)
        except _BROKEN as error:
            self._confirm_cancelled(uuid, vm)
            if job.aborted.is_set():
                raise MigrationAborted(doing, "canceled by client") from error
            raise HypervisorError(doing, str(error)) from error
        finally:
            if host.libvirtd_up:
                vm.phase = MigrationPhase.NONE
            host.jobs.pop(uuid, None)

    def _confirm_cancelled(self, uuid: UUID, vm: FakeVm) -> None:
        """Confirm after a failure: let the guest run on, if it is still there and this migration had paused it."""
        paused_here = vm.phase in {MigrationPhase.PERFORM, MigrationPhase.PERFORM_DONE}
        vm.phase = MigrationPhase.CONFIRM_CANCELLED
        if paused_here and vm.state is VmState.PAUSED and self._host.vms.get(uuid) is vm:
            self._host.let_run(uuid, vm)

    def _confirm(self, uuid: UUID, vm: FakeVm) -> None:
        """Confirm after a Finish that succeeded: this copy is killed."""
        vm.phase = MigrationPhase.CONFIRM
        if self._host.vms.get(uuid) is vm and vm.state is not VmState.SHUT_OFF:
            self._host.stop(uuid, "migrated")

    async def _peer_to_peer(self, plan: MigrationPlan, vm: FakeVm, job: FakeJob) -> None:
        path = parse_qs(urlsplit(plan.driver_uri).query)["socket"][0]
        reader, writer = await asyncio.open_unix_connection(path)
        client = RpcClient(reader, writer)
        self._host.connections.add(writer)
        try:
            for call in (PlainCall(Procedure.AUTH_LIST), FeatureCall(_A_PASSED_FEATURE), OpenCall(SYSTEM_DRIVER, 0)):
                await client.call(call)
            await client.call(PlainCall(Procedure.REGISTER_CLOSE_CALLBACK))
            prepare = _prepare_call(plan, self._host.moved)
            await client.call(prepare)
            finish = FinishCall(prepare.params, b"", prepare.flags, cancelled=False)
            vm.phase = MigrationPhase.PERFORM
            try:
                for _ in plan.disks:
                    await self._pour(plan.disks_uri, vm, vm.disk, None)
                await self._pour(plan.memory_uri, vm, vm.memory, job, before_end=lambda: self._pause(plan.vm_uuid, vm))
            except (RpcFailed, OSError):
                with contextlib.suppress(*_BROKEN):
                    await client.call(FinishCall(finish.params, b"", finish.flags, cancelled=True))
                raise
            vm.phase = MigrationPhase.PERFORM_DONE
            await client.call(finish)
            self._confirm(plan.vm_uuid, vm)
            with contextlib.suppress(*_BROKEN):
                await client.call(PlainCall(Procedure.UNREGISTER_CLOSE_CALLBACK))
                await client.call(PlainCall(Procedure.CONNECT_CLOSE))
        finally:
            self._host.connections.discard(writer)
            client.close()

    def _pause(self, uuid: UUID, vm: FakeVm) -> bytes:
        """The last round; returns what it adds to the stream."""
        if vm.state is VmState.SHUT_OFF:
            raise RpcFailed("domain is not running")
        if vm.state is VmState.RUNNING:
            vm.state = VmState.PAUSED
            self._host.notify(uuid, Lifecycle.SUSPENDED)
        return CONTENT_MARK + vm.content.to_bytes(8, "big") if vm.content else b""

    async def _pour(
        self,
        uri: str,
        vm: FakeVm,
        content: bytes,
        job: FakeJob | None,
        *,
        before_end: Callable[[], bytes] | None = None,
    ) -> None:
        reader, writer = await asyncio.open_unix_connection(uri.removeprefix("unix://"))
        self._host.connections.add(writer)
        try:
            for start in range(0, len(content), CHUNK_BYTES):
                if job is not None:
                    await self._flow_or_abort(job, start)
                if vm.state is VmState.SHUT_OFF:
                    raise RpcFailed("domain is not running")
                writer.write(content[start : start + CHUNK_BYTES])
                await writer.drain()
            if before_end is not None:
                writer.write(before_end())
            writer.write_eof()
            if await reader.read():
                raise RpcFailed("the other side sent something back")
        finally:
            self._host.connections.discard(writer)
            writer.close()

    async def _flow_or_abort(self, job: FakeJob, sent_bytes: int) -> None:
        job.sent_bytes = sent_bytes
        if self._host.pace_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._host.pace_s):
                    await job.aborted.wait()
        flows = asyncio.ensure_future(self._host.memory_flows.wait())
        aborted = asyncio.ensure_future(job.aborted.wait())
        if sent_bytes == 0:
            flows.cancel()
            flows = asyncio.ensure_future(asyncio.sleep(0, result=True))
        await asyncio.wait({flows, aborted}, return_when=asyncio.FIRST_COMPLETED)
        flows.cancel()
        aborted.cancel()
        if job.aborted.is_set():
            raise RpcFailed("canceled by client")


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
    copied = NON_SHARED_INC if plan.overlays else NON_SHARED_DISK
    return PrepareCall(tuple(params), cookie + b"\0", LIVE | PEER2PEER | (copied if plan.disks else 0))
