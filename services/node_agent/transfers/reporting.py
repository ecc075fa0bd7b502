"""What a transfer tells its provider's agent and the broker, and which switchovers are in doubt. Decides nothing.

Every message but progress goes through the outbox, so it arrives whatever happens to this process.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from services.node_agent.messenger import Messenger
from services.node_agent.metrics import NodeMetrics
from services.node_agent.state.journal import PortRecord, TransferJournal
from services.node_agent.switchover.broker_client import BrokerClient
from services.node_agent.switchover.readiness import BrokerReadiness
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.progress import Progress
from shared.bus import BusDown, Undeliverable
from shared.logs import get_logger
from shared.messages.base import PortMessage
from shared.messages.porting import (
    InboundFinished,
    InboundOpened,
    OutboundStarted,
    Side,
    TransferAborted,
    TransferFailed,
)
from shared.messages.service_change import PortProgressed

log = get_logger(__name__)


def failure_message(port_id: UUID, side: Side, error: TransferError) -> TransferFailed:
    """Put a transfer's error into the message that the provider's agent and the broker understand."""
    return TransferFailed(
        port_id=port_id,
        side=side,
        code=error.code,
        detail=error.detail,
        guest_running=error.guest_running,
        may_have_run=error.may_have_run,
    )


class TransferReports:
    """Sends the reports of all transfers of this node."""

    def __init__(self, messenger: Messenger, metrics: NodeMetrics) -> None:
        self._messenger = messenger
        self._metrics = metrics
        self._doubts: dict[UUID, str] = {}

    def problems(self) -> tuple[str, ...]:
        """For the heartbeat: one sentence for each switchover whose outcome is not known."""
        return tuple(f"port {port_id}: {reason}" for port_id, reason in self._doubts.items())

    def opened(self, port_id: UUID) -> None:
        """The recipient's side is ready for the guest."""
        self._send(Side.INBOUND, InboundOpened(port_id=port_id))

    def started(self, port_id: UUID) -> None:
        """The donor's side has begun: libvirt migrates, or seeding runs."""
        self._send(Side.OUTBOUND, OutboundStarted(port_id=port_id))

    def failed(self, port_id: UUID, side: Side, error: TransferError) -> None:
        """The transfer failed, and no journal record will tell it later."""
        self._send(side, failure_message(port_id, side, error))

    def in_doubt(self, port_id: UUID, reason: str) -> None:
        """Finish is out and its outcome unknown: the broker stops the port if it still can."""
        self._doubts[port_id] = f"the outcome of the switchover is not known: {reason}"
        self.failed(port_id, Side.OUTBOUND, TransferError("switchover_in_doubt", reason, guest_running=False))

    def ended(self, port_id: UUID) -> None:
        """The transfer is over; nothing about it is in doubt any more."""
        self._doubts.pop(port_id, None)

    def aborted(self, port_id: UUID, side: Side, *, guest_running: bool, remaining: tuple[str, ...]) -> None:
        """The transfer was stopped. `remaining` names what could not be removed."""
        self._send(side, TransferAborted(port_id=port_id, side=side, guest_running=guest_running, left_overs=remaining))

    def final(self, journal: TransferJournal) -> None:
        """Send the transfer's last message from its journal, unless that is done."""
        last = journal.record.last_word
        if last is not None and not last.told:
            self._send(journal.record.side, last.message)
            journal.mark_last_word_sent()

    def final_again(self, record: PortRecord) -> bool:
        """Send the last message once more, because somebody asked; False where there is none yet."""
        if record.last_word is None:
            return False
        self._send(record.side, record.last_word.message)
        return True

    def arrived(self, message: InboundFinished) -> None:
        """Answer that the guest runs here."""
        self._send(Side.INBOUND, message)

    async def progressed(self, port_id: UUID, progress: Progress, *, wire_bytes: int) -> None:
        """Publish progress if the bus is there; a lost report is replaced by the next one."""
        message = PortProgressed(
            port_id=port_id,
            phase=progress.phase,
            percent=progress.percent,
            memory=progress.memory,
            disk=progress.disk,
            rate_bytes_per_s=progress.rate_bytes_per_s,
            dirty_rate_bytes_per_s=progress.dirty_rate_bytes_per_s,
            wire_bytes=wire_bytes,
            eta_s=progress.eta_s,
            waiting_for=progress.waiting_for,
        )
        self._metrics.dirty_rate_bytes_per_second.set(progress.dirty_rate_bytes_per_s)
        try:
            await self._messenger.publish_to_broker(message)
        except (BusDown, Undeliverable) as error:
            log.debug("progress report lost", error=str(error))

    def held(self, *, held: bool) -> None:
        """One switchover more, or one less, is held off for the broker."""
        self._metrics.switchovers_held.inc(1 if held else -1)

    def broker_client(self, port_id: UUID) -> BrokerClient:
        """A client for one port's questions to the broker."""
        client = BrokerClient(port_id, self._messenger.publish_to_broker)
        client.readiness = BrokerReadiness(port_id, self._messenger.publish_to_broker_as, clock=time.monotonic)
        return client

    def _send(self, side: Side, message: PortMessage) -> None:
        self._messenger.enqueue(self._messenger.agent(side), message)


class OutboundReporter(Protocol):
    """What an outbound transfer reports."""

    async def started(self) -> None:
        """libvirt migrates, or seeding runs."""
        ...

    async def progressed(self, progress: Progress, *, wire_bytes: int) -> None:
        """About once a second."""
        ...

    def held(self, *, held: bool) -> None:
        """The switchover is held off from now on, or no longer."""
        ...

    async def in_doubt(self, reason: str) -> None:
        """Finish is out and its outcome unknown; the guest is paused here."""
        ...


@dataclass(slots=True)
class OutboundReports:
    """`OutboundReporter` of one port. `has_started` is what a repeated command is answered by."""

    reports: TransferReports
    port_id: UUID
    has_started: bool = False

    async def started(self) -> None:
        """libvirt migrates, or seeding runs."""
        self.has_started = True
        self.reports.started(self.port_id)

    async def progressed(self, progress: Progress, *, wire_bytes: int) -> None:
        """Publish progress, about once a second."""
        await self.reports.progressed(self.port_id, progress, wire_bytes=wire_bytes)

    def held(self, *, held: bool) -> None:
        """Count a switchover that is held off."""
        self.reports.held(held=held)

    async def in_doubt(self, reason: str) -> None:
        """Finish is out and its outcome unknown; the guest is paused here."""
        self.reports.in_doubt(self.port_id, reason)
