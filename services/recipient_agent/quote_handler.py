"""Handles requests for a quote: an offer, or every reason why there is none.

A VM with a CPU definition of its own needs a word of the nodes' libvirts first (`cpu_check` says why). They are asked
all at once; the quote is made when all have answered, or when their time is over, of those that have.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from services.recipient_agent import records
from services.recipient_agent.assessment import CpuAnswers, Suitable
from services.recipient_agent.context import RecipientContext, wish_of
from services.recipient_agent.cpu_check import is_compared
from services.recipient_agent.quote import make_quote
from services.recipient_agent.vm_check import VmCheck, nodes_to_ask
from shared.bus import Reject
from shared.ejecting import without_media
from shared.logs import get_logger
from shared.messages import AnyEnvelope, Envelope
from shared.messages.nodes import CheckVm, VmChecked
from shared.messages.porting import QuoteDeclined, QuoteOffered, QuoteRequested
from shared.parties import BROKER, Role
from shared.provider_agent import codes_of, send_to_node, timer_key
from shared.store import Timer, Transaction

log = get_logger(__name__)

VM_CHECK = "vm_check"
"""The timer at which a quote no longer waits for nodes."""


class QuoteHandler:
    """Answers the broker's requests for quotes."""

    def __init__(self, context: RecipientContext) -> None:
        self._context = context

    async def requested(self, tx: Transaction, envelope: Envelope[QuoteRequested]) -> None:
        """The broker asks what the provider would take the VM for."""
        vm = without_media(envelope.data.vm, envelope.data.limits.eject)
        message = envelope.data.model_copy(update={"vm": vm})
        # A deadline of the message itself was judged already, on the broker's clock.
        if envelope.deadline is None and message.answer_by < tx.now:
            log.info("quote requested too late", vm=str(message.vm.uuid), answer_by=message.answer_by.isoformat())
            return
        if is_compared(message.vm) and await self._ask_nodes(tx, message, cause=envelope):
            return
        await self._answer(tx, message, {}, cause=envelope)

    async def _ask_nodes(self, tx: Transaction, message: QuoteRequested, *, cause: AnyEnvelope) -> bool:
        """Ask those nodes on whose answer the quote depends; False where it depends on none."""
        context = self._context
        asked = nodes_to_ask(await context.candidates(tx, message))
        assumed = await context.assess(
            tx,
            message.port_id,
            message.vm,
            message.versions,
            tenant=message.tenant,
            require=message.limits.require,
            cpu_answers=dict.fromkeys(asked, ()),
            wish=wish_of(message),
        )
        if not asked or not isinstance(assumed, Suitable):
            return False
        until = tx.now + timedelta(seconds=context.settings.node_answers_within_s)
        vm = message.vm
        question = CheckVm(
            port_id=message.port_id,
            architecture=vm.architecture,
            domain_type=vm.domain_type,
            machine=vm.machine,
            cpu=vm.cpu,
        )
        for name in asked:
            await send_to_node(tx, name, question, cause=cause, deadline=until)
        await records.save_check(tx, VmCheck(request=message, asked=asked), until)
        await tx.arm(timer_key(VM_CHECK, message.port_id), until)
        return True

    async def checked(self, tx: Transaction, envelope: Envelope[VmChecked]) -> None:
        """A node says whether the VM's CPU runs there."""
        sender, message = envelope.sender, envelope.data
        if sender.role is not Role.NODE:
            raise Reject("not_for_me", f"{tx.party} has no use for VmChecked from {sender}")
        check = await records.load_check(tx, message.port_id)
        if check is None or check.is_over:
            log.debug("late answer about a VM", node=sender.node)
            return
        check = check.with_answer(sender.node, message.refusals)
        if check.is_complete:
            await self._end(tx, check, cause=envelope)
        else:
            await records.update_check(tx, check)

    async def time_is_over(self, tx: Transaction, _timer: Timer, port_id: UUID) -> None:
        """Nodes that have not answered by now are not offered."""
        check = await records.load_check(tx, port_id)
        if check is not None and not check.is_over:
            silent = sorted(set(check.asked) - set(check.answers))
            log.warning("nodes did not answer about a VM", vm=str(check.request.vm.uuid), nodes=silent)
            await self._end(tx, check, cause=None)

    async def _end(self, tx: Transaction, check: VmCheck, *, cause: AnyEnvelope | None) -> None:
        await records.update_check(tx, check.ended())
        await tx.disarm(timer_key(VM_CHECK, check.port_id))
        await self._answer(tx, check.request, check.answers, cause=cause)

    async def _answer(
        self, tx: Transaction, message: QuoteRequested, answers: CpuAnswers, *, cause: AnyEnvelope | None
    ) -> None:
        context, vm = self._context, str(message.vm.uuid)
        answer = await context.assess(
            tx,
            message.port_id,
            message.vm,
            message.versions,
            tenant=message.tenant,
            require=message.limits.require,
            cpu_answers=answers,
            wish=wish_of(message),
        )
        if not isinstance(answer, Suitable):
            await tx.send(BROKER, QuoteDeclined(port_id=message.port_id, refusals=answer), cause=cause)
            context.count(tx, answer)
            tx.after_commit(context.metrics.quotes_total.labels("declined").inc)
            log.info("quote declined", vm=vm, reason=codes_of(answer))
            return
        quote = make_quote(
            message.vm,
            message.limits,
            provider=tx.party.owner,
            instance_type=answer.instance_type,
            promise=context.terms.promise,
            now=tx.now,
            valid_s=context.settings.quote_valid_s,
            lines=answer.lines,
            network=answer.choice.network.terms,
            joining=context.terms.joining.terms(context.nodes.views[answer.node].platform.energy),
        )
        await records.save_quote(tx, message.port_id, quote)
        await tx.send(BROKER, QuoteOffered(port_id=message.port_id, quote=quote), cause=cause)
        tx.after_commit(context.metrics.quotes_total.labels("offered").inc)
