"""Handles requests for a quote: an offer, or every reason why there is none."""

from __future__ import annotations

from services.recipient_agent import records
from services.recipient_agent.assessment import Suitable
from services.recipient_agent.context import RecipientContext
from services.recipient_agent.quote import make_quote
from shared.domain import without_media
from shared.logs import get_logger
from shared.messages import Envelope
from shared.messages.porting import QuoteDeclined, QuoteOffered, QuoteRequested
from shared.parties import BROKER
from shared.provider_agent import codes_of
from shared.store import Transaction

log = get_logger(__name__)


class QuoteHandler:
    """Answers the broker's requests for quotes."""

    def __init__(self, context: RecipientContext) -> None:
        self._context = context

    async def requested(self, tx: Transaction, envelope: Envelope[QuoteRequested]) -> None:
        """The broker asks what the provider would take the VM for."""
        message, context = envelope.data, self._context
        vm = without_media(message.vm, message.limits.eject)
        # A deadline of the message itself was judged already, on the broker's clock.
        if envelope.deadline is None and message.answer_by < tx.now:
            log.info("quote requested too late", vm=str(vm.uuid), answer_by=message.answer_by.isoformat())
            return
        answer = await context.assess(tx, message.port_id, vm, message.versions, tenant=message.tenant)
        if not isinstance(answer, Suitable):
            await tx.send(BROKER, QuoteDeclined(port_id=message.port_id, refusals=answer), cause=envelope)
            context.count(tx, answer)
            tx.after_commit(context.metrics.quotes_total.labels("declined").inc)
            log.info("quote declined", vm=str(vm.uuid), reason=codes_of(answer))
            return
        quote = make_quote(
            vm,
            message.limits,
            provider=tx.party.owner,
            instance_type=answer.instance_type,
            promise=context.terms.promise,
            now=tx.now,
            valid_s=context.settings.quote_valid_s,
        )
        await records.save_quote(tx, message.port_id, quote)
        await tx.send(BROKER, QuoteOffered(port_id=message.port_id, quote=quote), cause=envelope)
        tx.after_commit(context.metrics.quotes_total.labels("offered").inc)
