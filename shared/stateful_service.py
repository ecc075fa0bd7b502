"""The frame of a service that keeps state: messages and timers in, one transaction each, messages out.

Donor agent, recipient agent and broker share it. The service says which function acts on which type of message
(`Handlers.on`); the frame checks the deadline, marks the message as handled in the same transaction, and runs the
outbox relay, the timers and the inbox side by side. A message is acknowledged after the commit, so a crash at any
instant leaves either nothing or all of its effect.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast

from shared.bus import Bus, DeadLetter, Reject
from shared.clocks import ClockOffsets
from shared.logs import get_logger, log_scope, port_bound
from shared.messages import AnyEnvelope, Envelope, Message
from shared.metrics import StoreMetrics
from shared.parties import Role
from shared.store import OutboxRelay, RelayPolicy, Store, StoreDown, StoreUnusable, Timer, TimerRunner, Transaction

log = get_logger(__name__)

SHORTEST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0
"""Between two attempts while the database is away."""

M = TypeVar("M", bound=Message)
H = TypeVar("H")


class ByType(Generic[H]):
    """What is registered per message type, found for a message's own type first, then for its base types."""

    def __init__(self) -> None:
        self._registered: dict[type[Message], H] = {}

    def add(self, kind: type[Message], value: H) -> None:
        """Register; a type that is registered twice is a mistake in the code and raises ValueError."""
        if kind in self._registered:
            raise ValueError(f"{kind.__name__} is registered already")
        self._registered[kind] = value

    def find(self, kind: type[Message]) -> H | None:
        """What is registered for this type; None if nothing is."""
        return next((self._registered[each] for each in kind.__mro__ if each in self._registered), None)


Once = Callable[[Transaction, AnyEnvelope], Awaitable[None]]
Every = Callable[[AnyEnvelope], Awaitable[None]]


class Handlers:
    """Which function acts on which type of message; each is given the type that it was registered for."""

    def __init__(self, *, unknown_code: str) -> None:
        self._unknown_code = unknown_code
        self._once: ByType[Once] = ByType()
        self._every: ByType[Every] = ByType()

    def on(self, kind: type[M], handler: Callable[[Transaction, Envelope[M]], Awaitable[None]]) -> None:
        """Call once per message of this type, in the transaction that marks the message as handled."""
        # Erases the type in the table only: `find` returns what was added for this type or a base of it.
        self._once.add(kind, cast("Once", handler))

    def on_every(self, kind: type[M], handler: Callable[[Envelope[M]], Awaitable[None]]) -> None:
        """Call for every delivery of this type, a repeated one too; the handler opens a transaction if it needs one.

        For what is sent again and again anyway: heartbeats, progress, questions.
        """
        self._every.add(kind, cast("Every", handler))

    def is_on_every(self, kind: type[Message]) -> bool:
        """Whether this type is sent again and again anyway."""
        return self._every.find(kind) is not None

    async def dispatch(self, store: Store, envelope: AnyEnvelope) -> bool:
        """Call the handler of the message's type; raises `Reject` where there is none.

        True for what was registered with `on`: the service's state may have changed.
        """
        kind = type(envelope.data)
        every = self._every.find(kind)
        if every is not None:
            await every(envelope)
            return False
        once = self._once.find(kind)
        if once is None:
            raise Reject(self._unknown_code, f"{store.party} has no use for {kind.__name__}")
        async with store.transaction() as tx:
            if await tx.first_time(envelope):
                await once(tx, envelope)
        return True


class StatefulService(ABC):
    """A service with a store and an inbox. ``await service.run()`` works until it is cancelled.

    A subclass registers its handlers in ``__init__`` and says what to do when a stored deadline has passed. Tests may
    call `handle`, ``relay.flush`` and ``timers.run_due`` themselves instead of `run`.
    """

    def __init__(
        self,
        store: Store,
        bus: Bus,
        metrics: StoreMetrics,
        *,
        relay_policy: RelayPolicy | None = None,
        unknown_code: str = "not_for_me",
    ) -> None:
        self.store = store
        self.bus = bus
        self.handlers = Handlers(unknown_code=unknown_code)
        self.clocks = ClockOffsets()
        self._clock_offset_seconds = metrics.clock_offset_seconds
        self.relay = OutboxRelay(store, bus, policy=relay_policy, on_depth=metrics.outbox_messages.set)
        self.timers = TimerRunner(store, self.on_timer)

    # ---- for subclasses -----------------------------------------------------------------------------------------

    @abstractmethod
    async def start(self) -> None:
        """Make ready: tables, what is remembered, timers. Called before the first message, and again if the database
        went away meanwhile.
        """

    @abstractmethod
    async def time_passed(self, tx: Transaction, timer: Timer) -> None:
        """A stored deadline has passed; it was claimed in this transaction."""

    def loops(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """More work to run beside the frame's, by name, until cancelled."""
        return {}

    async def attempt(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work for one message, or for the start. While the database is away, wait for it: no message is given
        up because of that. A subclass may repeat the work for reasons of its own.
        """
        pause_s = SHORTEST_PAUSE_S
        while True:
            try:
                await work()
            except StoreDown as error:
                log.warning("store unavailable; waiting", error=str(error))
            else:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def expired(self, envelope: AnyEnvelope) -> None:
        """A message came after its deadline: its sender has given up, so it must not be acted on."""
        level = log.debug if self.handlers.is_on_every(type(envelope.data)) else log.warning
        level("expired message ignored", message=type(envelope.data).__name__, sender=envelope.source)

    async def on_dead(self, letter: DeadLetter) -> None:
        """A message was given up; the bus has logged and counted it."""
        log.debug("dead letter", sender=letter.sender, code=letter.code, reason=letter.reason)

    # ---- the frame ----------------------------------------------------------------------------------------------

    async def run(self, running: Callable[[], None] | None = None) -> None:
        """Start, call ``running``, then work until cancelled."""
        await self.attempt(self.start)
        if running is not None:
            running()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.relay.run(), name="outbox")
            group.create_task(self.timers.run(), name="timers")
            for name, loop in self.loops().items():
                group.create_task(loop, name=name)
            group.create_task(self.bus.consume(self.handle, on_dead=self.on_dead), name="inbox")

    async def handle(self, envelope: AnyEnvelope) -> None:
        """Store the effect of one message; raises `Reject` where it can never be acted on."""
        self._look_at_the_clock(envelope)
        with port_bound(getattr(envelope.data, "port_id", None)):
            await self.attempt(lambda: self._handle_once(envelope))

    def _look_at_the_clock(self, envelope: AnyEnvelope) -> None:
        """Learn how far the sender's clock is from ours, and name it where that is noticeable."""
        if envelope.sender.role is Role.TENANT:
            return  # it speaks now and then, and there may be many
        party, now = envelope.source, self.store.clock()
        before = self.clocks.ahead(party, now)
        self.clocks.heard(party, sent_at=envelope.time, now=now)
        self.show_clock(party, before)

    def show_clock(self, party: str, before: timedelta) -> None:
        """Show what is known now of this party's clock; `before` is what was known."""
        ahead = self.clocks.ahead(party, self.store.clock())
        self._clock_offset_seconds.labels(party).set(ahead.total_seconds())
        if bool(ahead) != bool(before):
            say = log.warning if ahead else log.info
            say("clock differs" if ahead else "clock agrees again", party=party, ahead_s=ahead.total_seconds())

    async def _handle_once(self, envelope: AnyEnvelope) -> None:
        if envelope.expired(self.clocks.their_now(envelope.source, self.store.clock())):
            await self.expired(envelope)
            return
        await self.dispatch(envelope)

    async def dispatch(self, envelope: AnyEnvelope) -> bool:
        """Call the handler of a message that came in time. True if state may have changed."""
        return await self.handlers.dispatch(self.store, envelope)

    async def on_timer(self, timer: Timer) -> None:
        """Handle a stored deadline that has passed, unless another process has done so."""
        # What is logged after the commit is about the same port: the scope ends after the transaction.
        with log_scope():
            async with self.store.transaction() as tx:
                if not await tx.claim_timer(timer.key, timer.due_at):
                    return
                await self.time_passed(tx, timer)

    async def check_store(self) -> str | None:
        """A check for ``/readyz``: None, or why the store cannot be used."""
        try:
            await self.store.check()
        except StoreUnusable as error:
            return str(error)
        return None
