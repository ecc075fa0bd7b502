"""Handles what comes after the VM has left: disconnect it, keep its disks in quarantine, erase them.

The quarantine ends at a stored timer, which is set when the node has disconnected the VM *and* the port has completed.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from services.donor_agent import records
from services.donor_agent.approval import not_approved
from services.donor_agent.context import DonorContext
from services.donor_agent.port_record import DonorPort, Phase
from shared.bus import Reject
from shared.logs import get_logger
from shared.messages import AnyEnvelope, Envelope
from shared.messages.nodes import EraseQuarantine
from shared.messages.porting import CompletionFailed, DisconnectVm, DisksErased, Side, VmDisconnected
from shared.messages.service_change import PortCompleted
from shared.parties import BROKER
from shared.provider_agent import pass_to_broker, pass_to_node, send_to_node, timer_key
from shared.store import Timer, Transaction

log = get_logger(__name__)

ERASE = "erase"
"""The timer at which the quarantine ends."""

_DISCONNECTED = frozenset({Phase.QUARANTINED, Phase.ERASED})
_MAY_DISCONNECT = frozenset({Phase.MOVING, Phase.LEFT, Phase.DISCONNECTING}) | _DISCONNECTED
"""MOVING too: the broker's ledger decides that a VM has left, even if the node's own report of it was lost."""


class DisconnectHandler:
    """From the broker's command to the end of the quarantine."""

    def __init__(self, context: DonorContext) -> None:
        self._context = context

    async def disconnect(self, tx: Transaction, envelope: Envelope[DisconnectVm]) -> None:
        """The broker asks for the VM to be taken off its node."""
        message = envelope.data
        port = await records.load_port(tx, message.port_id)
        if port is None or port.vm_uuid != message.vm_uuid or port.phase not in _MAY_DISCONNECT:
            refusal = not_approved(port.phase if port else None)
            failed = CompletionFailed(
                port_id=message.port_id, side=Side.OUTBOUND, code=refusal.code, detail=str(refusal)
            )
            await tx.send(BROKER, failed, cause=envelope)
            self._context.count(tx, (refusal,))
            log.warning("disconnect refused", vm=str(message.vm_uuid), reason=refusal.code)
            return
        if port.phase in _DISCONNECTED:
            await _report_disconnected(tx, envelope, port)
            return
        await records.save_port(tx, port.in_phase(Phase.DISCONNECTING, tx.now, keep_until=message.keep_until))
        await pass_to_node(tx, port.node, envelope)

    async def disconnected(self, tx: Transaction, envelope: Envelope[VmDisconnected], port: DonorPort) -> None:
        """The node has taken the VM off; the quarantine of its disks starts, once."""
        if port.phase not in _MAY_DISCONNECT:
            raise Reject("not_asked", f"nobody asked {envelope.source} to disconnect the VM of port {port.port_id}")
        if port.phase not in _DISCONNECTED:
            said, quarantine = envelope.data, self._context.settings.quarantine
            port = port.disconnected(said.quarantined_disks, tx.now, quarantine, left=said.left_disks)
            await records.save_port(tx, port)
            await _set_timer(tx, port)
            self._context.inventory = self._context.inventory.forget(port.node, port.vm_uuid)
        await _report_disconnected(tx, envelope, port)

    async def completed(self, tx: Transaction, envelope: Envelope[PortCompleted]) -> None:
        """The port is complete: from now on the disks in quarantine are nobody's only ones."""
        port = await records.load_port(tx, envelope.data.port_id)
        if port is None or port.completed_at is not None:
            return
        port = port.completed(tx.now, self._context.settings.quarantine)
        await records.save_port(tx, port)
        await _set_timer(tx, port)
        log.info("port completed", vm=str(port.vm_uuid))

    async def erase_due(self, tx: Transaction, timer: Timer, port_id: UUID) -> None:
        """The quarantine is over. The node is asked again until it says that the disks are erased."""
        port = await records.load_port(tx, port_id)
        if port is None or port.phase is not Phase.QUARANTINED:
            return
        if port.erase_at is None:
            # A timer that an earlier release set when the VM was disconnected.
            log.error("quarantine kept", vm=str(port.vm_uuid), reason="the port's completion was never heard")
            return
        again_at = tx.now + timedelta(seconds=self._context.settings.erase_again_s)
        await send_to_node(tx, port.node, EraseQuarantine(port_id=port_id), cause=None, deadline=again_at)
        await tx.arm(timer.key, again_at)

    async def erased(self, tx: Transaction, envelope: Envelope[DisksErased], port: DonorPort) -> None:
        """The node has erased the disks."""
        if port.phase is not Phase.QUARANTINED:
            return
        await tx.disarm(timer_key(ERASE, port.port_id))
        await records.save_port(tx, port.erased(tx.now))
        await pass_to_broker(tx, envelope)
        log.info("quarantine erased", vm=str(port.vm_uuid), bytes=envelope.data.erased_bytes)


async def _set_timer(tx: Transaction, port: DonorPort) -> None:
    if port.erase_at is not None:
        await tx.arm(timer_key(ERASE, port.port_id), port.erase_at)


async def _report_disconnected(tx: Transaction, cause: AnyEnvelope, port: DonorPort) -> None:
    disconnected = VmDisconnected(
        port_id=port.port_id,
        quarantined_disks=port.quarantined_disks,
        left_disks=port.left_disks,
        quarantine_until=port.quarantine_until,
    )
    await tx.send(BROKER, disconnected, cause=cause)
