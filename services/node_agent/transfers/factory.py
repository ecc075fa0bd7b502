"""Builds the transfers of this node: an Outbound or an Inbound with its lanes, sockets, contents and settings.

Knows which setting goes where; runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from services.node_agent.hypervisor.interface import Hypervisor
from services.node_agent.lanes.core.seal import SealError
from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.keys import LaneKeys
from services.node_agent.settings import NodeSection
from services.node_agent.state.journal import TransferJournal
from services.node_agent.switchover.broker_client import BrokerClient
from services.node_agent.switchover.outage_probe import ArpProbe
from services.node_agent.transfers.inbound import Inbound, InboundTuning
from services.node_agent.transfers.outbound import Outbound, OutboundTuning
from services.node_agent.transfers.port_codecs import PortCodecs
from services.node_agent.transfers.port_contents import PortContents
from services.node_agent.transfers.port_lanes import LaneTuning, PortLanes, PortRoutes
from services.node_agent.transfers.port_network import PortNetwork
from services.node_agent.transfers.port_sockets import PortSockets
from services.node_agent.transfers.reporting import OutboundReporter
from shared.messages.porting import ServiceChangeAgreement, Side
from shared.page_stream.bodies import LaneRole

T = TypeVar("T", Outbound, Inbound)


@dataclass(frozen=True, slots=True)
class BuiltTransfer(Generic[T]):
    """A transfer that can run, and its lanes, which whoever runs it closes."""

    transfer: T
    lanes: PortLanes


class TransferFactory:
    """Builds transfers over what all ports of this node share."""

    def __init__(
        self,
        settings: NodeSection,
        *,
        hypervisor: Hypervisor,
        routes: PortRoutes,
        keys: LaneKeys,
        contents: PortContents,
        network: PortNetwork | None = None,
    ) -> None:
        self._settings = settings
        self._network = network
        self._hypervisor = hypervisor
        self._routes = routes
        self._keys = keys
        self._contents = contents

    async def outbound(
        self, journal: TransferJournal, *, broker: BrokerClient, reporter: OutboundReporter
    ) -> BuiltTransfer[Outbound]:
        """Build the donor's side. Raises `SealError` where its lanes cannot be secured."""
        agreement, settings = journal.record.agreement, self._settings
        contents = self._contents.outbound(agreement)
        try:
            lanes = await self._open_lanes(agreement, Side.OUTBOUND, contents.codecs)
        except SealError:
            await contents.close_scans()
            raise
        outbound = Outbound(
            agreement,
            hypervisor=self._hypervisor,
            lanes=lanes,
            sockets=self._sockets(agreement),
            broker=broker,
            journal=journal,
            reporter=reporter,
            contents=contents,
            tuning=OutboundTuning(
                ready_within_s=settings.peer_ready_within_s,
                progress_every_s=settings.progress_s,
                abort_within_s=settings.abort_within_s,
                auto_converge=settings.auto_converge,
            ),
            network=self._network,
            outage=ArpProbe(interval_s=settings.outage_probe_interval_s) if settings.outage_probe else None,
        )
        return BuiltTransfer(outbound, lanes)

    async def inbound(self, journal: TransferJournal, *, broker: BrokerClient) -> BuiltTransfer[Inbound]:
        """Build the recipient's side. Raises `SealError` where its lanes cannot be secured."""
        agreement, settings = journal.record.agreement, self._settings
        contents = self._contents.inbound(agreement)
        lanes = await self._open_lanes(agreement, Side.INBOUND, contents.codecs)
        inbound = Inbound(
            agreement,
            hypervisor=self._hypervisor,
            lanes=lanes,
            sockets=self._sockets(agreement),
            broker=broker,
            journal=journal,
            contents=contents,
            network=self._network,
            tuning=InboundTuning(libvirt_socket=settings.libvirt_socket, image_dir=settings.image_dir),
        )
        return BuiltTransfer(inbound, lanes)

    def _sockets(self, agreement: ServiceChangeAgreement) -> PortSockets:
        return PortSockets(self._settings.run_dir, agreement.port_id, owner=self._settings.qemu_user)

    async def _open_lanes(self, agreement: ServiceChangeAgreement, side: Side, codecs: PortCodecs) -> PortLanes:
        role = LaneRole.INITIATOR if side is Side.OUTBOUND else LaneRole.ACCEPTOR
        tuning = LaneTuning(
            memory_window_bytes=self._settings.memory_window_bytes,
            disk_window_bytes=self._settings.disk_window_bytes,
            silence_s=self._settings.lane_silence_s,
        )
        tls = self._keys.tls(agreement, role)
        return await PortLanes.open(LaneEnd(agreement, role), self._routes.link, tls, tuning, codecs=codecs)
