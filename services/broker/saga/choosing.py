"""From the request to the agreement: approval by the donor, quotes, choice, reservation. Pure.

Nothing moves in these phases. If the donor says no, the port is refused; if the donor says nothing, it fails. A
recipient that says nothing counts as declining.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from services.broker.costs.basis import NO_BASIS, Basis
from services.broker.saga import quotes
from services.broker.saga.decision import Decision, Moment, Timing
from services.broker.saga.effects import Effect, Send
from services.broker.saga.ending import (
    end_without_success,
    fail,
    plan,
    refuse,
    refused_by_broker,
    release,
    release_all,
)
from services.broker.saga.events import Heard
from services.broker.saga.moving import open_window, opens_at
from services.broker.saga.networking import PLAN_DIFFERS, plan_refusals
from services.broker.saga.state import NO_ANCHOR, Anchor, Failure, SagaState
from shared.ejecting import not_ejectable
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
from shared.messages.service_change import BEST, PortAccepted, PortPhase, PortPlanned, PortRequested
from shared.parties import BROKER, Name, Party, recipient, tenant

# The request

FOUND_BY_BROKER = frozenset({"no_answer", "reservation_expired", PLAN_DIFFERS, *quotes.CODES})
"""Codes of the reasons against an offer that the broker found itself; all others were given by the provider."""


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
        basis=basis,
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
        eject=request.limits.eject,
    )
    return Decision(
        state,
        (
            Send(tenant(tenant_name), PortAccepted(port_id=request.port_id)),
            Send(state.donor_party, ask, perishable=True, deadline=state.deadline),
        ),
        note=f"{vm_name}: {request.donor} to {request.recipient}" + (", dry run" if request.dry_run else ""),
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
    if _sha256(answer.identity.domain_xml) != answer.identity.domain_xml_sha256:
        return fail(at, "identity_mismatch", f"{heard.sender} sent a domain XML that does not match its digest")
    candidates = tuple(name for name in state.candidates if not answer.partners or name in answer.partners)
    if not candidates:
        return refused_by_broker(at, (_no_partner(state.candidates, answer.partners),))
    if sentences := not_ejectable(answer.identity.vm, state.request.limits.eject):
        return refused_by_broker(at, tuple(_no_medium(sentence) for sentence in sentences))
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
        *(Send(recipient(name), question, perishable=True) for name in candidates),
        note=f"asked {', '.join(candidates)}",
        identity=answer.identity,
        leaving=answer.terms,
        candidates=candidates,
        asked=candidates,
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
    """The donor's rules forbid the port."""
    return refuse(at, heard.sender, heard.message.refusals, tell_donor=False)


def donor_silent(at: Moment) -> Decision:
    """The donor's agent did not answer in time."""
    seconds = at.timing.approval.total_seconds()
    return fail(at, "donor_silent", f"{at.state.donor_party} did not answer within {seconds:.0f} s")


# QUOTING


def quote_offered(at: Moment, heard: Heard[QuoteOffered]) -> Decision:
    """A provider makes an offer; a second one replaces the first."""
    offer, provider = heard.message.quote, heard.sender.owner
    if offer.provider != provider:
        return at.ignore(f"{heard.sender} cannot make an offer in the name of {offer.provider}")
    others = tuple(quote for quote in at.state.quotes if quote.provider != provider)
    return _choose_when_all_answered(at.with_(quotes=(*others, offer)), f"{provider} makes an offer")


def quote_declined(at: Moment, heard: Heard[QuoteDeclined]) -> Decision:
    """A provider does not want the VM, and says why."""
    refusals, provider = heard.message.refusals, heard.sender.owner
    note = f"{provider} declines: {'; '.join(map(str, refusals))}"
    return _choose_when_all_answered(_declined(at, {provider: refusals}), note)


def quoting_deadline(at: Moment) -> Decision:
    """A provider that has not answered by now has declined."""
    silent = set(at.state.candidates) - _answered(at.state)
    return _choose(_declined(at, {name: (_no_answer(name),) for name in at.state.candidates if name in silent}))


def _no_answer(name: Name) -> Refusal:
    return Refusal(code="no_answer", rule="a provider must answer in time", evidence=f"{name} did not answer")


def _declined(at: Moment, reasons: Mapping[Name, tuple[Refusal, ...]]) -> Moment:
    return at.with_(declined={**at.state.declined, **reasons})


def _answered(state: SagaState) -> set[Name]:
    return {quote.provider for quote in state.quotes} | set(state.declined)


def _choose_when_all_answered(at: Moment, note: str) -> Decision:
    if _answered(at.state) >= set(at.state.candidates):
        return _choose(at)
    return at.stay(note=note)


def _choose(at: Moment) -> Decision:
    """All answers are in: end a dry run, or ask for a reservation of the best offer."""
    state = at.state
    open_offers = [quote for quote in state.quotes if quote.provider not in state.declined]
    choice = quotes.choose(open_offers, quotes.costing(at))
    if state.request.dry_run:
        declined = {**state.declined, **choice.unacceptable}
        return plan(at, PortPlanned(port_id=state.port_id, quotes=choice.ranked, declined=declined, lost=choice.lost))
    at = _declined(at, choice.unacceptable)
    if len(choice.currencies) > 1:
        return refused_by_broker(at, (quotes.name_a_currency(choice),))
    return _reserve(at, choice) if choice.ranked else _no_offer_left(at)


def _no_offer_left(at: Moment) -> Decision:
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
        rule="at least one provider must make an offer within the tenant's limits",
        evidence=f"{len(state.declined)} of {len(state.candidates)} providers made no acceptable offer",
    )
    return refused_by_broker(at, (summary, *reasons))


# RESERVING


def _reserve(at: Moment, choice: quotes.Choice) -> Decision:
    """Ask for a reservation of the best offer.

    The next best offer is tried in the same phase; it gets the phase's whole time again.
    """
    state, quote = at.state, choice.ranked[0]
    ask = ReservationRequested(
        port_id=state.port_id,
        tenant=state.tenant,
        identity=at.identity,
        limits=state.request.limits,
        quote=quote.as_offered(),
        anchor=state.anchor.prefixes,
    )
    return at.go(
        PortPhase.RESERVING,
        Send(recipient(quote.provider), ask, perishable=True),
        note=f"chose {quotes.in_short(choice)}",
        rearm=True,
        chosen=quote,
    )


def reserved(at: Moment, heard: Heard[Reserved]) -> Decision:
    """Capacity is reserved: fix the agreement."""
    answer = heard.message
    if heard.sender != at.recipient_party:
        return reserved_too_late(at, heard)
    if answer.reserved_until <= at.now:
        expired = Refusal(
            code="reservation_expired",
            rule="a reservation must be valid when the agreement is fixed",
            evidence=f"it expired at {answer.reserved_until.isoformat()}",
        )
        return _next_best(at, (expired,))
    if differs := plan_refusals(at, answer):
        return _next_best(at, differs)
    return _fix(at, answer)


def reserved_too_late(at: Moment, heard: Heard[Reserved]) -> Decision:
    """A reservation that is no longer needed must not hold capacity."""
    if heard.sender == at.state.recipient_party and at.state.agreement is not None:
        return at.ignore("this reservation is already part of the agreement")
    provider = heard.sender.owner
    return at.stay(
        release(at, provider, "the reservation came too late"), note=f"late reservation of {provider} released"
    )


def reservation_refused(at: Moment, heard: Heard[ReservationRefused]) -> Decision:
    """The recipient's platform check found a problem: try the next best offer."""
    if heard.sender != at.recipient_party:
        return at.ignore(f"no reservation is expected from {heard.sender} now")
    return _next_best(at, heard.message.refusals)


def reserving_deadline(at: Moment) -> Decision:
    """The chosen recipient is silent: release it and try the next best offer."""
    return _next_best(at, (_no_answer(at.recipient),))


def _next_best(at: Moment, refusals: tuple[Refusal, ...]) -> Decision:
    """Give up the chosen offer for these reasons, and choose again among the others."""
    name = at.recipient
    decision = _choose(_declined(at, {name: refusals}).with_(chosen=None))
    note = f"{name}: {'; '.join(map(str, refusals))}. {decision.note}"
    if name in decision.state.released:  # the port has ended, which releases everybody
        return decision.after(note=note)
    state = decision.state.with_(released=(*decision.state.released, name))
    return replace(decision, state=state).after(release(at, name, "another offer was chosen"), note=note)


def _fix(at: Moment, answer: Reserved) -> Decision:
    """Write the agreement, send it to all parties, release the other providers."""
    fixed = _agreement(at, answer)
    releases, released = release_all(at, "another offer was chosen", keep=fixed.recipient)
    message = PortingFixed(port_id=fixed.port_id, agreement=fixed)
    parties = (at.state.tenant_party, at.state.donor_party, at.recipient_party)
    effects: tuple[Effect, ...] = (*(Send(party, message) for party in parties), *releases)
    at = at.with_(agreement=fixed, released=released)
    opening = opens_at(fixed, at.timing)
    if opening <= at.now:
        opened = open_window(at)
        return opened.after(*effects, note=f"fixed; {opened.note}")
    return at.go(PortPhase.SCHEDULED, *effects, note=f"fixed for {fixed.window_start.isoformat()}", wake_at=opening)


def _agreement(at: Moment, answer: Reserved) -> ServiceChangeAgreement:
    state, limits = at.state, at.state.request.limits
    start = max(limits.window_start or at.now, at.now)
    return ServiceChangeAgreement(
        port_id=state.port_id,
        tenant=state.tenant,
        vm_uuid=state.request.vm_uuid,
        vm_name=at.identity.vm.name,
        donor=state.request.donor,
        donor_node=at.identity.node,
        recipient=at.chosen.provider,
        recipient_node=answer.node,
        epoch=state.epoch + 1,
        window_start=start,
        deadline=limits.deadline or start + at.timing.transfer,
        promised_total_s=at.chosen.promised_total_s,
        promised_downtime_ms=at.chosen.promised_downtime_ms,
        price_per_month=at.chosen.price_per_month,
        currency=at.chosen.currency,
        limits=limits,
        donor_lane=at.identity.lane,
        recipient_lane=answer.lane,
        routes=_routes(at.identity.lane, answer.lane),
        domain_xml=answer.domain_xml,
        domain_xml_sha256=_sha256(answer.domain_xml),
        disks=answer.disks,
        network=answer.network,
        fixed_at=at.now,
    )


def _routes(*ends: LaneEndpoint) -> tuple[str, ...]:
    """The routes in the order of trying: direct if at least one node can be reached directly, the relay always."""
    return ("direct", "relay") if any(end.direct for end in ends) else ("relay",)


# In all of these phases, and SCHEDULED


def cancel_before_moving(at: Moment, reason: str) -> Decision:
    """The tenant cancels while nothing moves: the port ends at once."""
    failure = Failure(outcome=PortPhase.CANCELLED, phase=at.state.phase, code="cancelled", detail=reason)
    return end_without_success(at, failure)
