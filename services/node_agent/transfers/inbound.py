"""The inbound transfer of a port: the guest arrives at this host.

Waits for the donor's streams and joins them with this host's libvirtd (through the RPC gate) and QEMU. Disks are
`inbound_disks`'s; whether the guest may run, and what is removed, is settled in `arrival_guard`, as `machine.table`
says. It owns no RPC rule and no lane protocol.

What can go wrong, and what keeps at most one copy running (1) and no guest lost (3):

* *Before the broker's commit* the guest here has never run and cannot: libvirt starts it only at Finish, and the gate
  holds Finish. Every failure destroys the incomplete domain and removes what the journal lists.
* *While Finish is held* the broker may have committed without our knowing (its answer lost): so silence is neither yes
  nor no, and we keep asking. The donor's guest is paused meanwhile. The broker's abort ends the wait.
* *After the commit* Finish is passed when the journal says so, and nothing here gives up or removes anything by itself.
  If libvirt cannot run the guest, that is reported when the domain is proven gone, and everything stays until the
  broker's abort: then it has given the VM back to the donor, whose copy still stands.
* *This agent is stopped or dies.* Its sockets close; libvirtd here destroys an incoming domain whose Finish never came.
  If Finish was passed, the guest may run, or may have run: the next agent looks at libvirt until there is a proof, and
  removes nothing (`recovery`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from services.node_agent.dedup.early_transfer import EARLY
from services.node_agent.dedup.exchange import CONTENTS
from services.node_agent.dedup.overlay_request import OVERLAYS
from services.node_agent.dedup.seeding import SEED
from services.node_agent.hypervisor.disk_images import DiskImageError
from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError
from services.node_agent.hypervisor.tpm_state import TPM_DIR
from services.node_agent.lanes.core.errors import LaneClosedError, LaneError, QuestionError, StreamError
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.libvirt_rpc.gate import RpcGate
from services.node_agent.libvirt_rpc.gate_terms import Expected, GateRefusal
from services.node_agent.libvirt_rpc.messages import RpcError
from services.node_agent.network.parties import NetworkFailed
from services.node_agent.page_codec.codec import CodecError
from services.node_agent.state.journal import Kind, Phase, TransferJournal
from services.node_agent.switchover.broker_client import BrokerClient
from services.node_agent.switchover.post_copy_request import DRIVER, SWITCHOVER, answer_switchover
from services.node_agent.switchover.readiness import READY, answer_readiness
from services.node_agent.transfers.arrival_guard import Arrival, ArrivalGuard
from services.node_agent.transfers.cleanup import forget_directory, remove_created
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.gate_proxy import GateProxy
from services.node_agent.transfers.inbound_disks import InboundDisks
from services.node_agent.transfers.inbound_secrets import InboundSecrets
from services.node_agent.transfers.inbound_state import claim_state
from services.node_agent.transfers.nbd_opening import NbdOpening
from services.node_agent.transfers.port_contents import InboundContents
from services.node_agent.transfers.port_lanes import PortLanes
from services.node_agent.transfers.port_network import NETWORK_STREAMS, JoinedNetworks, PortNetwork, own_bridges_of
from services.node_agent.transfers.port_sockets import Connections, PortSockets, SocketError, connect_when_there
from services.node_agent.transfers.read_only_disks import READ_ONLY
from services.node_agent.transfers.secret_handover import SECRETS
from shared.domain import DomainXmlError, describe
from shared.errors import VmportError
from shared.logs import get_logger
from shared.messages.porting import ServiceChangeAgreement, Side
from shared.tasks import Tasks
from shared.topology import Lane

log = get_logger(__name__)

LAST_BYTES_S = 5.0
_STREAM_ERRORS = (
    SocketError,
    RpcError,
    LaneError,
    StreamError,
    QuestionError,
    DiskImageError,
    HypervisorError,
    DomainXmlError,
    OSError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundTuning:
    """Times and places of an inbound transfer. `image_dir` is where disks may lie; none is made elsewhere."""

    libvirt_socket: Path
    image_dir: Path
    tpm_dir: Path = TPM_DIR
    socket_within_s: float = 30.0
    start_within_s: float = 600.0
    ask_again_s: float = 0.5


class Inbound:
    """One inbound transfer: `open`, then `run`, once. `cancel` at any moment."""

    def __init__(
        self,
        agreement: ServiceChangeAgreement,
        *,
        hypervisor: Hypervisor,
        lanes: PortLanes,
        sockets: PortSockets,
        broker: BrokerClient,
        journal: TransferJournal,
        contents: InboundContents,
        tuning: InboundTuning,
        network: PortNetwork | None = None,
    ) -> None:
        self._agreement = agreement
        self._hypervisor = hypervisor
        self._lanes = lanes
        self._sockets = sockets
        self._journal = journal
        self._contents = contents
        self._network = network or JoinedNetworks()
        self._tuning = tuning
        self._tasks = Tasks("inbound")
        self._disks = InboundDisks(
            agreement, image_dir=tuning.image_dir, journal=journal, contents=contents, tasks=self._tasks
        )
        self._secrets = InboundSecrets(agreement, hypervisor=hypervisor, journal=journal, disks=self._disks)
        self._connections = Connections()
        self._has_memory = asyncio.Event()
        self._broker = broker
        self._gate: GateProxy | None = None
        self._guard = ArrivalGuard(
            journal, hypervisor=hypervisor, broker=broker, remove=self._remove, look_again_s=tuning.ask_again_s
        )

    def cancel(self) -> None:
        """Stop: the broker says this only while the switchover is not committed, or has been taken back."""
        if not self._guard.arrived:
            self._guard.abort()

    def stop(self) -> None:
        """Stop if it is not too late: this process ends. Says nothing about who owns the VM."""
        self._guard.stop()

    # ---- opening ----

    async def open(self) -> None:
        """Make everything ready for the guest. Raises `TransferError`, having removed what it made."""
        try:
            await self._check_host()
            await self._network.prepare(Side.INBOUND, self._agreement, {})
            self._journal.will_create(Kind.DIRECTORY, str(self._sockets.directory))
            self._sockets.make_directory()
            tuning = self._tuning
            await asyncio.to_thread(
                claim_state, self._agreement, self._journal, tpm_dir=tuning.tpm_dir, image_dir=tuning.image_dir
            )
            await self._disks.create()
            self._journal.will_create(Kind.DOMAIN, str(self._agreement.vm_uuid))
            self._journal.enter(Phase.OPEN)
        except (HypervisorError, SocketError, DiskImageError, DomainXmlError, NetworkFailed, OSError) as error:
            code = error.code if isinstance(error, VmportError) else "inbound_failed"
            await self._remove()
            running = await self._hypervisor.is_running(self._agreement.vm_uuid)
            raise TransferError(code, str(error) or type(error).__name__, guest_running=running) from error

    async def _check_host(self) -> None:
        uuid = self._agreement.vm_uuid
        here = f"this host has a VM {uuid} already" if await self._hypervisor.state(uuid) is not None else None
        if (reason := here or self._journal.given_away.why_not(uuid, self._agreement.epoch)) is not None:
            raise HypervisorError("make room for the VM", reason)
        facts = describe(self._agreement.domain_xml)
        if facts.uuid != str(uuid):
            raise DomainXmlError(f"the agreed XML is of VM {facts.uuid}, not of {uuid}")
        # What the port makes here for its cards alone is not among the bridges that this host offers.
        bridges = {nic.bridge for nic in facts.nics if nic.bridge is not None} - own_bridges_of(self._agreement)
        if missing := sorted(bridges - set((await self._hypervisor.platform()).bridges)):
            raise HypervisorError("make room for the VM", f"this host offers no bridge {', '.join(missing)}")

    # ---- running ----

    async def run(self, on_running: Callable[[], Awaitable[None]]) -> None:
        """Serve until the guest runs here and the donor has heard it. `on_running` is called in between, at once.

        Raises `TransferError`. What was made is removed then, unless Finish was passed.
        """
        guarding = self._tasks.spawn(self._guard.run(), name="arrival guard")
        acceptors = [
            self._tasks.spawn(self._accept(session, serve), name=name)
            for name, session, serve in (
                ("control", self._lanes.control, self._on_control),
                ("memory", self._lanes.memory, self._on_memory),
                ("disk", self._lanes.disk, self._on_disk),
                ("urgent", self._lanes.urgent, self._on_urgent),
            )
        ]
        acceptors.append(self._tasks.spawn(self._watch_lanes(), name="lanes"))
        try:
            outcome = await self._guard.outcome()
            if outcome.arrival is not Arrival.ARRIVED:
                raise outcome.error()
            self._network.guest_has_arrived(self._agreement)
            await on_running()
            # Post-copy still moves pages; the donor's libvirtd still closes its connection.
            await self._connections.drain(LAST_BYTES_S if not self._post_copy else self._tuning.start_within_s)
        finally:
            for acceptor in (*acceptors, guarding):
                acceptor.cancel()
            self._connections.close()
            await self._tasks.close()
            if self._guard.over:
                self._sockets.remove()
                forget_directory(self._journal)

    async def _watch_lanes(self) -> None:
        """Without a lane nothing more comes; but a Finish that is here already must still be decided."""
        reason = str(await asyncio.shield(self._lanes.failed))
        if self._gate is not None and self._gate.finish_in_flight:
            log.warning("lane lost during the switchover, which is finished first", error=reason)
        else:
            self._guard.trouble("lane_failed", reason)

    async def _accept(self, session: LaneSession, serve: Callable[[LaneStream], Coroutine[Any, Any, None]]) -> None:
        try:
            while True:
                stream = await session.accept()
                self._tasks.spawn(serve(stream), name=f"stream {stream.label}")
        except LaneClosedError:
            # The donor has ended the lane in order: after the switchover that is the end, before it a failure.
            if self._gate is None or not self._gate.finish_in_flight:
                self._guard.trouble("donor_left", "the donor's node agent ended the transfer")
        except LaneError as error:
            log.info("lane lost", error=str(error))

    # ---- streams ----

    @property
    def _post_copy(self) -> bool:
        return self._gate is not None and self._gate.post_copy_started

    async def _on_control(self, stream: LaneStream) -> None:
        try:
            match stream.label:
                case label if label == DRIVER and self._gate is None:
                    await self._on_driver(stream)
                case label if label == SWITCHOVER and self._gate is not None:
                    await self._on_switchover_question(stream, self._gate)
                case label if label == READY:
                    await answer_readiness(stream, self._broker.readiness)
                case label if label in NETWORK_STREAMS:
                    await self._network.serve_stream(self._agreement, stream)
                case label if label == CONTENTS and self._gate is None:
                    await self._contents.answer(stream)
                case label if label == OVERLAYS and self._gate is None:
                    await self._disks.answer_overlays(stream)
                case label if label == SECRETS and self._gate is None:
                    await self._secrets.receive(stream)
                case label:
                    stream.reset(f"no stream {label!r} is expected")
        except GateRefusal as refusal:
            self._guard.trouble(refusal.code, str(refusal))
            # Not a reset, which would overtake the error reply that tells the donor's libvirtd why.
            stream.write_eof()
        except _STREAM_ERRORS as error:
            code = error.code if isinstance(error, VmportError) else "driver_connection"
            self._guard.trouble(code, str(error))
            stream.reset(str(error))

    async def _on_driver(self, stream: LaneStream) -> None:
        await self._disks.settle()
        await self._secrets.settle()
        self._disks.check_read_only()
        self._secrets.check()
        agreement = self._agreement
        copied = {disk.target: disk.virtual_size_bytes for disk in agreement.disks if not disk.read_only}
        drives = describe(agreement.domain_xml).drives
        gate = RpcGate(
            Expected(
                vm_uuid=agreement.vm_uuid,
                vm_name=agreement.vm_name,
                domain_xml=agreement.domain_xml,
                disks=copied,
                not_copied=frozenset(drive.target for drive in drives if drive.target not in copied),
                memory_uri=self._sockets.memory_uri,
                disks_uri=self._sockets.disk_uri,
                overlays=self._disks.overlays,
            )
        )
        reader, writer = await connect_when_there(self._tuning.libvirt_socket, within_s=self._tuning.socket_within_s)
        expected = partial(self._network.guest_is_expected, agreement.port_id)
        self._gate = GateProxy(reader, writer, stream, gate, self._guard, prepared=expected)
        with self._connections.track(writer), self._journal.given_away.admitted(agreement.vm_uuid):
            await self._gate.run()
        self._guard.trouble("donor_gave_up", "the donor's hypervisor ended the migration")

    async def _on_switchover_question(self, stream: LaneStream, gate: GateProxy) -> None:
        denied = await self._guard.ask_for_post_copy()
        if denied is None:
            gate.post_copy_started = True
        await answer_switchover(stream, None if denied is None else f"{denied.code}: {denied.detail}")

    async def _on_memory(self, stream: LaneStream) -> None:
        await self._pump(Lane.MEMORY, self._sockets.memory, stream)

    async def _on_urgent(self, stream: LaneStream) -> None:
        await self._has_memory.wait()  # QEMU tells its connections apart by their order
        await self._pump(Lane.URGENT, self._sockets.memory, stream)

    async def _on_disk(self, stream: LaneStream) -> None:
        match stream.label:
            case label if label == SEED:
                await self._on_seed(stream)
            case label if label == EARLY:
                await self._on_early(stream)
            case label if label == READ_ONLY:
                await self._on_read_only(stream)
            case _:
                await self._on_nbd(stream)

    async def _on_nbd(self, stream: LaneStream) -> None:
        self._disks.write_back()
        with self._logged(Lane.DISK, stream):
            socket = await NbdOpening.open(lambda: self._socket(self._sockets.disk))
            with self._connections.track(socket):
                await self._lanes.pump(Lane.DISK, socket, socket, stream)

    async def _on_seed(self, stream: LaneStream) -> None:
        try:
            await self._contents.receive_seed(stream)
        except LaneError as error:
            log.info("seeding stopped: lane lost", error=str(error))

    async def _on_read_only(self, stream: LaneStream) -> None:
        try:
            await self._disks.receive_read_only(stream)
        except LaneError as error:
            log.info("read-only disks stopped: lane lost", error=str(error))
        except (StreamError, CodecError, DiskImageError, OSError) as error:
            self._guard.trouble("read_only_disk", str(error))
            stream.reset(str(error))

    async def _on_early(self, stream: LaneStream) -> None:
        try:
            await self._contents.receive_early(stream)
        except LaneError as error:
            log.info("early transfer stopped: lane lost", error=str(error))
        except (StreamError, CodecError, OSError) as error:
            # The disks' streams will refer to what did not come.
            self._guard.trouble("early_contents", f"contents of the early transfer cannot be stored: {error}")
            stream.reset(str(error))

    async def _pump(self, lane: Lane, path: Path, stream: LaneStream) -> None:
        with self._logged(lane, stream):
            reader, writer = await self._socket(path)
            if lane is Lane.MEMORY:
                self._has_memory.set()
            with self._connections.track(writer):
                await self._lanes.pump(lane, reader, writer, stream)

    async def _socket(self, path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await connect_when_there(path, within_s=self._tuning.socket_within_s)

    @contextmanager
    def _logged(self, lane: Lane, stream: LaneStream) -> Iterator[None]:
        try:
            yield
        except (SocketError, LaneError, StreamError, CodecError, OSError) as error:
            # libvirt at either side notices a broken stream and says what it means; this is for the log.
            log.info("migration stream failed", lane=str(lane), error=str(error))
            stream.reset(str(error))

    # ---- the end ----

    async def _remove(self) -> tuple[str, ...]:
        """Remove what was made; return what remains."""
        self._connections.close()
        await self._disks.settle()
        await self._secrets.settle()
        return await remove_created(self._journal, self._hypervisor)
