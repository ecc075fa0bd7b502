"""Handles the port itself: fixed, started, finished or aborted. A start is checked against what was approved."""

from __future__ import annotations

from datetime import timedelta

from services.donor_agent import records
from services.donor_agent.approval import Approved, agreement_refusals, not_approved, records_refusals
from services.donor_agent.approval_handler import DESCRIBE
from services.donor_agent.context import DonorContext
from services.donor_agent.port_record import DonorPort, Phase
from shared.logs import get_logger
from shared.messages import Envelope, Refusal
from shared.messages.nodes import ExpectOutbound
from shared.messages.porting import (
    AbortTransfer,
    OutboundFinished,
    PortingFixed,
    ServiceChangeAgreement,
    Side,
    StartOutbound,
    TransferAborted,
    TransferFailed,
)
from shared.messages.service_change import PortCancelled, PortFailed
from shared.parties import BROKER
from shared.provider_agent import codes_of, pass_to_broker, pass_to_node, send_to_node, timer_key
from shared.store import Transaction

log = get_logger(__name__)

_MAY_START = frozenset({Phase.APPROVED, Phase.FIXED, Phase.MOVING})
_ON_NODE = frozenset({Phase.MOVING, Phase.LEFT, Phase.DISCONNECTING})
_MAY_END = frozenset({Phase.DESCRIBING, Phase.APPROVED, Phase.FIXED, Phase.MOVING, Phase.LEFT})


class TransferHandler:
    """From the fixed agreement to the end of the transfer."""

    def __init__(self, context: DonorContext) -> None:
        self._context = context

    async def fixed(self, tx: Transaction, envelope: Envelope[PortingFixed]) -> None:
        """The broker has fixed the agreement."""
        agreement = envelope.data.agreement
        port = await records.load_port(tx, envelope.data.port_id)
        if port is None or port.phase is not Phase.APPROVED:
            phase = port.phase.value if port else "unknown"
            log.warning("agreement without approval", vm=str(agreement.vm_uuid), phase=phase)
            return
        refusals = _agreement_refusals(tx, port, agreement)
        if refusals:
            # The broker is told when it asks to start: that message has an answer, this one has none.
            log.warning("agreement differs from approval", vm=str(port.vm_uuid), reason=codes_of(refusals))
            return
        await records.save_port(tx, port.in_phase(Phase.FIXED, tx.now, agreement=agreement))
        if agreement.window_start <= tx.now:
            # Until the recipient is ready the node has as long as it takes to read a disk.
            expect = ExpectOutbound(port_id=port.port_id, vm_uuid=port.vm_uuid)
            due_at = tx.now + timedelta(seconds=self._context.settings.describe_within_s)
            await send_to_node(tx, port.node, expect, cause=envelope, deadline=due_at)

    async def start(self, tx: Transaction, envelope: Envelope[StartOutbound]) -> None:
        """The broker asks for the start of the transfer."""
        agreement = envelope.data.agreement
        port = await records.load_port(tx, envelope.data.port_id)
        if port is None or port.phase not in _MAY_START:
            await self._refuse_start(tx, envelope, (not_approved(port.phase if port else None),))
            return
        refusals = _agreement_refusals(tx, port, agreement)
        if port.phase is not Phase.MOVING:
            refusals += await self._refusals_now(tx, port, agreement)
        if refusals:
            await self._refuse_start(tx, envelope, refusals)
            return
        await records.save_port(tx, port.in_phase(Phase.MOVING, tx.now, agreement=agreement))
        await pass_to_node(tx, port.node, envelope)

    async def _refusals_now(
        self, tx: Transaction, port: DonorPort, agreement: ServiceChangeAgreement
    ) -> tuple[Refusal, ...]:
        """The records once more: between approval and window, days may have passed."""
        request = await self._context.request(
            tx,
            port.port_id,
            tenant=port.tenant,
            vm_uuid=port.vm_uuid,
            recipient=agreement.recipient,
            told=port.told,
            void=port.void,
        )
        refusals = records_refusals(self._context.read_policy(), request)
        if not refusals and request.located is not None and request.located.node != port.node:
            moved = Refusal(
                code="vm_moved",
                rule="The VM leaves from the node that was agreed on.",
                evidence=f"agreed on {port.node}; it is on {request.located.node} now",
            )
            return (moved,)
        return refusals

    async def _refuse_start(
        self, tx: Transaction, envelope: Envelope[StartOutbound], refusals: tuple[Refusal, ...]
    ) -> None:
        message = envelope.data
        vm_uuid = message.agreement.vm_uuid
        failed = TransferFailed(
            port_id=message.port_id,
            side=Side.OUTBOUND,
            code=refusals[0].code,
            detail="; ".join(str(refusal) for refusal in refusals),
            guest_running=self._context.runs(vm_uuid, tx.now),
        )
        await tx.send(BROKER, failed, cause=envelope)
        self._context.count(tx, refusals)
        log.warning("start refused", vm=str(vm_uuid), reason=codes_of(refusals))

    async def outbound_finished(self, tx: Transaction, envelope: Envelope[OutboundFinished], port: DonorPort) -> None:
        """The node has sent the VM, which runs elsewhere now."""
        if port.phase is Phase.MOVING:
            await records.save_port(tx, port.in_phase(Phase.LEFT, tx.now))
        await pass_to_broker(tx, envelope)

    async def abort(self, tx: Transaction, envelope: Envelope[AbortTransfer]) -> None:
        """The broker gives the transfer up."""
        port_id = envelope.data.port_id
        port = await records.load_port(tx, port_id)
        if port is not None and port.phase in _ON_NODE:
            await pass_to_node(tx, port.node, envelope)
            return
        # No node was ever asked to start, so there is nothing to stop and the guest was never touched.
        running = self._context.runs(port.vm_uuid, tx.now) if port is not None else True
        aborted = TransferAborted(port_id=port_id, side=Side.OUTBOUND, guest_running=running)
        await tx.send(BROKER, aborted, cause=envelope)

    async def failed(self, tx: Transaction, envelope: Envelope[PortFailed]) -> None:
        """The port has failed. If its VM has left already, an operator has to settle it."""
        message = envelope.data
        if message.vm_runs_at != tx.party.owner:
            log.error("port failed after its VM left", vm_runs_at=message.vm_runs_at, reason=message.code)
            return
        await self._end(tx, envelope, reason=message.code)

    async def cancelled(self, tx: Transaction, envelope: Envelope[PortCancelled]) -> None:
        """The tenant has cancelled the port."""
        await self._end(tx, envelope, reason="cancelled")

    async def _end(
        self, tx: Transaction, envelope: Envelope[PortFailed] | Envelope[PortCancelled], *, reason: str
    ) -> None:
        port = await records.load_port(tx, envelope.data.port_id)
        if port is None or port.phase not in _MAY_END:
            return
        await tx.disarm(timer_key(DESCRIBE, port.port_id))
        await records.save_port(tx, port.in_phase(Phase.ENDED, tx.now))
        log.info("port ended", vm=str(port.vm_uuid), reason=reason)


def _agreement_refusals(tx: Transaction, port: DonorPort, agreement: ServiceChangeAgreement) -> tuple[Refusal, ...]:
    if port.identity is None:
        return (not_approved(port.phase),)
    approved = Approved(port.port_id, port.tenant, port.vm_uuid, tx.party.owner, port.identity)
    return agreement_refusals(approved, agreement)
