"""The fake migration's source: what libvirtd and QEMU do at the donor, over real unix sockets.

libvirt's RPC goes to the plan's driver socket, bytes to its memory and disk sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from services.node_agent.hypervisor.fake_host import FakeHost, FakeJob, FakeVm
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

_A_PASSED_FEATURE = 10
"""Of VIR_DRV_FEATURE_*: any of the gate's PASSED_FEATURES does."""


class FakeSource:
    """One host's outgoing migrations."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def migrate(self, plan: MigrationPlan) -> None:
        """Eight procedures, disks, memory, pause, Finish. Raises as `Hypervisor.migrate`."""
        vm = self._host.vm(plan.vm_uuid)
        job = self._host.jobs[plan.vm_uuid] = FakeJob(total_bytes=len(vm.memory))
        doing = f"migrate VM {plan.vm_uuid}"
        try:
            await self._peer_to_peer(plan, vm, job)
        except (RpcFailed, OSError, asyncio.IncompleteReadError) as error:
            if vm.state is VmState.PAUSED:
                self._host.let_run(plan.vm_uuid, vm)
            if job.aborted.is_set():
                raise MigrationAborted(doing, "canceled by client") from error
            raise HypervisorError(doing, str(error)) from error
        finally:
            self._host.jobs.pop(plan.vm_uuid, None)
        if plan.vm_uuid in self._host.vms and vm.state is not VmState.SHUT_OFF:
            self._host.stop(plan.vm_uuid)

    async def _peer_to_peer(self, plan: MigrationPlan, vm: FakeVm, job: FakeJob) -> None:
        path = parse_qs(urlsplit(plan.driver_uri).query)["socket"][0]
        client = RpcClient(*await asyncio.open_unix_connection(path))
        try:
            for call in (PlainCall(Procedure.AUTH_LIST), FeatureCall(_A_PASSED_FEATURE), OpenCall(SYSTEM_DRIVER, 0)):
                await client.call(call)
            await client.call(PlainCall(Procedure.REGISTER_CLOSE_CALLBACK))
            prepare = _prepare_call(plan, self._host.moved)
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
        self._host.notify(uuid, Lifecycle.SUSPENDED)

    async def _pour(
        self, uri: str, content: bytes, job: FakeJob | None, *, before_end: Callable[[], None] | None = None
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

    async def _flow_or_abort(self, job: FakeJob, sent_bytes: int) -> None:
        job.sent_bytes = sent_bytes
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
