"""Handles requests for approval: the provider's records first, then what the VM's node reads of the live VM.

The node is asked only when the records allow the port. The answer to the broker follows when the node has answered, or
when its time is over.
"""

from __future__ import annotations

from hashlib import sha256
from uuid import UUID

from services.donor_agent import records
from services.donor_agent.approval import live_refusals, not_described, not_read, records_refusals, stated_facts
from services.donor_agent.context import DonorContext
from services.donor_agent.port_record import DonorPort, Phase
from shared.bus import Reject
from shared.logs import get_logger
from shared.messages import AnyEnvelope, Envelope, Refusal, open_envelope
from shared.messages.approval import ApprovalRequested, DonorApproved, DonorRejected
from shared.messages.nodes import DescribeFailed, VmDescribed
from shared.messages.rule_facts import DonorFacts
from shared.messages.rules import DemandRefused
from shared.parties import BROKER
from shared.provider_agent import codes_of, timer_key
from shared.store import Timer, Transaction

log = get_logger(__name__)

DESCRIBE = "describe"
"""The timer within which a node must describe a VM."""

_MAY_ASK_AGAIN = frozenset({Phase.DESCRIBING, Phase.APPROVED, Phase.REJECTED})


class ApprovalHandler:
    """From the broker's request to the donor's answer."""

    def __init__(self, context: DonorContext) -> None:
        self._context = context

    async def requested(self, tx: Transaction, envelope: Envelope[ApprovalRequested]) -> None:
        """The broker asks whether a tenant may take a VM away."""
        message = envelope.data
        known = await records.load_port(tx, message.port_id)
        if known is not None and known.phase not in _MAY_ASK_AGAIN:
            raise Reject("port_under_way", f"port {message.port_id} is {known.phase.value}: it was approved before")
        void = tuple(sorted({*message.void, *(known.void if known is not None else ())}))
        request = await self._context.request(
            tx,
            message.port_id,
            tenant=message.tenant,
            vm_uuid=message.vm_uuid,
            recipient=message.recipient,
            asked_start=message.starts_at or tx.now,
            told=message.told,
            void=void,
        )
        port = DonorPort(
            port_id=message.port_id,
            tenant=message.tenant,
            vm_uuid=message.vm_uuid,
            node=request.located.node if request.located else "",
            phase=Phase.DESCRIBING,
            eject=message.eject,
            told=message.told,
            void=void,
            updated_at=tx.now,
        )
        refusals = records_refusals(self._context.read_policy(), request)
        if refusals:
            await self._refuse(tx, port, refusals, cause=envelope, facts=stated_facts(self._context.policy, request))
            return
        await records.save_port(tx, port)
        await self._context.ask_to_describe(tx, port, DESCRIBE, cause=envelope)

    async def described(self, tx: Transaction, envelope: Envelope[VmDescribed], port: DonorPort) -> None:
        """The node has read the live VM."""
        if port.phase is not Phase.DESCRIBING:
            log.info("late description ignored", vm=str(port.vm_uuid), phase=port.phase.value)
            return
        identity = envelope.data.identity
        digest = sha256(identity.domain_xml.encode()).hexdigest()
        if identity.node != port.node or digest != identity.domain_xml_sha256:
            raise Reject("invalid_identity", f"the bundle's node or SHA-256 is not that of {envelope.source}'s XML")
        refusals = live_refusals(identity.vm, vm_uuid=port.vm_uuid, eject=port.eject)
        if refusals:
            await self._refuse(tx, port, refusals, cause=envelope)
            return
        identity = self._context.with_terms(identity)
        await tx.disarm(timer_key(DESCRIBE, port.port_id))
        await records.save_port(tx, port.in_phase(Phase.APPROVED, tx.now, identity=identity))
        policy = self._context.policy
        request = await self._context.request(
            tx, port.port_id, tenant=port.tenant, vm_uuid=port.vm_uuid, recipient=None, told=port.told, void=port.void
        )
        approved = DonorApproved(
            port_id=port.port_id,
            identity=identity,
            partners=policy.partners,
            terms=self._context.leaving_terms(port, identity.vm.name),
            facts=stated_facts(policy, request),
        )
        await tx.send(BROKER, approved, cause=envelope)
        # The request may be a dry run, which the broker does not tell: so this is an approval, and no port yet.
        log.info("approval given", vm=str(port.vm_uuid), node=port.node, tenant=port.tenant)

    async def describe_failed(self, tx: Transaction, envelope: Envelope[DescribeFailed], port: DonorPort) -> None:
        """The node cannot read the VM."""
        if port.phase is not Phase.DESCRIBING:
            return
        unreadable = not_read(envelope.data.code, envelope.data.detail)
        await self._refuse(tx, port, (unreadable,), cause=envelope)

    async def describe_overdue(self, tx: Transaction, timer: Timer, port_id: UUID) -> None:
        """The node did not answer in time."""
        port = await records.load_port(tx, port_id)
        if port is None or port.phase is not Phase.DESCRIBING:
            return
        silent = not_described(port.node, self._context.settings.describe_within_s)
        cause = open_envelope(str(timer.payload["cause"]).encode())
        await self._refuse(tx, port, (silent,), cause=cause)

    async def demand_refused(self, tx: Transaction, envelope: Envelope[DemandRefused]) -> None:
        """The broker tells which demand or refusal is against a rule. It is not made again for this port."""
        message = envelope.data
        for refusal in message.refusals:
            log.warning("demand is against a rule", port_id=str(message.port_id), reason=str(refusal))
        codes = [refusal.code for refusal in message.refusals]
        tx.after_commit(lambda: self._context.count_demands(codes))
        port = await records.load_port(tx, message.port_id)
        if port is not None:
            void = tuple(sorted({*port.void, *message.void}))
            await records.save_port(tx, port.in_phase(port.phase, tx.now, void=void))

    async def _refuse(
        self,
        tx: Transaction,
        port: DonorPort,
        refusals: tuple[Refusal, ...],
        *,
        cause: AnyEnvelope,
        facts: DonorFacts | None = None,
    ) -> None:
        await tx.disarm(timer_key(DESCRIBE, port.port_id))
        await records.save_port(tx, port.in_phase(Phase.REJECTED, tx.now))
        await tx.send(BROKER, DonorRejected(port_id=port.port_id, refusals=refusals, facts=facts), cause=cause)
        self._context.count(tx, refusals)
        log.info("approval refused", vm=str(port.vm_uuid), tenant=port.tenant, reason=codes_of(refusals))
