"""Handles a tenant's question about its VM, which the broker passes on: the records first, then what the node reads.

Nothing is approved by it. The node is asked as for an approval, with the inquiry's id in the place of a port's; the
records may forbid a port and the tenant still sees its VM. Of a VM that moves, what was approved is told.
"""

from __future__ import annotations

from uuid import UUID

from services.donor_agent import records
from services.donor_agent.approval import (
    Request,
    live_refusals,
    not_described,
    not_read,
    records_refusals,
    stated_facts,
)
from services.donor_agent.context import DonorContext
from services.donor_agent.inspection import bounded, details_of, may_be_asked
from services.donor_agent.port_record import DonorPort, Phase
from shared.bus import Reject
from shared.logs import get_logger
from shared.messages import AnyEnvelope, Envelope, Refusal, open_envelope
from shared.messages.approval import InspectVm, VmInspected
from shared.messages.nodes import DescribeFailed, VmDescribed
from shared.messages.rule_facts import DonorFacts
from shared.messages.vm import VmDescription
from shared.parties import BROKER
from shared.provider_agent import codes_of, timer_key
from shared.store import Timer, Transaction

log = get_logger(__name__)

INSPECT = "inspect"
"""The timer within which a node must describe a VM that a tenant asks about."""


class InspectionHandler:
    """From the broker's question to the donor's answer."""

    def __init__(self, context: DonorContext) -> None:
        self._context = context

    async def requested(self, tx: Transaction, envelope: Envelope[InspectVm]) -> None:
        """A tenant asks, by the broker, what its VM is."""
        message = envelope.data
        if await records.load_port(tx, message.inquiry_id) is not None:
            raise Reject("inquiry_id_taken", f"{message.inquiry_id} is known here")
        request = await self._context.request(
            tx, message.inquiry_id, tenant=message.tenant, vm_uuid=message.vm_uuid, recipient=None
        )
        port = DonorPort(
            port_id=message.inquiry_id,
            tenant=message.tenant,
            vm_uuid=message.vm_uuid,
            node=request.located.node if request.located else "",
            phase=Phase.INSPECTING,
            updated_at=tx.now,
        )
        refusals = records_refusals(self._context.read_policy(), request)
        if not may_be_asked(refusals):
            vm = await _approved_vm(tx, request, refusals)
            await self._answer(tx, port, vm, refusals, cause=envelope, facts=self._stated(request))
            return
        await records.save_port(tx, port)
        await self._context.ask_to_describe(tx, port, INSPECT, cause=envelope)

    async def described(self, tx: Transaction, envelope: Envelope[VmDescribed], port: DonorPort) -> None:
        """The node has read the live VM. Raises `Reject` where it is another node's or another VM."""
        if port.phase is not Phase.INSPECTING:
            return
        identity = envelope.data.identity
        if identity.node != port.node or identity.vm.uuid != port.vm_uuid:
            raise Reject("invalid_identity", f"{envelope.source} was asked for VM {port.vm_uuid} of its own")
        found = live_refusals(identity.vm, vm_uuid=port.vm_uuid)
        await self._answer_with(tx, port, identity.vm, found, cause=envelope)

    async def describe_failed(self, tx: Transaction, envelope: Envelope[DescribeFailed], port: DonorPort) -> None:
        """The node cannot read the VM."""
        if port.phase is not Phase.INSPECTING:
            return
        unreadable = not_read(envelope.data.code, envelope.data.detail)
        await self._answer_with(tx, port, None, (unreadable,), cause=envelope)

    async def overdue(self, tx: Transaction, timer: Timer, inquiry_id: UUID) -> None:
        """The node did not answer in time."""
        port = await records.load_port(tx, inquiry_id)
        if port is None or port.phase is not Phase.INSPECTING:
            return
        silent = not_described(port.node, self._context.settings.describe_within_s)
        cause = open_envelope(str(timer.payload["cause"]).encode())
        await self._answer_with(tx, port, None, (silent,), cause=cause)

    async def _answer_with(
        self,
        tx: Transaction,
        port: DonorPort,
        vm: VmDescription | None,
        found: tuple[Refusal, ...],
        *,
        cause: AnyEnvelope,
    ) -> None:
        """Answer with what was found, and with what the records say now: a VM may have changed its owner meanwhile."""
        request = await self._context.request(
            tx, port.port_id, tenant=port.tenant, vm_uuid=port.vm_uuid, recipient=None
        )
        refusals = records_refusals(self._context.read_policy(), request)
        if not may_be_asked(refusals):
            vm, found = await _approved_vm(tx, request, refusals), ()
        await self._answer(tx, port, vm, (*refusals, *found), cause=cause, facts=self._stated(request))

    def _stated(self, request: Request) -> DonorFacts | None:
        return stated_facts(self._context.policy, request)

    async def _answer(
        self,
        tx: Transaction,
        port: DonorPort,
        vm: VmDescription | None,
        refusals: tuple[Refusal, ...],
        *,
        cause: AnyEnvelope,
        facts: DonorFacts | None,
    ) -> None:
        await tx.disarm(timer_key(INSPECT, port.port_id))
        await records.save_port(tx, port.in_phase(Phase.INSPECTED, tx.now))
        answer = VmInspected(
            inquiry_id=port.port_id,
            tenant=port.tenant,
            vm=None if vm is None else details_of(vm),
            refusals=bounded(refusals),
            facts=facts,
        )
        await tx.send(BROKER, answer, cause=cause)
        log.info("VM shown", vm=str(port.vm_uuid), tenant=port.tenant, reason=codes_of(answer.refusals))


async def _approved_vm(tx: Transaction, request: Request, refusals: tuple[Refusal, ...]) -> VmDescription | None:
    """The VM as it was approved, while the tenant's port of it is under way; else None."""
    if request.vm_under_way is None or all(refusal.code != "port_under_way" for refusal in refusals):
        return None
    port = await records.load_port(tx, request.vm_under_way)
    return port.identity.vm if port is not None and port.identity is not None else None
