"""The recipient agent: what it does with each message and timer. Each is one transaction; `shared.provider_agent` has
the frame, and says whom an agent believes. The broker is always answered, since it waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import UUID

from services.recipient_agent import records
from services.recipient_agent.arrival_handler import ArrivalHandler
from services.recipient_agent.assessment import Terms
from services.recipient_agent.capacity_report import CapacityReport
from services.recipient_agent.context import RecipientContext
from services.recipient_agent.metrics import RecipientMetrics
from services.recipient_agent.prefix_files import PrefixFiles
from services.recipient_agent.quote_handler import VM_CHECK, QuoteHandler
from services.recipient_agent.reservation import Reservation
from services.recipient_agent.reservation_handler import RESERVATION, ReservationHandler
from services.recipient_agent.settings import RecipientSection
from shared.bus import Bus
from shared.messages.nodes import NodeHeartbeat, VmChecked
from shared.messages.porting import (
    AbortTransfer,
    CompletionFailed,
    InboundFinished,
    InboundOpened,
    OpenInbound,
    PortingFixed,
    ProvisionVm,
    QuoteRequested,
    ReleaseReservation,
    ReservationRequested,
    TransferAborted,
    TransferFailed,
    VmProvisioned,
)
from shared.messages.service_change import PortCancelled, PortCompleted, PortFailed
from shared.provider_agent import ProviderAgent
from shared.store import RelayPolicy, Store, Transaction

KEEP_QUOTES = timedelta(hours=1)
"""How long an expired quote is remembered, so that whoever comes late is told "expired" and not "unknown"."""


class RecipientService(ProviderAgent[Reservation]):
    """One provider's recipient agent."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        terms: Terms,
        settings: RecipientSection,
        metrics: RecipientMetrics,
        *,
        relay_policy: RelayPolicy | None = None,
        prefixes: PrefixFiles | None = None,
    ) -> None:
        super().__init__(store, bus, settings, metrics, relay_policy=relay_policy)
        self._context = RecipientContext(terms, settings, metrics, prefixes=prefixes)
        self._report = CapacityReport(self._context)
        self._listen()

    def _listen(self) -> None:
        quote = QuoteHandler(self._context)
        reservation = ReservationHandler(self._context)
        arrival = ArrivalHandler(self._context)

        self.handlers.on(QuoteRequested, quote.requested)
        self.handlers.on(VmChecked, quote.checked)
        self.on_port_timer(VM_CHECK, quote.time_is_over)

        self.handlers.on(ReservationRequested, reservation.requested)
        self.handlers.on(ReleaseReservation, reservation.released)
        self.handlers.on(PortingFixed, reservation.fixed)
        self.handlers.on(PortFailed, reservation.failed)
        self.handlers.on(PortCancelled, reservation.cancelled)
        self.handlers.on(PortCompleted, reservation.completed)
        self.on_port_timer(RESERVATION, reservation.time_is_over)

        self.handlers.on(OpenInbound, arrival.open)
        self.handlers.on(AbortTransfer, arrival.abort)
        self.handlers.on(ProvisionVm, arrival.provision)
        self.on_node(InboundFinished, arrival.inbound_finished)
        self.on_node(VmProvisioned, arrival.provisioned)
        self.pass_on(InboundOpened, TransferFailed, TransferAborted, CompletionFailed)

    # ---- what the frame asks for --------------------------------------------------------------------------------

    async def load_port(self, tx: Transaction, port_id: UUID) -> Reservation | None:
        """A port's reservation."""
        return await records.load(tx, port_id)

    async def load_nodes(self) -> Mapping[str, object]:
        """What the nodes were; they count as heard now, so that one that is gone will be silent from now on."""
        await self.store.create_schema(records.metadata)
        heartbeats = await records.load_nodes(self.store)
        return {name: self.take_heartbeat(name, heartbeat) for name, heartbeat in heartbeats.items()}

    def take_heartbeat(self, name: str, heartbeat: NodeHeartbeat) -> object:
        """All is stored but free memory, huge pages and disk, which change all the time."""
        self._context.nodes = self._context.nodes.heard(name, heartbeat, self.store.clock())
        platform = heartbeat.platform.model_copy(update={"huge_pages": ()})
        return platform, heartbeat.lane, heartbeat.vms, heartbeat.healthy, heartbeat.problems

    async def save_node(self, tx: Transaction, name: str, heartbeat: NodeHeartbeat) -> None:
        """The heartbeat as it is."""
        await records.save_node(tx, name, heartbeat)

    async def send_report(self, tx: Transaction, *, only_changes: bool) -> None:
        """What this provider can take."""
        await self._report.send(tx, only_changes=only_changes)

    async def forget(self, tx: Transaction, ended_before: datetime) -> None:
        """Reservations that hold nothing, expired quotes, and nodes that were not heard since."""
        quotes_before = self.store.clock() - KEEP_QUOTES
        await records.forget(tx, ended_before=ended_before, quotes_before=quotes_before)

    async def show_ports(self) -> None:
        """Reservations that hold capacity, and ports at a node."""
        holding, active = await records.figures(self.store)
        self._context.metrics.reservations_active.set(holding)
        self._context.metrics.ports_active.set(active)

    def nodes_heard_at(self) -> list[datetime]:
        """Of all nodes."""
        return [view.heard_at for view in self._context.nodes.views.values()]
