"""A broker's world whose port keeps the VM's addresses by a plan, and what tests look at there."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from sqlalchemy import select

from services.broker import extensions
from services.broker.tables import port_events
from shared.messages import Message
from shared.messages.addresses import ExtensionShown, ExtensionState
from shared.messages.approval import ApprovalRequested, DonorApproved
from shared.messages.network import NetworkPlan
from shared.messages.porting import QuoteOffered, QuoteRequested, ReservationRequested
from shared.messages.service_change import PortPhase
from shared.parties import Party
from shared.testing import breathe
from tests.support.broker_samples import ALPHA, BETA, NOW, PORT, networked_identity, quote, reserved
from tests.support.broker_world import World


class Networked(World):
    """A world whose port has a network plan."""

    def __init__(self, url: str, planned: NetworkPlan) -> None:
        super().__init__(url)
        until = NOW + timedelta(minutes=10)
        offer = quote(valid_until=until, network=planned.terms)
        self.script(ALPHA, ApprovalRequested, (ALPHA, DonorApproved(port_id=PORT, identity=networked_identity())))
        self.script(BETA, QuoteRequested, (BETA, QuoteOffered(port_id=PORT, quote=offer)))
        self.script(BETA, ReservationRequested, (BETA, reserved(reserved_until=until, network=planned)))

    async def completed(self) -> None:
        """The port has completed, and nothing is under way."""
        await self.ask_for_port()
        await self.until_phase(PortPhase.COMPLETED)
        await self.settled()

    async def settled(self) -> None:
        """No message waits."""
        await self.broker.wait_idle()
        async with asyncio.timeout(self.patience_s):
            while await self.store.outbox_depth():
                await breathe()
        await self.broker.wait_idle()
        await self.service.lanes.work()

    async def extension(self) -> ExtensionShown | None:
        """As the ledger has it."""
        async with self.store.reading() as connection:
            return await extensions.shown(connection, PORT)

    async def state(self) -> tuple[ExtensionState, str]:
        """Its state, and why."""
        shown = await self.extension()
        assert shown is not None
        return shown.state, shown.reason

    async def tell(self, party: Party, message: Message) -> None:
        """A node's word, until it is acted on."""
        await self.say(party, message)
        await self.settled()

    async def pass_time(self, seconds: float) -> None:
        """Timers that are due are taken."""
        await self.clock.advance(seconds)
        await self.service.timers.run_due()
        await self.settled()

    async def events(self, kind: str) -> list[tuple[str, str]]:
        """Sender and detail of the record's lines of this type."""
        wanted = select(port_events).where(port_events.c.type == kind).order_by(port_events.c.id)
        async with self.store.reading() as connection:
            return [(row.sender, row.detail) for row in await connection.execute(wanted)]
