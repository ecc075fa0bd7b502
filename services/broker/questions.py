"""Tenants' questions that need more than a look into the ledger: about a VM, and about rules."""

from __future__ import annotations

from uuid import uuid4

from services.broker.inquiries import Inquiries
from services.broker.rules.book import RuleBook
from services.broker.rules.listing import listed
from shared.messages import Envelope
from shared.messages.queries import ShowVm
from shared.messages.rules import CheckRules, ListRules
from shared.store import Store


class Questions:
    """What is passed on to a VM's provider, and what is read out of the broker's rules."""

    def __init__(self, store: Store, book: RuleBook, inquiries: Inquiries) -> None:
        self._store = store
        self._book = book
        self._inquiries = inquiries

    async def vm_asked(self, envelope: Envelope[ShowVm] | Envelope[CheckRules]) -> None:
        """A question that only the VM's provider can answer."""
        async with self._store.transaction() as tx:
            if await tx.first_time(envelope):
                await self._inquiries.ask(tx, envelope, inquiry_id=uuid4())

    async def rules_asked(self, envelope: Envelope[ListRules]) -> None:
        """Which rules there are."""
        asked = envelope.data
        answer = listed(self._book.regimes, name=asked.regime, code=asked.code)
        async with self._store.transaction() as tx:
            await tx.send(envelope.sender, answer, cause=envelope)
