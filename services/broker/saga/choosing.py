"""From the request to the fixed porting: approval by the donor, quotes, choice, reservation, agreement. Pure.

Nothing moves in these phases. A provider that says no makes a refusal; a provider that says nothing counts as
declining, and if the donor says nothing the port fails.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from services.broker.saga import quotes
from services.broker.saga.decision import Decision, Moment, Timing
from services.broker.saga.effects import Effect, Send
from services.broker.saga.ending import end_without_success, fail, plan, refuse, refused_by_broker, release
from services.broker.saga.events import Heard
from services.broker.saga.moving import open_window, opens_at
from services.broker.saga.state import Failure, SagaState
from shared.messages import Refusal
from shared.messages.approval import ApprovalRequested, DonorApproved, DonorRejected
from shared.messages.lanes import LaneEndpoint
from shared.messages.porting import (
    PortingFixed,
    QuoteDeclined,
    QuoteOffered,
    QuoteRequested,
    ReservationRefused,
    ReservationRequested,
    Reserved,
    ServiceChangeAgreement,
)
from shared.messages.service_change import BEST, PortAccepted, PortPhase, PortPlanned, PortRequested, Quote
from shared.parties import BROKER, Name, Party, recipient, tenant

FOUND_BY_BROKER = frozenset({"no_answer", "reservation_expired", *quotes.CODES})
"""Reasons against an offer that are the broker's own findings, not the provider's word."""


def begin(
    request: PortRequested,
    *,
    tenant_name: Name,
    vm_name: str,
    epoch: int,
    candidates: tuple[Name, ...],
    now: datetime,
    timing: Timing,
) -> Decision:
    """A verified request: record it, tell the tenant, ask the donor."""
    state = SagaState(
        request=request,
        tenant=tenant_name,
        vm_name=vm_name,
        requested_at=now,
        candidates=candidates,
        phase=PortPhase.APPROVAL,
        phase_since=now,
        deadline=now + timing.approval,
        owner=request.donor,
        epoch=epoch,
    )
    ask = ApprovalRequested(
        port_id=request.port_id,
        tenant=tenant_name,
        vm_uuid=request.vm_uuid,
        recipient=None if request.recipient == BEST else request.recipient,
    )
    return Decision(
        state,
        (
            Send(tenant(tenant_name), PortAccepted(port_id=request.port_id)),
            Send(state.donor_party, ask, perishable=True, deadline=state.deadline),
        ),
        f"{vm_name}: {request.donor} to {request.recipient}" + (", dry run" if request.dry_run else ""),
    )


def begin_refused(
    request: PortRequested, *, tenant_name: Name, vm_name: str, epoch: int, refusals: tuple[Refusal, ...], now: datetime
) -> Decision:
    """A request that the broker's own rules refuse: it is recorded, and has ended."""
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


def donor_approved(at: Moment, event: Heard) -> Decision:
    """The donor lets the VM go: ask everybody who might take it."""
    answer = event.message
    if not isinstance(answer, DonorApproved):
        raise TypeError(type(answer))
    state = at.state
    if answer.identity.vm.uuid != state.request.vm_uuid:
        return fail(at, "identity_mismatch", f"{event.sender} described another VM, {answer.identity.vm.uuid}")
    digest = hashlib.sha256(answer.identity.domain_xml.encode()).hexdigest()
    if digest != answer.identity.domain_xml_sha256:
        return fail(at, "identity_mismatch", f"{event.sender} sent a domain XML that does not fit its own digest")
    candidates = tuple(name for name in state.candidates if not answer.partners or name in answer.partners)
    if not candidates:
        return refused_by_broker(at, (_no_partner(state.candidates, answer.partners),))
    question = QuoteRequested(
        port_id=state.port_id,
        tenant=state.tenant,
        vm=answer.identity.vm,
        versions=answer.identity.versions,
        limits=state.request.limits,
        answer_by=at.now + at.timing.quoting,
    )
    return at.go(
        PortPhase.QUOTING,
        *(Send(recipient(name), question, perishable=True) for name in candidates),
        note=f"asked {', '.join(candidates)}",
        identity=answer.identity,
        asked=candidates,
    )


def _no_partner(candidates: tuple[Name, ...], partners: tuple[Name, ...]) -> Refusal:
    return Refusal(
        code="partner_not_allowed",
        rule=f"VMs leave this donor only to its partners: {', '.join(partners)}",
        evidence=f"the possible recipients are {', '.join(candidates)}",
    )


def donor_rejected(at: Moment, event: Heard) -> Decision:
    """The donor's rules forbid the port."""
    answer = event.message
    if not isinstance(answer, DonorRejected):
        raise TypeError(type(answer))
    return refuse(at, event.sender, answer.refusals, tell_donor=False)


def donor_silent(at: Moment) -> Decision:
    """The donor's agent did not answer in time."""
    seconds = at.timing.approval.total_seconds()
    return fail(at, "donor_silent", f"{at.state.donor_party} did not answer within {seconds:.0f} s")


# QUOTING


def quote_offered(at: Moment, event: Heard) -> Decision:
    """An offer; the last one expected closes the round."""
    answer = event.message
    if not isinstance(answer, QuoteOffered):
        raise TypeError(type(answer))
    if answer.quote.provider != event.sender.owner:
        return at.ignore(f"{event.sender} cannot offer in the name of {answer.quote.provider}")
    others = tuple(quote for quote in at.state.quotes if quote.provider != event.sender.owner)
    return _when_all_answered(at, at.state.but(quotes=(*others, answer.quote)), f"{event.sender.owner} offers")


def quote_declined(at: Moment, event: Heard) -> Decision:
    """A provider does not want the VM, and says why."""
    answer = event.message
    if not isinstance(answer, QuoteDeclined):
        raise TypeError(type(answer))
    declined = {**at.state.declined, event.sender.owner: answer.refusals}
    note = f"{event.sender.owner} declines: {'; '.join(map(str, answer.refusals))}"
    return _when_all_answered(at, at.state.but(declined=declined), note)


def quoting_deadline(at: Moment) -> Decision:
    """Who has not answered by now has declined."""
    answered = {quote.provider for quote in at.state.quotes} | set(at.state.declined)
    silent = {name: (_no_answer(name),) for name in at.state.candidates if name not in answered}
    return _choose(Moment(at.state.but(declined={**at.state.declined, **silent}), at.now, at.timing))


def _no_answer(name: Name) -> Refusal:
    return Refusal(code="no_answer", rule="a provider answers in time", evidence=f"{name} did not answer")


def _when_all_answered(at: Moment, state: SagaState, note: str) -> Decision:
    answered = {quote.provider for quote in state.quotes} | set(state.declined)
    if answered >= set(state.candidates):
        return _choose(Moment(state, at.now, at.timing))
    return Decision(state, (), note)


def _choose(at: Moment) -> Decision:
    """All answers are in: end a dry run, or ask the best offer to become a reservation."""
    state = at.state
    open_offers = [quote for quote in state.quotes if quote.provider not in state.declined]
    choice = quotes.choose(open_offers, state.request.limits, at.now)
    declined = {**state.declined, **choice.unacceptable}
    if state.request.dry_run:
        return plan(at, PortPlanned(port_id=state.port_id, quotes=choice.ranked, declined=declined))
    if not choice.ranked:
        return _nobody_left(Moment(state.but(declined=declined), at.now, at.timing))
    return _reserve(Moment(state.but(declined=declined), at.now, at.timing), choice.ranked[0])


def _nobody_left(at: Moment) -> Decision:
    """Refuse, with every provider's own reasons."""
    state = at.state
    if state.request.recipient != BEST:
        refusals = state.declined.get(state.request.recipient, ())
        found_here = all(refusal.code in FOUND_BY_BROKER for refusal in refusals)
        by: Party = BROKER if found_here else recipient(state.request.recipient)
        return refuse(at, by, refusals, tell_donor=True)
    reasons = tuple(
        Refusal(code=refusal.code, rule=refusal.rule, evidence=f"{name}: {refusal.evidence}")
        for name, refusals in sorted(state.declined.items())
        for refusal in refusals
    )
    summary = Refusal(
        code="no_offer",
        rule="at least one provider makes an offer within the tenant's limits",
        evidence=f"{len(state.declined)} of {len(state.candidates)} providers asked cannot or will not take the VM",
    )
    return refused_by_broker(at, (summary, *reasons))


# RESERVING


def _reserve(at: Moment, quote: Quote) -> Decision:
    state = at.state
    if state.identity is None:
        raise ValueError("nothing can be reserved for a VM that nobody described")
    ask = ReservationRequested(
        port_id=state.port_id,
        tenant=state.tenant,
        identity=state.identity,
        limits=state.request.limits,
        quote=quote,
    )
    decision = at.go(
        PortPhase.RESERVING,
        Send(recipient(quote.provider), ask, perishable=True),
        note=f"chose {quote.provider}: {quote.price_per_month} {quote.currency}, {quote.promised_total_s:.0f} s",
        chosen=quote,
    )
    # The next best offer is a new attempt with the whole time of the phase, though the phase is the same.
    return Decision(decision.state, decision.effects, decision.note, rearm=True)


def reserved(at: Moment, event: Heard) -> Decision:
    """Capacity is held: fix the porting."""
    answer = event.message
    if not isinstance(answer, Reserved):
        raise TypeError(type(answer))
    if event.sender != at.state.recipient_party:
        return reserved_too_late(at, event)
    if answer.reserved_until <= at.now:
        expired = Refusal(
            code="reservation_expired",
            rule="a reservation holds until the porting is fixed",
            evidence=f"it ended {answer.reserved_until.isoformat()}",
        )
        return _next_best(at, event.sender.owner, (expired,))
    return _fix(at, answer)


def reserved_too_late(at: Moment, event: Heard) -> Decision:
    """A reservation that nobody waits for any more must not hold capacity."""
    if event.sender == at.state.recipient_party and at.state.agreement is not None:
        return at.ignore("the reservation is known")
    effects, _ = release(at.state.but(asked=(event.sender.owner,), released=()), "the reservation came too late")
    return at.stay(*effects, note=f"late reservation of {event.sender.owner} released")


def reservation_refused(at: Moment, event: Heard) -> Decision:
    """The platform check found something: try the next best offer."""
    answer = event.message
    if not isinstance(answer, ReservationRefused):
        raise TypeError(type(answer))
    if event.sender != at.state.recipient_party:
        return at.ignore(f"{event.sender} is not being asked now")
    return _next_best(at, event.sender.owner, answer.refusals)


def reserving_deadline(at: Moment) -> Decision:
    """The chosen recipient stays silent: let it go, try the next best."""
    name = at.state.recipient or ""
    return _next_best(at, name, (_no_answer(name),))


def _next_best(at: Moment, name: Name, refusals: tuple[Refusal, ...]) -> Decision:
    declined = {**at.state.declined, name: refusals}
    decision = _choose(Moment(at.state.but(declined=declined, chosen=None), at.now, at.timing))
    letting_go: tuple[Effect, ...] = ()
    if name not in decision.state.released:
        letting_go, _ = release(at.state.but(asked=(name,), released=()), "another offer is tried")
    released = tuple(dict.fromkeys((*decision.state.released, name)))
    note = f"{name}: {'; '.join(map(str, refusals))}. {decision.note}"
    return Decision(decision.state.but(released=released), (*letting_go, *decision.effects), note, rearm=decision.rearm)


def _fix(at: Moment, answer: Reserved) -> Decision:
    """Write the agreement, give it to everybody, let the others go."""
    state = at.state
    fixed = _agreement(at, answer)
    letting_go, released = release(state, "another offer was chosen", keep=fixed.recipient)
    message = PortingFixed(port_id=state.port_id, agreement=fixed)
    parties = (state.tenant_party, state.donor_party, recipient(fixed.recipient))
    effects: tuple[Effect, ...] = (*(Send(party, message) for party in parties), *letting_go)
    at = Moment(state.but(agreement=fixed, released=released), at.now, at.timing)
    opening = opens_at(fixed, at.timing)
    if opening <= at.now:
        opened = open_window(at)
        return Decision(opened.state, (*effects, *opened.effects), f"fixed; {opened.note}")
    return at.go(PortPhase.SCHEDULED, *effects, note=f"fixed for {fixed.window_start.isoformat()}", wake_at=opening)


def _agreement(at: Moment, answer: Reserved) -> ServiceChangeAgreement:
    state, limits = at.state, at.state.request.limits
    if state.identity is None or state.chosen is None:
        raise ValueError("nothing was chosen")
    start = max(limits.window_start or at.now, at.now)
    return ServiceChangeAgreement(
        port_id=state.port_id,
        tenant=state.tenant,
        vm_uuid=state.request.vm_uuid,
        vm_name=state.identity.vm.name,
        donor=state.request.donor,
        donor_node=state.identity.node,
        recipient=state.chosen.provider,
        recipient_node=answer.node,
        epoch=state.epoch + 1,
        window_start=start,
        deadline=limits.deadline or start + at.timing.transfer,
        promised_total_s=state.chosen.promised_total_s,
        promised_downtime_ms=state.chosen.promised_downtime_ms,
        price_per_month=state.chosen.price_per_month,
        currency=state.chosen.currency,
        limits=limits,
        donor_lane=state.identity.lane,
        recipient_lane=answer.lane,
        routes=_routes(state.identity.lane, answer.lane),
        domain_xml=answer.domain_xml,
        domain_xml_sha256=hashlib.sha256(answer.domain_xml.encode()).hexdigest(),
        disks=answer.disks,
        fixed_at=at.now,
    )


def _routes(*ends: LaneEndpoint) -> tuple[str, ...]:
    """In the order in which they are tried: direct where either node can be reached so, the relay always."""
    return ("direct", "relay") if any(end.direct for end in ends) else ("relay",)


def cancel_before_moving(at: Moment, reason: str) -> Decision:
    """The tenant takes the request back while nothing moves: the port ends at once."""
    failure = Failure(outcome=PortPhase.CANCELLED, phase=at.state.phase, code="cancelled", detail=reason)
    return end_without_success(at, failure)
