"""The fake migration's destination: what libvirtd and QEMU do at the recipient, over real unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

from services.node_agent.hypervisor.fake_host import FakeHost, FakeVm, MigrationPhase
from services.node_agent.hypervisor.fake_source import CONTENT_MARK
from services.node_agent.libvirt_rpc.messages import (
    FeatureCall,
    FinishCall,
    Frame,
    FrameParser,
    PrepareCall,
    decode_call,
    encode_error,
    encode_feature_reply,
    encode_finish_reply,
)
from services.node_agent.libvirt_rpc.testing import CHUNK_BYTES, reply_to
from services.node_agent.libvirt_rpc.xdr import XdrWriter
from shared.domain import describe
from shared.messages.vm import VmState


@asynccontextmanager
async def serve_libvirtd(host: FakeHost, path: Path) -> AsyncIterator[None]:
    """Be the host's libvirtd at this socket."""

    serving: set[asyncio.Task[None]] = set()

    def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(_serve(host, reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_unix_server(on_connection, path)
    try:
        yield
    finally:
        server.close()
        for task in tuple(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def _serve(host: FakeHost, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if not host.libvirtd_up:
        writer.transport.abort()
        return
    incoming = _Incoming(host)
    parser = FrameParser()
    host.connections.add(writer)
    try:
        while data := await reader.read(CHUNK_BYTES):
            for frame in parser.receive_data(data):
                reply = await incoming.answer(frame)
                writer.write(reply.to_bytes())
                await writer.drain()
    except ConnectionError:
        pass  # as libvirtd: the end of the connection ends what was not finished
    finally:
        host.connections.discard(writer)
        incoming.close()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


class _Incoming:
    """One driver connection at the destination, and the guest that it prepares."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host
        self._uuid: UUID | None = None
        self._servers: list[asyncio.Server] = []
        self._arrived = asyncio.Event()
        self._memory = b""
        self._libvirtd = host.libvirtd_starts

    async def answer(self, frame: Frame) -> Frame:
        """Do a call."""
        match decode_call(frame):
            case FeatureCall():
                return encode_feature_reply(frame, supported=True)
            case PrepareCall(params=params):
                if self._host.fail_prepare is not None:
                    return encode_error(frame, self._host.fail_prepare)
                uses = describe({param.field: str(param.value) for param in params}["destination_xml"]).secrets
                if missing := [use.device for use in uses if self._host.secrets.named_by(use) is None]:
                    return encode_error(frame, f"Secret not found: no secret of {missing[0]}")
                await self._prepare({param.field: str(param.value) for param in params})
                return reply_to(frame, bytes(XdrWriter().opaque(b"").optional_string(None)))
            case FinishCall(cancelled=cancelled):
                return await self._finish(frame, cancelled=cancelled)
            case _:
                return reply_to(frame, b"")

    async def _prepare(self, params: dict[str, str]) -> None:
        xml = params["destination_xml"]
        self._uuid = UUID(describe(xml).uuid)
        vm = FakeVm(xml, state=VmState.PAUSED, persistent=False, phase=MigrationPhase.PREPARE)
        self._host.vms[self._uuid] = vm
        self._host.open_files(vm)
        self._host.prepared.set()
        for name, serve in (("migrate_uri", self._on_memory), ("disks_uri", self._on_disk)):
            if name in params:
                self._servers.append(await asyncio.start_unix_server(serve, params[name].removeprefix("unix://")))

    async def _on_memory(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._memory, mark, version = (await reader.read()).partition(CONTENT_MARK)
        if mark and (vm := self._host.vms.get(self._uuid) if self._uuid is not None else None) is not None:
            # The disks were mirrored, and flushed, before the last of the memory came.
            self._host.store_content(vm, int.from_bytes(version, "big"))
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
        if self._host.libvirtd_starts != self._libvirtd or not self._host.libvirtd_up:
            raise ConnectionResetError("this libvirtd has died meanwhile")
        if self._host.vms.get(uuid) is not vm:
            return encode_error(frame, "domain is not running")
        vm.memory = self._memory
        vm.phase = MigrationPhase.FINISH
        self._uuid = None
        self._host.let_run(uuid, vm)
        if self._host.after_cont is not None:
            self._host.after_cont(uuid)
            await asyncio.sleep(0)
        vm.phase = MigrationPhase.NONE
        return encode_finish_reply(frame.serial, describe(vm.domain_xml).name, uuid.bytes)

    def close(self) -> None:
        """Destroy what was not finished."""
        for server in self._servers:
            server.close()
        if self._uuid is not None and self._host.libvirtd_up and self._libvirtd == self._host.libvirtd_starts:
            vm = self._host.vms.pop(self._uuid, None)
            if vm is not None:
                self._host.close_files(vm)
        self._uuid = None
