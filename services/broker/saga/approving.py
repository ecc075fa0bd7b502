"""The request and the donor's approval, judged by the rules that bind the port. Pure.

Nothing moves. If the donor says no, the port is refused; if the donor says nothing, it fails. A refusal that a rule
voids does not stop the port: the donor is told the clause, and asked again without it.
"""

from __future__ import annotations

from datetime import datetime

from services.broker.costs.basis import NO_BASIS, Basis
from services.broker.saga import obligations
from services.broker.saga.choosing import digest_of
from services.broker.saga.decision import Decision, Moment, Timing
from services.broker.saga.effects import Alarm, Send
from services.broker.saga.ending import (
    fail,
    refuse,
    refused_by_broker,
)
from services.broker.saga.events import Heard
from services.broker.saga.port_rules import NO_RULES, PortRules
from services.broker.saga.state import NO_ANCHOR, Anchor, SagaState
from shared.ejecting import not_ejectable
from shared.messages import Refusal
from shared.messages.approval import ApprovalRequested, DonorApproved, DonorRejected
from shared.messages.porting import (
    QuoteRequested,
)
from shared.messages.rule_facts import Ground
from shared.messages.service_change import BEST, PortAccepted, PortPhase, PortRequested
from shared.parties import BROKER, Name, recipient, tenant

# The request


def begin(
    request: PortRequested,
    *,
    tenant_name: Name,
    vm_name: str,
    epoch: int,
    candidates: tuple[Name, ...],
    now: datetime,
    timing: Timing,
    anchor: Anchor = NO_ANCHOR,
    rules: PortRules = NO_RULES,
    basis: Basis = NO_BASIS,
) -> Decision:
    """Begin with a verified request: record it, tell the tenant, ask the donor."""
    state = SagaState(
        request=request,
        tenant=tenant_name,
        vm_name=vm_name,
        requested_at=now,
        candidates=candidates,
        anchor=anchor,
        phase=PortPhase.APPROVAL,
        phase_since=now,
        deadline=now + timing.approval,
        owner=request.donor,
        epoch=epoch,
        rules=rules,
        basis=basis,
    )
    at, _, broken = obligations.judge(Moment(state, now, timing))
    return Decision(
        at.state,
        (
            Send(tenant(tenant_name), PortAccepted(port_id=request.port_id)),
            Send(state.donor_party, _approval_question(state), perishable=True, deadline=state.deadline),
            *broken,
        ),
        note=f"{vm_name}: {request.donor} to {request.recipient}" + (", dry run" if request.dry_run else ""),
    )


def _approval_question(state: SagaState) -> ApprovalRequested:
    request = state.request
    return ApprovalRequested(
        port_id=request.port_id,
        tenant=state.tenant,
        vm_uuid=request.vm_uuid,
        recipient=None if request.recipient == BEST else request.recipient,
        eject=request.limits.eject,
        starts_at=request.limits.window_start,
        told=request.told,
        void=state.rules.void[: obligations.MAX_CODES],
    )


def begin_refused(
    request: PortRequested, *, tenant_name: Name, vm_name: str, epoch: int, refusals: tuple[Refusal, ...], now: datetime
) -> Decision:
    """Record a request that the broker's own rules refuse; the port has ended."""
    state = SagaState(
        request=request,
        tenant=tenant_name,
        vm_name=vm_name,
        requested_at=now,
        candidates=(),
        phase=PortPhase.APPROVAL,
        phase_since=now,
        owner=request.donor,
        epoch=max(epoch, 1),
    )
    return refuse(Moment(state, now, Timing()), BROKER, refusals, tell_donor=False)


# APPROVAL


def donor_approved(at: Moment, heard: Heard[DonorApproved]) -> Decision:
    """The donor lets the VM go: ask every candidate for a quote."""
    answer, state = heard.message, at.state
    if answer.identity.vm.uuid != state.request.vm_uuid:
        return fail(at, "identity_mismatch", f"{heard.sender} described another VM, {answer.identity.vm.uuid}")
    if digest_of(answer.identity.domain_xml) != answer.identity.domain_xml_sha256:
        return fail(at, "identity_mismatch", f"{heard.sender} sent a domain XML that does not match its digest")
    excluded = any(answer.partners and name not in answer.partners for name in state.candidates)
    known: dict[str, object] = {"approved_at": at.now, "donor_facts": answer.facts}
    if excluded and state.rules.facts is not None:
        known["refused_on"] = (*state.rules.facts.refused_on, Ground.PARTNER)
    at, verdict, told = obligations.judge(at, **known)
    partners = () if Ground.PARTNER in verdict.void_codes else answer.partners
    candidates = tuple(name for name in state.candidates if not partners or name in partners)
    if not candidates:
        return obligations.before(refused_by_broker(at, (_no_partner(state.candidates, partners),)), told)
    if verdict.refusals:
        return obligations.before(refused_by_broker(at, verdict.refusals), told)
    if sentences := not_ejectable(answer.identity.vm, state.request.limits.eject):
        return obligations.before(refused_by_broker(at, tuple(_no_medium(sentence) for sentence in sentences)), told)
    question = QuoteRequested(
        port_id=state.port_id,
        tenant=state.tenant,
        vm=answer.identity.vm,
        versions=answer.identity.versions,
        limits=state.request.limits,
        anchor=state.anchor.prefixes,
        answer_by=at.now + at.timing.quoting,
    )
    return at.go(
        PortPhase.QUOTING,
        *told,
        *(Send(recipient(name), question, perishable=True) for name in candidates),
        note=f"asked {', '.join(candidates)}",
        identity=answer.identity,
        leaving=answer.terms,
        candidates=candidates,
        asked=candidates,
    )


def _no_medium(sentence: str) -> Refusal:
    return Refusal(
        code="nothing_to_eject", rule="--eject names drives of the VM that have a read-only medium", evidence=sentence
    )


def _no_partner(candidates: tuple[Name, ...], partners: tuple[Name, ...]) -> Refusal:
    return Refusal(
        code="partner_not_allowed",
        rule=f"the donor ports VMs only to its partners: {', '.join(partners)}",
        evidence=f"the possible recipients are {', '.join(candidates)}",
    )


def donor_rejected(at: Moment, heard: Heard[DonorRejected]) -> Decision:
    """The donor's rules forbid the port. What of its refusal is against a rule that binds the donor is void: if all of
    it is, the donor is asked once more, without it.
    """
    refusals = heard.message.refusals
    asked_before = bool(at.state.rules.void)
    known: dict[str, object] = {
        "refused_on": tuple(dict.fromkeys(each.code for each in refusals)),
        "refused_at": at.now,
        "refused_without_reason": not any(each.evidence for each in refusals),
    }
    if heard.message.facts is not None:
        known["donor_facts"] = heard.message.facts
    at, verdict, told = obligations.judge(at, **known)
    with_force, void = obligations.split(refusals, verdict)
    if not with_force and verdict.void:
        if not asked_before:
            note = f"void: {'; '.join(map(str, void)) or 'a refusal without a reason'}; asked again"
            return at.stay(
                *told, Send(at.state.donor_party, _approval_question(at.state), perishable=True), note=note, rearm=True
            )
        alarm = Alarm("unlawful_refusal", f"{heard.sender} insists on: {'; '.join(map(str, void))}")
        return obligations.before(refuse(at, heard.sender, refusals, tell_donor=False), (*told, alarm))
    return obligations.before(refuse(at, heard.sender, with_force, tell_donor=False), told)


def refused_late(at: Moment, heard: Heard[DonorRejected]) -> Decision:
    """A refusal outside its time: after the approval, or after the port's end because the donor had not answered."""
    facts = at.state.rules.facts
    if facts is None or facts.refused_late_at is not None or facts.refused_at is not None:
        return at.ignore(f"not expected in phase {at.state.phase}")
    codes = tuple(dict.fromkeys(each.code for each in heard.message.refusals))
    late = {"refused_late_at": at.now} if facts.approved_at else {"refused_at": at.now, "refused_on": codes}
    after, _, told = obligations.judge(at, **late)
    if not told:
        return at.ignore(f"not expected in phase {at.state.phase}")
    return after.stay(*told, note=f"void: {'; '.join(map(str, heard.message.refusals))}")


def donor_silent(at: Moment) -> Decision:
    """The donor's agent did not answer in time."""
    seconds = at.timing.approval.total_seconds()
    return fail(at, "donor_silent", f"{at.state.donor_party} did not answer within {seconds:.0f} s")
