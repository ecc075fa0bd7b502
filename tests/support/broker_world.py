"""A real broker service with an in-memory bus, a ledger on disk, and simulated providers and tenants.

Each party answers by itself; `mute` removes an answer, `script` replaces it, `say` sends a message unasked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Self
from uuid import UUID, uuid4

from pydantic import SecretStr

from services.broker import ledger
from services.broker.ledger import StoredPort
from services.broker.metrics import BrokerMetrics
from services.broker.migrate import migrate
from services.broker.rules.book import NO_BOOK, RuleBook
from services.broker.service import BrokerService
from services.broker.settings import BrokerSettings
from shared.config import BusSettings
from shared.messages import AnyEnvelope, Message, seal
from shared.messages.approval import ApprovalRequested, DonorApproved
from shared.messages.porting import (
    AbortTransfer,
    DisconnectVm,
    InboundFinished,
    InboundOpened,
    OpenInbound,
    OutboundStarted,
    ProvisionVm,
    QuoteOffered,
    QuoteRequested,
    ReservationRequested,
    StartOutbound,
    SwitchoverGranted,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.service_change import PortAccepted, PortPhase
from shared.messages.switchover import CopyState, QueryCopy
from shared.metrics import Metrics
from shared.parties import BROKER, Party, node, tenant
from shared.store import Store, StoreSettings
from shared.testing import ManualClock, MemoryBroker, MemoryBus, breathe
from shared.testing_lanes import MemoryLaneAdmin
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    ALPHA_NODE,
    BETA,
    BETA_NODE,
    GAMMA,
    NOW,
    PORT,
    VM,
    capacity,
    guest_paused,
    identity,
    inventory,
    outbound_finished,
    quote,
    request,
    request_switchover,
    reserved,
    transfer_aborted,
)

GLOBEX = tenant("globex")
GAMMA_NODE = node("gamma", "gamma-1")
PARTIES = (BROKER, ACME, GLOBEX, ALPHA, BETA, GAMMA, ALPHA_NODE, BETA_NODE, GAMMA_NODE)
Answers = list[tuple[Party, Message]]
Part = Callable[[AnyEnvelope], Answers]


def settings(url: str) -> BrokerSettings:
    """The broker's settings, with defaults."""
    return BrokerSettings(
        bus=BusSettings(url=SecretStr("amqp://broker:x@127.0.0.1/vmport")), store=StoreSettings(url=SecretStr(url))
    )


def good_parts(port_id: UUID, now: datetime = NOW) -> dict[tuple[Party, type[Message]], Part]:
    """Each party's answers when all goes well. Node agents are simulated together with their provider's agents."""

    def about(message: Message) -> Message:
        return message.model_copy(update={"port_id": port_id})

    until = now + timedelta(minutes=10)

    def offers(party: Party, price: str) -> Part:
        offer = quote(party.owner, price=price, valid_until=until)
        return lambda _: [(party, QuoteOffered(port_id=port_id, quote=offer))]

    def holds(party: Party) -> Part:
        return lambda _: [(party, about(reserved(party.owner, reserved_until=until)))]

    return {
        (ALPHA, ApprovalRequested): lambda _: [(ALPHA, about(DonorApproved(port_id=port_id, identity=identity())))],
        (BETA, QuoteRequested): offers(BETA, "9.00"),
        (GAMMA, QuoteRequested): offers(GAMMA, "99.00"),
        (BETA, ReservationRequested): holds(BETA),
        (GAMMA, ReservationRequested): holds(GAMMA),
        (BETA, OpenInbound): lambda _: [(BETA, InboundOpened(port_id=port_id))],
        (ALPHA, StartOutbound): lambda _: [
            (ALPHA, OutboundStarted(port_id=port_id)),
            (ALPHA_NODE, about(guest_paused())),
            (BETA_NODE, about(request_switchover())),
        ],
        (BETA_NODE, SwitchoverGranted): lambda _: [
            (BETA, InboundFinished(port_id=port_id, epoch=2)),
            (ALPHA, about(outbound_finished())),
        ],
        (ALPHA_NODE, QueryCopy): lambda _: [(ALPHA_NODE, CopyState(port_id=port_id, let_go=False))],
        (ALPHA, DisconnectVm): lambda _: [(ALPHA, VmDisconnected(port_id=port_id))],
        (BETA, ProvisionVm): lambda _: [(BETA, VmProvisioned(port_id=port_id))],
        (ALPHA, AbortTransfer): _abort,
        (BETA, AbortTransfer): _abort,
    }


def _abort(envelope: AnyEnvelope) -> Answers:
    assert isinstance(envelope.data, AbortTransfer)
    answer = transfer_aborted(envelope.data.side).model_copy(update={"port_id": envelope.data.port_id})
    return [(ALPHA if envelope.data.side == "outbound" else BETA, answer)]


class World:
    """Use as ``async with World(url) as world``. The clock stands still unless a test moves it.

    Without ``run`` the ledger is there and no broker: the test runs its own.
    """

    def __init__(self, url: str, *, port_id: UUID = PORT, run: bool = True, book: RuleBook = NO_BOOK) -> None:
        self.url = url
        self.book = book
        self._run = run
        self.patience_s = 20.0
        """How long anything is waited for."""
        self.clock = ManualClock(NOW)
        self.broker = MemoryBroker(*PARTIES)
        self.lanes = MemoryLaneAdmin()
        self.parts = good_parts(port_id)
        self.metrics = BrokerMetrics(Metrics(service="test", version="0").registry)
        self.heard = asyncio.Event()
        self._buses: dict[Party, MemoryBus] = {}
        self._peers: list[asyncio.Task[None]] = []
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start(run=self._run)
        for party in PARTIES:
            if party != BROKER:
                self._buses[party] = self.broker.bus(party)
                self._peers.append(asyncio.get_running_loop().create_task(self._play(party)))
        await self.say(ALPHA, inventory(self.clock(), VM))
        for recipient in (BETA, GAMMA):
            await self.say(recipient, capacity(self.clock()))
        await self.broker.wait_idle()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()
        for peer in self._peers:
            peer.cancel()
        await asyncio.gather(*self._peers, return_exceptions=True)

    async def start(self, *, run: bool = True) -> None:
        """The broker process starts."""
        self.store = Store(self.url, BROKER, clock=self.clock)
        await migrate(self.store)
        self.bus = self.broker.bus(BROKER)
        self.service = BrokerService(settings(self.url), self.store, self.bus, self.lanes, self.metrics, book=self.book)
        if run:
            self._running = asyncio.get_running_loop().create_task(self.service.run())
            await asyncio.wait_for(self.bus.consuming.wait(), 20)

    @property
    def has_ended(self) -> bool:
        """Whether the broker has ended by itself."""
        return self._running is None or self._running.done()

    async def stop(self) -> None:
        """The broker process dies."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None
        await self.bus.close()
        await self.store.close()

    async def restart(self) -> None:
        """It dies and comes back."""
        await self.stop()
        await self.start()

    async def _play(self, party: Party) -> None:
        async def handle(envelope: AnyEnvelope) -> None:
            part = self.parts.get((party, type(envelope.data)))
            for speaker, message in part(envelope) if part else []:
                await self.say(speaker, message, cause=envelope)
            self.heard.set()

        await self._buses[party].consume(handle)

    def mute(self, party: Party, kind: type[Message]) -> Part:
        """Remove a party's answer; returns it."""
        return self.parts.pop((party, kind))

    def script(self, party: Party, kind: type[Message], *answers: tuple[Party, Message]) -> None:
        """Replace a party's answer."""
        self.parts[party, kind] = lambda _: list(answers)

    async def say(self, party: Party, message: Message, *, cause: AnyEnvelope | None = None) -> AnyEnvelope:
        """Somebody says something to the broker."""
        envelope = self.seal(party, message, cause=cause)
        await self._buses[party].publish(BROKER, envelope)
        return envelope

    def seal(self, party: Party, message: Message, *, cause: AnyEnvelope | None = None) -> AnyEnvelope:
        """What somebody would say, in its envelope."""
        return seal(message, source=party, message_id=uuid4(), now=self.clock(), cause=cause)

    async def ask_for_port(self, **changes: object) -> None:
        """The tenant's request."""
        await self.say(ACME, request().model_copy(update=changes))

    def told(self, party: Party) -> list[str]:
        """The types of all messages that a party was sent by the broker, in order."""
        return [type(envelope.data).__name__ for envelope in self.broker.received(party)]

    async def until_told(self, party: Party, kind: type[Message], *, times: int = 1) -> AnyEnvelope:
        """Wait until the party was sent such a message, so many times; the last one."""
        async with asyncio.timeout(self.patience_s):
            while True:
                self.heard.clear()
                found = [each for each in self.broker.received(party) if type(each.data) is kind]
                if len(found) >= times:
                    return found[-1]
                await self.heard.wait()

    async def port(self, port_id: UUID = PORT) -> StoredPort:
        """The port in the ledger."""
        async with self.store.reading() as connection:
            found = await ledger.look(connection, port_id)
        assert found is not None
        return found

    async def phase(self) -> PortPhase:
        """The port's phase in the ledger."""
        return (await self.port()).state.phase

    async def until_phase(self, phase: PortPhase) -> None:
        """Wait until the ledger has the port in this phase."""
        await self.until_told(ACME, PortAccepted)
        async with asyncio.timeout(self.patience_s):
            while await self.phase() is not phase:
                await breathe()

    async def until_nothing_is_left(self) -> None:
        """Wait until no lane is open and no message waits."""
        await self.broker.wait_idle()
        async with asyncio.timeout(self.patience_s):
            while self.lanes.open or await self.store.outbox_depth():
                await breathe()

    async def deadline(self) -> None:
        """Advance to the deadline of the port's phase."""
        state = (await self.port()).state
        assert state.deadline is not None
        await self.clock.advance(max(0.0, (state.deadline - self.clock()).total_seconds()))
        await self.service.timers.run_due()

    async def wake(self) -> None:
        """Advance to the phase's wake-up time."""
        state = (await self.port()).state
        assert state.wake_at is not None
        await self.clock.advance(max(0.0, (state.wake_at - self.clock()).total_seconds()))
        await self.service.timers.run_due()
