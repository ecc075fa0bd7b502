"""Handles reservations: made of a quote, fixed with the agreement, released at the port's end or by the clock."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from services.recipient_agent import records
from services.recipient_agent.assessment import Suitable
from services.recipient_agent.context import RecipientContext, wish_of
from services.recipient_agent.cpu_check import without_unasked
from services.recipient_agent.domain import Prepared, prepare
from services.recipient_agent.network_terms import network_plan
from services.recipient_agent.quote_lines import Lines
from services.recipient_agent.reservation import ON_NODE, Phase, Reservation, agreement_refusals
from shared.ejecting import without_media
from shared.logs import get_logger
from shared.messages import AnyEnvelope, Envelope, Refusal
from shared.messages.porting import (
    PortingFixed,
    ReleaseReservation,
    ReservationRefused,
    ReservationRequested,
    Reserved,
)
from shared.messages.service_change import PortCancelled, PortCompleted, PortFailed, Quote
from shared.parties import BROKER
from shared.provider_agent import codes_of, timer_key
from shared.store import Timer, Transaction

log = get_logger(__name__)

RESERVATION = "reservation"
"""The timer at which a reservation may be released."""

_SETTLED = frozenset({Phase.FIXED, *ON_NODE})


async def hold(tx: Transaction, reservation: Reservation) -> None:
    """Store a reservation, and the time at which a clock may release it."""
    await records.save(tx, reservation)
    await tx.arm(timer_key(RESERVATION, reservation.port_id), reservation.until)


class ReservationHandler:
    """From the broker's request to the reservation's end."""

    def __init__(self, context: RecipientContext) -> None:
        self._context = context

    async def requested(self, tx: Transaction, envelope: Envelope[ReservationRequested]) -> None:
        """The broker has chosen this provider's quote."""
        message = envelope.data
        known = await records.load(tx, message.port_id)
        if known is not None and known.phase in _SETTLED:
            if known.donor_xml_sha256 == message.identity.domain_xml_sha256 and known.tenant == message.tenant:
                await _answer(tx, envelope, known)
            else:
                await self._refuse(tx, envelope, (_already_settled(known),))
            return
        result = await self._judge(tx, message)
        if not isinstance(result, Reservation):
            await self._refuse(tx, envelope, result)
            return
        await hold(tx, result)
        await _answer(tx, envelope, result)
        log.info("reserved", vm=str(result.vm.uuid), node=result.node, until=result.until.isoformat())

    async def _judge(self, tx: Transaction, message: ReservationRequested) -> Reservation | tuple[Refusal, ...]:
        """Quote, platform, room and XML once more; one judgement for all, so that every finding is named at once."""
        context, vm = self._context, without_media(message.identity.vm, message.limits.eject)
        identity = message.identity.model_copy(update={"vm": vm})
        refusals = _quote_refusals(await records.load_quote(tx, message.port_id), message.quote, tx.now)
        check = await records.load_check(tx, message.port_id)
        answer = await context.assess(
            tx,
            message.port_id,
            vm,
            identity.versions,
            tenant=message.tenant,
            require=message.limits.require,
            cpu_answers=check.answers_about(vm) if check else {},
            promised=_lines_of(message.quote),
            wish=wish_of(message),
        )
        if not isinstance(answer, Suitable):
            return without_unasked(refusals + answer)
        refusals += _broken_word(message.quote, answer)
        places = context.terms.places_on(answer.node)
        prepared = prepare(identity, port_id=message.port_id, places=places, choice=answer.choice)
        if not isinstance(prepared, Prepared):
            return refusals + prepared
        if refusals:
            return refusals
        return Reservation(
            port_id=message.port_id,
            tenant=message.tenant,
            node=answer.node,
            lane=context.nodes.views[answer.node].lane,
            phase=Phase.HELD,
            until=tx.now + timedelta(seconds=context.settings.reservation_s),
            vm=vm,
            donor_xml=identity.domain_xml,
            donor_xml_sha256=identity.domain_xml_sha256,
            domain_xml=prepared.domain_xml,
            lasting_xml=prepared.lasting_xml,
            disks=prepared.disks,
            network=network_plan(vm, answer.choice.network),
            quote=message.quote,
            updated_at=tx.now,
        )

    async def _refuse(
        self, tx: Transaction, envelope: Envelope[ReservationRequested], refusals: tuple[Refusal, ...]
    ) -> None:
        message = envelope.data
        await tx.send(BROKER, ReservationRefused(port_id=message.port_id, refusals=refusals), cause=envelope)
        self._context.count(tx, refusals)
        log.info("reservation refused", vm=str(message.identity.vm.uuid), reason=codes_of(refusals))

    async def fixed(self, tx: Transaction, envelope: Envelope[PortingFixed]) -> None:
        """The broker has fixed the agreement."""
        agreement = envelope.data.agreement
        reservation = await records.load(tx, envelope.data.port_id)
        if reservation is None or reservation.phase is not Phase.HELD:
            phase = reservation.phase.value if reservation else "unknown"
            log.warning("agreement without reservation", vm=str(agreement.vm_uuid), phase=phase)
            return
        refusals = agreement_refusals(reservation, agreement, provider=tx.party.owner)
        if refusals:
            # The broker is told when it asks to open: that message has an answer, this one has none.
            log.warning("agreement differs from reservation", vm=str(agreement.vm_uuid), reason=codes_of(refusals))
            return
        after_s = self._context.settings.after_deadline_s
        await hold(tx, reservation.fixed(agreement, tx.now, after_deadline_s=after_s))

    async def released(self, tx: Transaction, envelope: Envelope[ReleaseReservation]) -> None:
        """The broker does not need the reservation, nor the quote."""
        await records.drop_quote(tx, envelope.data.port_id)
        await _release(tx, envelope.data.port_id, envelope.data.reason)

    async def failed(self, tx: Transaction, envelope: Envelope[PortFailed]) -> None:
        """The port has failed. If its VM runs here already, its room stays reserved."""
        message = envelope.data
        if message.vm_runs_at == tx.party.owner:
            log.error("port failed after its VM arrived", vm_runs_at=message.vm_runs_at, reason=message.code)
            return
        await _release(tx, message.port_id, "the port ended: PortFailed")

    async def cancelled(self, tx: Transaction, envelope: Envelope[PortCancelled]) -> None:
        """The tenant has cancelled the port."""
        await _release(tx, envelope.data.port_id, "the port ended: PortCancelled")

    async def completed(self, _tx: Transaction, _envelope: Envelope[PortCompleted]) -> None:
        """The port is complete; the VM is one of this provider's now."""
        log.info("port completed")

    async def time_is_over(self, tx: Transaction, timer: Timer, port_id: UUID) -> None:
        """A reservation's time is over, or a fixed one's deadline is long gone."""
        reservation = await records.load(tx, port_id)
        if reservation is None:
            return
        nodes = self._context.nodes
        known = nodes.busy_with(port_id) or nodes.serves(reservation.vm.uuid) is not None
        after_s = self._context.settings.after_deadline_s
        reservation = reservation.on_clock(tx.now, node_knows_it=known, after_deadline_s=after_s)
        await records.save(tx, reservation)
        if reservation.holds_capacity:
            await tx.arm(timer.key, reservation.until)
        else:
            log.info("reservation expired", vm=str(reservation.vm.uuid), phase=reservation.phase.value)


async def _answer(tx: Transaction, cause: AnyEnvelope, reservation: Reservation) -> None:
    reserved = Reserved(
        port_id=reservation.port_id,
        node=reservation.node,
        lane=reservation.lane,
        domain_xml=reservation.domain_xml,
        disks=reservation.disks,
        network=reservation.network,
        reserved_until=reservation.until,
    )
    await tx.send(BROKER, reserved, cause=cause)


async def _release(tx: Transaction, port_id: UUID, reason: str) -> None:
    reservation = await records.load(tx, port_id)
    if reservation is None:
        return
    released = reservation.released(reason, tx.now)
    await records.save(tx, released)
    await tx.disarm(timer_key(RESERVATION, port_id))
    if released is not reservation:
        log.info("reservation released", vm=str(reservation.vm.uuid), node=reservation.node, reason=reason)


def _quote_refusals(offered: Quote | None, taken: Quote, now: datetime) -> tuple[Refusal, ...]:
    rule = "A reservation takes up a quote that this provider made and that is still valid."
    if offered is None:
        return (Refusal(code="quote_unknown", rule=rule, evidence="this provider made no quote for the port"),)
    # Until when it holds is on our clock in what we kept, and on the broker's in what comes back.
    if offered != taken.model_copy(update={"valid_until": offered.valid_until}):
        return (Refusal(code="quote_differs", rule=rule, evidence=f"offered {offered}, taken {taken}"),)
    if now > offered.valid_until:
        evidence = f"it was valid until {offered.valid_until.isoformat()}"
        return (Refusal(code="quote_expired", rule=rule, evidence=evidence),)
    return ()


def _lines_of(quote: Quote) -> Lines:
    return Lines(quote.kept, quote.made_anew, quote.not_kept)


def _broken_word(quote: Quote, answer: Suitable) -> tuple[Refusal, ...]:
    """The tenant took the offer for what it said of the VM; a node where something else holds is no answer to it."""
    if answer.lines == _lines_of(quote):
        terms = answer.choice.network.terms
        if terms == quote.network:
            return ()
        rule = "The VM's addresses are kept on the terms that the quote gave."
        evidence = f"node {answer.node}: quoted {quote.network}, now {terms}"
        return (Refusal(code="quote_outdated", rule=rule, evidence=evidence),)
    told = {*quote.kept, *quote.made_anew, *quote.not_kept}
    now = [*answer.lines.not_kept, *answer.lines.made_anew, *answer.lines.kept]
    news = "; ".join(str(line) for line in now if line not in told) or "a part that the quote names is gone"
    rule = "The VM becomes what the quote said: bridges, VLANs, firmware and what is not kept."
    return (Refusal(code="quote_outdated", rule=rule, evidence=f"node {answer.node}: {news}"),)


def _already_settled(reservation: Reservation) -> Refusal:
    return Refusal(
        code="port_under_way",
        rule="A fixed reservation is not changed.",
        evidence=f"the port is {reservation.phase.value} here, for another tenant or with another XML",
    )
