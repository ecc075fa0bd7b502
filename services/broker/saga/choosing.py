"""From the approval to the agreement: quotes, choice, reservation. Pure.

Nothing moves in these phases. A recipient that says nothing counts as declining.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from services.broker.saga import obligations, quotes
from services.broker.saga.decision import Decision, Moment
from services.broker.saga.effects import Effect, Send
from services.broker.saga.ending import (
    end_without_success,
    plan,
    refuse,
    refused_by_broker,
    release,
    release_all,
)
from services.broker.saga.events import Heard
from services.broker.saga.moving import open_window, opens_at
from services.broker.saga.networking import PLAN_DIFFERS, plan_refusals
from services.broker.saga.state import Failure, SagaState
from shared.messages import Refusal
from shared.messages.lanes import LaneEndpoint
from shared.messages.porting import (
    PortingFixed,
    QuoteDeclined,
    QuoteOffered,
    ReservationRefused,
    ReservationRequested,
    Reserved,
    ServiceChangeAgreement,
)
from shared.messages.service_change import BEST, PortPhase, PortPlanned
from shared.parties import BROKER, Name, Party, recipient

FOUND_BY_BROKER = frozenset({"no_answer", "reservation_expired", PLAN_DIFFERS, *quotes.CODES})
"""Codes of the reasons against an offer that the broker found itself; all others were given by the provider."""


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
        planned = PortPlanned(
            port_id=state.port_id,
            quotes=choice.ranked,
            declined=declined,
            lost=choice.lost,
            charges=state.rules.charges,
        )
        return plan(at, planned)
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
    at, verdict, broken = obligations.judge(
        at,
        recipient=fixed.recipient,
        recipient_region=at.state.rules.regions.get(fixed.recipient),
        fixed_at=at.now,
        window_start=fixed.window_start,
        deadline=fixed.deadline,
    )
    if verdict.refusals:
        return obligations.before(refused_by_broker(at, verdict.refusals), broken)
    releases, released = release_all(at, "another offer was chosen", keep=fixed.recipient)
    message = PortingFixed(port_id=fixed.port_id, agreement=fixed)
    parties = (at.state.tenant_party, at.state.donor_party, at.recipient_party)
    effects: tuple[Effect, ...] = (*broken, *(Send(party, message) for party in parties), *releases)
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
        domain_xml_sha256=digest_of(answer.domain_xml),
        disks=answer.disks,
        network=answer.network,
        fixed_at=at.now,
    )


def digest_of(text: str) -> str:
    """SHA-256 of a text in UTF-8; lower-case hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _routes(*ends: LaneEndpoint) -> tuple[str, ...]:
    """The routes in the order of trying: direct if at least one node can be reached directly, the relay always."""
    return ("direct", "relay") if any(end.direct for end in ends) else ("relay",)


# In all of these phases, and SCHEDULED


def cancel_before_moving(at: Moment, reason: str) -> Decision:
    """The tenant cancels while nothing moves: the port ends at once."""
    failure = Failure(outcome=PortPhase.CANCELLED, phase=at.state.phase, code="cancelled", detail=reason)
    return end_without_success(at, failure)
