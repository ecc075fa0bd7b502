"""Handles the VM's arrival: the node opens, the VM runs here, it is provisioned. Each is checked against the
reservation."""

from __future__ import annotations

from datetime import datetime

from services.recipient_agent import records
from services.recipient_agent.context import RecipientContext
from services.recipient_agent.provision import identity_differences, provision_refusals
from services.recipient_agent.reservation import ON_NODE, Phase, Reservation, agreement_refusals
from services.recipient_agent.reservation_handler import RESERVATION, hold
from shared.logs import get_logger
from shared.messages import Envelope, Refusal
from shared.messages.porting import (
    AbortTransfer,
    CompletionFailed,
    InboundFinished,
    OpenInbound,
    ProvisionVm,
    Side,
    TransferAborted,
    TransferFailed,
    VmProvisioned,
)
from shared.parties import BROKER
from shared.provider_agent import codes_of, pass_to_broker, pass_to_node, send_to_node, timer_key
from shared.store import Transaction

log = get_logger(__name__)

_MAY_OPEN = frozenset({Phase.HELD, Phase.FIXED, Phase.OPEN})

OUTAGE_S = 240.0
"""An agreed port does not end because its node was not heard for minutes: the command waits for it in its inbox."""


class ArrivalHandler:
    """From the command to open until the VM is here for good."""

    def __init__(self, context: RecipientContext) -> None:
        self._context = context

    async def open(self, tx: Transaction, envelope: Envelope[OpenInbound]) -> None:
        """The broker asks for lanes, disks and sockets at the reserved node."""
        message = envelope.data
        reservation = await records.load(tx, message.port_id)
        refusals = self._open_refusals(reservation, message, tx)
        if reservation is None or refusals:
            failed = TransferFailed(
                port_id=message.port_id,
                side=Side.INBOUND,
                code=refusals[0].code,
                detail="; ".join(str(refusal) for refusal in refusals),
                guest_running=False,
            )
            await tx.send(BROKER, failed, cause=envelope)
            self._context.count(tx, refusals)
            log.warning("opening refused", vm=str(message.agreement.vm_uuid), reason=codes_of(refusals))
            return
        after_s = self._context.settings.after_deadline_s
        reservation = reservation.fixed(message.agreement, tx.now, after_deadline_s=after_s)
        await hold(tx, reservation.opened(tx.now))
        await pass_to_node(tx, reservation.node, envelope)

    def _open_refusals(
        self, reservation: Reservation | None, message: OpenInbound, tx: Transaction
    ) -> tuple[Refusal, ...]:
        if reservation is None or reservation.phase not in _MAY_OPEN:
            return (_not_reserved(reservation),)
        refusals = agreement_refusals(reservation, message.agreement, provider=tx.party.owner)
        return (*refusals, *self._node_refusals(reservation.node, tx.now))

    def _node_refusals(self, node: str, now: datetime) -> tuple[Refusal, ...]:
        within_s = max(OUTAGE_S, self._context.settings.node_silent_after_s)
        if self._context.is_heard(node, now, within_s=within_s):
            return ()
        silent = Refusal(
            code="node_unreachable",
            rule=f"The node must have been heard within {within_s:g} s.",
            evidence=f"node {node} is silent",
        )
        return (silent,)

    async def abort(self, tx: Transaction, envelope: Envelope[AbortTransfer]) -> None:
        """The broker gives the transfer up."""
        port_id = envelope.data.port_id
        reservation = await records.load(tx, port_id)
        if reservation is not None and reservation.phase in ON_NODE:
            await pass_to_node(tx, reservation.node, envelope)
            return
        # No node was ever asked to open, so there is nothing of the VM here.
        aborted = TransferAborted(port_id=port_id, side=Side.INBOUND, guest_running=False)
        await tx.send(BROKER, aborted, cause=envelope)

    async def inbound_finished(
        self, tx: Transaction, envelope: Envelope[InboundFinished], reservation: Reservation
    ) -> None:
        """The VM runs at the node."""
        await records.save(tx, reservation.arrived(tx.now))
        await pass_to_broker(tx, envelope)

    async def provision(self, tx: Transaction, envelope: Envelope[ProvisionVm]) -> None:
        """The broker asks to make the VM one of this provider's."""
        message = envelope.data
        reservation = await records.load(tx, message.port_id)
        if reservation is None or reservation.phase not in ON_NODE:
            refusals: tuple[Refusal, ...] = (_not_reserved(reservation),)
        else:
            refusals = provision_refusals(reservation, message)
        if reservation is None or refusals:
            failed = CompletionFailed(
                port_id=message.port_id,
                side=Side.INBOUND,
                code=refusals[0].code,
                detail="; ".join(str(refusal) for refusal in refusals),
            )
            await tx.send(BROKER, failed, cause=envelope)
            self._context.count(tx, refusals)
            log.warning("provisioning refused", vm=str(message.vm_uuid), reason=codes_of(refusals))
            return
        command = message.model_copy(update={"lasting_xml": reservation.lasting_xml})
        await send_to_node(tx, reservation.node, command, cause=envelope, deadline=envelope.deadline)

    async def provisioned(self, tx: Transaction, envelope: Envelope[VmProvisioned], reservation: Reservation) -> None:
        """The node has defined the VM; its identity is compared with what was reserved."""
        seen = self._context.nodes.serves(reservation.vm.uuid)
        differences = identity_differences(reservation, seen, envelope.data.identity_differences)
        await records.save(tx, reservation.provisioned(tx.now))
        await tx.disarm(timer_key(RESERVATION, reservation.port_id))
        answer = envelope.data.model_copy(update={"identity_differences": differences})
        await tx.send(BROKER, answer, cause=envelope)
        vm = str(reservation.vm.uuid)
        if differences:
            log.error("identity differs after the port", vm=vm, differences=differences)
        log.info("provisioned", vm=vm, node=reservation.node)


def _not_reserved(reservation: Reservation | None) -> Refusal:
    state = "it was never reserved" if reservation is None else f"it is {reservation.phase.value}"
    if reservation is not None and reservation.reason:
        state += f" ({reservation.reason})"
    return Refusal(code="not_reserved", rule="A recipient takes only what it reserved.", evidence=state)
