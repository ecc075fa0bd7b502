"""The donor agent: what it does with each message and timer. Each is one transaction; `shared.provider_agent` has the
frame, and says whom an agent believes.

The broker is always answered, since it waits: with a refusal where it asks for something that was not approved.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from services.donor_agent import records
from services.donor_agent.approval_handler import DESCRIBE, ApprovalHandler
from services.donor_agent.context import NO_LEAVING_TERMS, DonorContext
from services.donor_agent.disconnect_handler import ERASE, DisconnectHandler
from services.donor_agent.inspection_handler import INSPECT, InspectionHandler
from services.donor_agent.inventory import Inventory
from services.donor_agent.inventory_report import InventoryReport
from services.donor_agent.leaving_terms import LeavingSection
from services.donor_agent.metrics import DonorMetrics
from services.donor_agent.policy_file import PolicyFile
from services.donor_agent.port_record import DonorPort, Phase
from services.donor_agent.settings import DonorSection, NetworkSection
from services.donor_agent.transfer_handler import TransferHandler
from shared.bus import Bus
from shared.messages import Envelope
from shared.messages.approval import ApprovalRequested, InspectVm
from shared.messages.nodes import DescribeFailed, NodeHeartbeat, VmDescribed
from shared.messages.porting import (
    AbortTransfer,
    CompletionFailed,
    DisconnectVm,
    DisksErased,
    OutboundFinished,
    OutboundStarted,
    PortingFixed,
    StartOutbound,
    TransferAborted,
    TransferFailed,
    VmDisconnected,
)
from shared.messages.rules import DemandRefused
from shared.messages.service_change import PortCancelled, PortCompleted, PortFailed
from shared.provider_agent import ProviderAgent
from shared.store import RelayPolicy, Store, Transaction

_USUAL_TERMS = NetworkSection()


class DonorService(ProviderAgent[DonorPort]):
    """One provider's donor agent."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        policy_file: PolicyFile,
        settings: DonorSection,
        metrics: DonorMetrics,
        *,
        network: NetworkSection = _USUAL_TERMS,
        leaving: LeavingSection = NO_LEAVING_TERMS,
        relay_policy: RelayPolicy | None = None,
    ) -> None:
        super().__init__(store, bus, settings, metrics, relay_policy=relay_policy)
        self._policy_file = policy_file
        self._context = DonorContext(
            policy_file, settings, metrics, network=network, leaving=leaving, on_policy_change=self.report_now
        )
        self._report = InventoryReport(self._context)
        self._listen()

    def _listen(self) -> None:
        self._approval = approval = ApprovalHandler(self._context)
        self._inspection = inspection = InspectionHandler(self._context)
        transfer = TransferHandler(self._context)
        disconnect = DisconnectHandler(self._context)

        self.handlers.on(ApprovalRequested, approval.requested)
        self.handlers.on(DemandRefused, approval.demand_refused)
        self.on_port_timer(DESCRIBE, approval.describe_overdue)
        self.handlers.on(InspectVm, inspection.requested)
        self.on_port_timer(INSPECT, inspection.overdue)
        self.on_node(VmDescribed, self._described)
        self.on_node(DescribeFailed, self._describe_failed)

        self.handlers.on(PortingFixed, transfer.fixed)
        self.handlers.on(StartOutbound, transfer.start)
        self.handlers.on(AbortTransfer, transfer.abort)
        self.on_node(OutboundFinished, transfer.outbound_finished)
        self.pass_on(OutboundStarted, TransferFailed, TransferAborted, CompletionFailed)
        self.handlers.on(PortFailed, transfer.failed)
        self.handlers.on(PortCancelled, transfer.cancelled)

        self.handlers.on(DisconnectVm, disconnect.disconnect)
        self.handlers.on(PortCompleted, disconnect.completed)
        self.on_node(VmDisconnected, disconnect.disconnected)
        self.on_node(DisksErased, disconnect.erased)
        self.on_port_timer(ERASE, disconnect.erase_due)

    async def _described(self, tx: Transaction, envelope: Envelope[VmDescribed], port: DonorPort) -> None:
        await self._asker(port).described(tx, envelope, port)

    async def _describe_failed(self, tx: Transaction, envelope: Envelope[DescribeFailed], port: DonorPort) -> None:
        await self._asker(port).describe_failed(tx, envelope, port)

    def _asker(self, port: DonorPort) -> ApprovalHandler | InspectionHandler:
        """Who had the VM described."""
        return self._inspection if port.phase in {Phase.INSPECTING, Phase.INSPECTED} else self._approval

    def loops(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """The reports to the broker, and the watch over the policy file."""
        watch = self._policy_file.watch(self._context.settings.policy_check_s, self.report_now)
        return {**super().loops(), "policy": watch}

    # ---- what the frame asks for --------------------------------------------------------------------------------

    async def load_port(self, tx: Transaction, port_id: UUID) -> DonorPort | None:
        """A port's record."""
        return await records.load_port(tx, port_id)

    async def load_nodes(self) -> Mapping[str, object]:
        """What the nodes ran; they count as heard now, so that one that is gone will be silent from now on."""
        await self.store.create_schema(records.metadata)
        nodes = await records.load_nodes(self.store, self.store.clock())
        self._context.inventory = Inventory(nodes)
        return {name: view.vms for name, view in nodes.items()}

    def take_heartbeat(self, name: str, heartbeat: NodeHeartbeat) -> object:
        """The node's VMs are stored, since approvals need them."""
        self._context.inventory = self._context.inventory.heard(name, heartbeat, self.store.clock())
        return self._context.inventory.nodes[name].vms

    async def save_node(self, tx: Transaction, name: str, heartbeat: NodeHeartbeat) -> None:  # noqa: ARG002  # of the frame
        """Store the node as the inventory has it, which may have heard a later heartbeat before."""
        await records.save_node(tx, name, self._context.inventory.nodes[name])

    async def send_report(self, tx: Transaction, *, only_changes: bool) -> None:
        """The VMs that this provider serves."""
        await self._report.send(tx, only_changes=only_changes)

    async def forget(self, tx: Transaction, ended_before: datetime) -> None:
        """Ports that ended, and nodes that were not heard since."""
        await records.forget_ended(tx, ended_before)

    async def show_ports(self) -> None:
        """Ports under way, and what is in quarantine."""
        active, quarantined_bytes = await records.figures(self.store)
        self._context.metrics.ports_active.set(active)
        self._context.metrics.quarantined_bytes.set(quarantined_bytes)

    def nodes_heard_at(self) -> list[datetime]:
        """Of all nodes in the inventory."""
        return [view.heard_at for view in self._context.inventory.nodes.values()]
