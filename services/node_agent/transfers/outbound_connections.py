"""The connections that libvirt and QEMU open to the donor's node agent, joined with the port's lanes: driver, memory,
disks, and in post-copy the pages that the guest waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from services.node_agent.lanes.core.errors import LaneError, StreamError
from services.node_agent.libvirt_rpc.messages import RpcError
from services.node_agent.libvirt_rpc.relay import DonorRelay
from services.node_agent.page_codec.codec import CodecError
from services.node_agent.switchover.post_copy_request import DRIVER
from services.node_agent.transfers.finish_guard import DonorFinishGuard
from services.node_agent.transfers.port_lanes import PortLanes
from services.node_agent.transfers.port_sockets import Connections, PortSockets
from services.node_agent.transfers.relay_proxy import RelayProxy
from shared.messages.porting import ServiceChangeAgreement
from shared.page_stream.bodies import StreamKind
from shared.topology import Lane


class OutboundConnections:
    """Serves one port's sockets. `trouble` hears (code, detail) of a connection that failed."""

    def __init__(
        self,
        agreement: ServiceChangeAgreement,
        *,
        lanes: PortLanes,
        guard: DonorFinishGuard,
        contents_known: Callable[[], Awaitable[object]],
        memory_flows: Callable[[], None],
        trouble: Callable[[str, str], None],
    ) -> None:
        """libvirt hears that the recipient is prepared after `contents_known`; `memory_flows` is called when QEMU
        connects for memory.
        """
        self._agreement = agreement
        self._lanes = lanes
        self._guard = guard
        self._contents_known = contents_known
        self._memory_flows = memory_flows
        self._note_trouble = trouble
        self._connections = Connections()
        self._has_memory = False

    async def listen(self, sockets: PortSockets) -> None:
        """Serve all three sockets from now on. Raises `SocketError`."""
        await sockets.listen(sockets.driver, self._on_driver)
        await sockets.listen(sockets.memory, self._on_memory)
        await sockets.listen(sockets.disk, self._on_disk)

    async def drain(self, within_s: float) -> None:
        """Wait until all have ended by themselves, then end the rest."""
        await self._connections.drain(within_s)

    def close(self) -> None:
        """End all of them now."""
        self._connections.close()

    async def _on_driver(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._connections.track(writer):
            try:
                stream = self._lanes.control.open_stream(StreamKind.CONTROL, DRIVER)
                relay = DonorRelay(self._agreement.vm_uuid, self._agreement.vm_name)
                proxy = RelayProxy(reader, writer, stream, relay, self._guard, before_it_moves=self._contents_known)
                await proxy.run()
            except (RpcError, LaneError, StreamError, OSError, ValueError) as error:
                self._note_trouble("driver_connection", str(error))

    async def _on_memory(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # QEMU's first connection is the migration stream; in post-copy a second one carries what the guest waits for.
        first, self._has_memory = not self._has_memory, True
        if first:
            self._memory_flows()
        await self._pump(Lane.MEMORY if first else Lane.URGENT, StreamKind.MEMORY, reader, writer)

    async def _on_disk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._pump(Lane.DISK, StreamKind.DISK, reader, writer)

    async def _pump(
        self, lane: Lane, kind: StreamKind, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        session = self._lanes.session(lane)
        with self._connections.track(writer):
            try:
                await self._lanes.pump(lane, reader, writer, session.open_stream(kind, str(lane)))
            except (LaneError, StreamError, CodecError, OSError, ValueError) as error:
                if not self._guard.passed:
                    self._note_trouble(f"{lane}_stream", str(error))
