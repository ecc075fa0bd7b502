"""Tenants' questions about one VM, which only the VM's provider can answer: passed on, answered, or overdue.

An open question is a stored deadline with the question in it, so it survives a restart and any broker of several may
hear the answer. A tenant has few open at once: each makes a node ask its hypervisor. The answer is believed only from
the provider that was asked, about the VM that was asked for; the registry's facts and the broker's own rules are added.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from sqlalchemy import func, select

from services.broker import queries, registry, rules
from services.broker.rules import Limits, listing
from services.broker.rules.book import NO_BOOK, RuleBook
from shared.bus import Reject
from shared.logs import get_logger
from shared.messages import Envelope, Refusal, open_envelope
from shared.messages.approval import MAX_REASONS, InspectVm, VmInspected
from shared.messages.queries import QueryFailed, RegisteredVm, ShowVm, VmShown
from shared.messages.rule_facts import DonorFacts
from shared.messages.rules import CheckRules
from shared.messages.service_change import BEST, PortRequested
from shared.messages.vm_details import VmDetails
from shared.parties import Name, Party, donor
from shared.store import Timer, Transaction, timers

log = get_logger(__name__)

PREFIX = "inquiry:"
"""Of the keys of open questions' deadlines."""
OVERDUE_AFTER = timedelta(seconds=25)
"""Longer than a donor gives its node by default (20 s), shorter than a tenant waits (30 s)."""
MAX_OPEN = 8
"""Of one tenant."""


VmQuestion = Envelope[ShowVm] | Envelope[CheckRules]
"""What only the VM's provider can answer."""


def inquiry_key(tenant: Name, inquiry_id: UUID) -> str:
    """The key of an open question's deadline."""
    return f"{PREFIX}{tenant}:{inquiry_id}"


class Inquiries:
    """What the broker does with `ShowVm` and `CheckRules`, with the donor's answer, and with a deadline."""

    def __init__(self, limits: Limits, *, silent_after: timedelta, book: RuleBook = NO_BOOK) -> None:
        self._limits = limits
        self._book = book
        self._silent_after = silent_after

    async def ask(self, tx: Transaction, question: VmQuestion, *, inquiry_id: UUID) -> None:
        """Ask the VM's provider; a question that nobody can answer is answered at once."""
        tenant, vm_uuid = question.sender.owner, question.data.vm_uuid
        vm = await queries.vm_of(tx.connection, vm_uuid, tenant)
        if vm is None:
            await tx.send(question.sender, _not_found(vm_uuid), cause=question)
            return
        if await _open_of(tx, tenant) >= MAX_OPEN:
            detail = f"{MAX_OPEN} questions of yours about VMs wait for their providers; ask again when they have ended"
            await tx.send(question.sender, QueryFailed(code="too_many_questions", detail=detail), cause=question)
            return
        due_at = tx.now + OVERDUE_AFTER
        payload = {"question": question.to_json().decode(), "provider": vm.provider}
        await tx.arm(inquiry_key(tenant, inquiry_id), due_at, payload)
        inspect = InspectVm(inquiry_id=inquiry_id, tenant=tenant, vm_uuid=vm_uuid)
        await tx.send(donor(vm.provider), inspect, cause=question, deadline=due_at)

    async def inspected(self, tx: Transaction, envelope: Envelope[VmInspected]) -> None:
        """The provider has answered. Raises `Reject` for what was not asked of it."""
        answer = envelope.data
        payload = await tx.take_timer(inquiry_key(answer.tenant, answer.inquiry_id))
        if payload is None:
            log.info("late answer about a VM ignored", sender=envelope.source)
            return
        question, asked = _stored(payload)
        if envelope.sender != asked:
            raise Reject("not_asked", f"{envelope.source} answers what {asked} was asked")
        wanted = question.data.vm_uuid
        if answer.vm is not None and answer.vm.uuid != wanted:
            raise Reject("wrong_vm", f"{envelope.source} describes {answer.vm.uuid}; it was asked for {wanted}")
        await self._answer(tx, question, answer.vm, answer.refusals, facts=answer.facts)

    async def overdue(self, tx: Transaction, timer: Timer) -> None:
        """The provider has not answered in time."""
        question, asked = _stored(timer.payload)
        await self._answer(tx, question, None, (_silent(asked),))

    async def _answer(
        self,
        tx: Transaction,
        question: VmQuestion,
        details: VmDetails | None,
        refusals: tuple[Refusal, ...],
        *,
        facts: DonorFacts | None = None,
    ) -> None:
        tenant, vm_uuid = question.sender.owner, question.data.vm_uuid
        vm = await queries.vm_of(tx.connection, vm_uuid, tenant)
        if vm is None:
            await tx.send(question.sender, _not_found(vm_uuid), cause=question)
            return
        if isinstance(question.data, CheckRules):
            told = listing.checked(
                self._book,
                vm_uuid=vm_uuid,
                tenant=tenant,
                donor=vm.provider,
                recipient=question.data.recipient,
                stated=facts,
                refusals=refusals if facts is not None else (),
                now=tx.now,
            )
            await tx.send(question.sender, told, cause=question)
            return
        own = await self._refusals(tx, vm, tenant)
        shown = VmShown(vm=vm, details=details, refusals=(*own[:MAX_REASONS], *refusals))
        await tx.send(question.sender, shown, cause=question)

    async def _refusals(self, tx: Transaction, vm: RegisteredVm, tenant: Name) -> tuple[Refusal, ...]:
        """What the broker itself would say to a port of this VM, now."""
        request = PortRequested(port_id=vm.uuid, vm_uuid=vm.uuid, donor=vm.provider, recipient=BEST)
        facts = await registry.facts_for(tx.connection, request, tenant, now=tx.now, silent_after=self._silent_after)
        return rules.verify(request, tenant, facts, self._limits, tx.now)


async def _open_of(tx: Transaction, tenant: Name) -> int:
    mine = timers.c.key.startswith(f"{PREFIX}{tenant}:", autoescape=True)
    return int((await tx.execute(select(func.count()).select_from(timers).where(mine))).scalar_one())


def _stored(payload: Mapping[str, Any]) -> tuple[VmQuestion, Party]:
    """The question, and who was asked. Only such questions are stored with their deadline."""
    question = cast("VmQuestion", open_envelope(str(payload["question"]).encode()))
    return question, donor(str(payload["provider"]))


def _not_found(vm_uuid: UUID) -> QueryFailed:
    return QueryFailed(code="not_found", detail=f"there is no VM {vm_uuid} of yours")


def _silent(provider: Party) -> Refusal:
    return Refusal(
        code="donor_silent",
        rule=f"The VM's provider must answer within {OVERDUE_AFTER.total_seconds():.0f} s.",
        evidence=f"{provider} did not answer",
    )
