"""The bus in memory, with the same contract as RabbitMQ's, and a clock that moves when told. Ships, for tests.

`MemoryBroker` keeps every party's inbox and dead letters; `MemoryBroker.bus` gives a party its `Bus`. It verifies
senders as RabbitMQ does, knows inboxes that are missing or full, can be away (`interrupt`), and counts deliveries. What
happens to a delivery is the same code as on RabbitMQ: `shared.consumer`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from shared.bus import BusDown, DeadLetter, Handler, Undeliverable
from shared.consumer import Consumer, Delivery, OnDead
from shared.messages import AnyEnvelope, open_envelope
from shared.messages.lanes import LaneEndpoint
from shared.metrics import Metrics
from shared.parties import Party, Role
from shared.tasks import run_together
from shared.topology import DELIVERY_LIMIT, INBOX_MAX_MESSAGES, TENANT_MAX_MESSAGES, has_urgent_inbox

START = datetime(2030, 1, 1, tzinfo=UTC)


class Time(Protocol):
    """A clock that one can wait on."""

    def monotonic(self) -> float:
        """Seconds since some instant."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait that long on this clock."""
        ...


class RealTime:
    """The machine's clock."""

    def monotonic(self) -> float:
        """Seconds since some instant."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait that long."""
        await asyncio.sleep(delay_s)


class ManualClock:
    """A clock that stands still until `advance`. Calling it gives the time of day, aware, in UTC."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._elapsed_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._numbers = itertools.count()

    def __call__(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed_s)

    def now(self) -> datetime:
        """The time of day."""
        return self()

    def monotonic(self) -> float:
        """Seconds since the start."""
        return self._elapsed_s

    async def sleep(self, delay_s: float) -> None:
        """Wait until the clock was moved that far."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.Event()
        heapq.heappush(self._sleepers, (self._elapsed_s + delay_s, next(self._numbers), woken))
        await woken.wait()

    async def advance(self, delay_s: float) -> None:
        """Move the clock, waking sleepers in order and letting what they do happen at their time."""
        until_s = self._elapsed_s + delay_s
        await breathe()
        while self._sleepers and self._sleepers[0][0] <= until_s:
            due_s, _, woken = heapq.heappop(self._sleepers)
            self._elapsed_s = max(self._elapsed_s, due_s)
            woken.set()
            await breathe()
        self._elapsed_s = until_s
        await breathe()


async def breathe(turns: int = 20) -> None:
    """Let the event loop turn a few times, so that what can happen now happens."""
    for _ in range(turns):
        await asyncio.sleep(0)


@dataclass(eq=False)
class _Stored:
    body: bytes
    user_id: str | None
    message_id: str | None
    deliveries: int = 0


@dataclass(eq=False)
class _Queue:
    owner: Party
    limit: int
    drop_oldest: bool
    ready: deque[_Stored] = field(default_factory=deque)
    subscriptions: list[_Subscription] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        return not self.ready and not any(subscription.in_hand for subscription in self.subscriptions)


class _Lost(Exception):
    """The subscription is gone; the delivery in hand comes again."""


class MemoryBroker:
    """All inboxes of a small world. ``parties`` are who is set up on it; others cannot be sent to."""

    def __init__(self, *parties: Party, clock: Time | None = None) -> None:
        self.clock: Time = clock or RealTime()
        self.dead: dict[Party, list[DeadLetter]] = {party: [] for party in parties}
        self.published: list[tuple[Party, AnyEnvelope]] = []
        """What was published through a `MemoryBus`, in order."""
        self._inboxes = {party: _new_inbox(party) for party in parties}
        self._urgent = {party: _new_inbox(party) for party in parties if has_urgent_inbox(party)}
        self._sessions: dict[Party, list[_Queue]] = {party: [] for party in parties}
        self._up = asyncio.Event()
        self._up.set()
        self._changed = asyncio.Event()

    def bus(self, party: Party, *, prefetch: int = 32) -> MemoryBus:
        """A party's access."""
        self._inbox(party)
        return MemoryBus(self, party, prefetch=prefetch)

    def session(self, party: Party) -> MemorySession:
        """A tenant's session."""
        self._inbox(party)
        return MemorySession(self, party, prefetch=32)

    def limit_inbox(self, party: Party, messages: int) -> None:
        """Make an inbox small, to see it full."""
        self._inbox(party).limit = messages

    def ready_messages(self, party: Party) -> int:
        """How many messages wait in an inbox, undelivered."""
        return len(self._inbox(party).ready)

    def received(self, party: Party) -> list[AnyEnvelope]:
        """What was published to a party so far, in order."""
        return [envelope for to, envelope in self.published if to == party]

    def put_raw(
        self, to: Party, body: bytes, *, user_id: str | None, message_id: str | None = None, urgent: bool = False
    ) -> None:
        """Publish as any AMQP client could: any body; ``user_id`` is what RabbitMQ would have verified, or None.

        Raises `BusDown` or `Undeliverable`.
        """
        if not self._up.is_set():
            raise BusDown("the bus in memory is interrupted")
        inbox = self._urgent[to] if urgent else self._inboxes.get(to)
        if inbox is None:
            raise Undeliverable(to, "no queue is bound to its exchange")
        if len(inbox.ready) >= inbox.limit:
            if not inbox.drop_oldest:
                raise Undeliverable(to, "RabbitMQ refused it; the queue is full or cannot store now")
            inbox.ready.popleft()
        for queue in (inbox,) if urgent else (inbox, *self._sessions[to]):
            queue.ready.append(_Stored(body, user_id, message_id))
            self._dispatch(queue)

    def interrupt(self) -> None:
        """Take the bus away: publishing raises `BusDown`, subscriptions are lost, what was in hand comes again."""
        self._up.clear()
        for queue in self._queues():
            for subscription in list(queue.subscriptions):
                subscription.lose()
        for sessions in self._sessions.values():
            sessions.clear()

    def restore(self) -> None:
        """Bring it back."""
        self._up.set()

    async def wait_idle(self, timeout_s: float = 5.0, *, besides: frozenset[Party] = frozenset()) -> None:
        """Return once no inbox with a consumer holds anything; raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while True:
                await breathe()
                busy = [
                    queue
                    for party, queue in (*self._inboxes.items(), *self._urgent.items())
                    if party not in besides and queue.subscriptions and not queue.idle
                ]
                if not busy:
                    return
                self._changed.clear()
                await self._changed.wait()

    def _queues(self) -> list[_Queue]:
        inboxes = [*self._inboxes.values(), *self._urgent.values()]
        return [*inboxes, *(queue for queues in self._sessions.values() for queue in queues)]

    def _inbox(self, party: Party) -> _Queue:
        inbox = self._inboxes.get(party)
        if inbox is None:
            raise ValueError(f"{party} is not set up on this bus; name it in MemoryBroker(...)")
        return inbox

    def _dispatch(self, queue: _Queue) -> None:
        for subscription in list(queue.subscriptions):
            while queue.ready and not subscription.full:
                stored = queue.ready.popleft()
                if stored.deliveries > DELIVERY_LIMIT and not queue.drop_oldest:
                    letter = DeadLetter(
                        "delivery_limit", "delivered too often", stored.body, stored.user_id, stored.message_id
                    )
                    self.dead[queue.owner].append(letter)
                    continue
                stored.deliveries += 1
                subscription.push(stored)
        self._changed.set()


def _new_inbox(party: Party) -> _Queue:
    is_tenant = party.role is Role.TENANT
    return _Queue(party, TENANT_MAX_MESSAGES if is_tenant else INBOX_MAX_MESSAGES, drop_oldest=is_tenant)


class _Subscription:
    """One consumer's hold on a queue; settles its deliveries."""

    def __init__(self, broker: MemoryBroker, queue: _Queue, prefetch: int) -> None:
        self._broker = broker
        self._queue = queue
        self._prefetch = prefetch
        self._deliver: Callable[[Delivery[_Stored]], None] | None = None
        self.in_hand: list[_Stored] = []
        self.lost = asyncio.Event()

    @property
    def full(self) -> bool:
        return len(self.in_hand) >= self._prefetch

    def begin(self, deliver: Callable[[Delivery[_Stored]], None]) -> None:
        self._deliver = deliver
        self._queue.subscriptions.append(self)
        self._broker._dispatch(self._queue)  # noqa: SLF001  # the two halves of one thing

    def push(self, stored: _Stored) -> None:
        self.in_hand.append(stored)
        if self._deliver is not None:
            self._deliver(Delivery(stored.body, stored.user_id, stored.message_id, stored))

    def lose(self) -> None:
        """End; what was in hand goes back to the head of the queue, in order."""
        if self in self._queue.subscriptions:
            self._queue.subscriptions.remove(self)
            self._queue.ready.extendleft(reversed(self.in_hand))
            self.in_hand.clear()
            self._broker._dispatch(self._queue)  # noqa: SLF001  # as above
        self.lost.set()

    async def until_lost(self) -> None:
        await self.lost.wait()
        raise _Lost

    async def acknowledge(self, token: _Stored) -> None:
        if self.lost.is_set():
            raise _Lost
        self.in_hand.remove(token)
        self._broker._dispatch(self._queue)  # noqa: SLF001  # as above

    async def bury(self, token: _Stored, letter: DeadLetter) -> None:
        if self.lost.is_set() or token not in self.in_hand:
            raise _Lost
        self._broker.dead[self._queue.owner].append(letter)


class MemoryBus:
    """One party's access to a `MemoryBroker`; implements `shared.bus.Bus`."""

    def __init__(self, broker: MemoryBroker, party: Party, *, prefetch: int) -> None:
        self._broker = broker
        self.party = party
        self._prefetch = prefetch
        self._closed = False
        self.metrics = Metrics(service="memory", version="0").bus
        self.consuming = asyncio.Event()

    async def publish(self, to: Party, envelope: AnyEnvelope) -> None:
        """Store a message in a party's inbox; raises `BusDown` or `Undeliverable`."""
        await asyncio.sleep(0)
        if self._closed:
            raise BusDown("this bus was closed")
        body = envelope.to_json()
        urgent = type(envelope.data).URGENT and has_urgent_inbox(to)
        self._broker.put_raw(to, body, user_id=str(self.party), message_id=str(envelope.id), urgent=urgent)
        # What others see went over the wire, as on the real bus.
        self._broker.published.append((to, open_envelope(body)))
        self.metrics.messages_published_total.labels(type(envelope.data).__name__).inc()

    async def consume(self, handler: Handler, *, on_dead: OnDead | None = None) -> None:
        """Deliver this party's inbox to ``handler`` until cancelled, across interruptions."""
        await self._consume(self._source, self.consuming, handler, on_dead)

    async def consume_urgent(self, handler: Handler, *, on_dead: OnDead | None = None) -> None:
        """Deliver the urgent inbox beside the ordinary one."""
        urgent = self._broker._urgent[self.party]  # noqa: SLF001  # the broker's own access object
        await self._consume(lambda: urgent, asyncio.Event(), handler, on_dead)

    async def _consume(
        self, open_source: Callable[[], _Queue], consuming: asyncio.Event, handler: Handler, on_dead: OnDead | None
    ) -> None:
        while True:
            await self._broker._up.wait()  # noqa: SLF001  # the broker's own access object
            source = open_source()
            subscription = _Subscription(self._broker, source, self._prefetch)
            consumer = Consumer(
                party=self.party,
                handler=handler,
                settle=subscription,
                metrics=self.metrics,
                on_dead=on_dead,
                monotonic=self._broker.clock.monotonic,
                sleep=self._broker.clock.sleep,
            )
            subscription.begin(consumer.deliver)
            consuming.set()
            try:
                await run_together(consumer.run(), subscription.until_lost())
            except* _Lost:
                pass
            finally:
                consuming.clear()
                subscription.lose()
                self._release(source)

    def _source(self) -> _Queue:
        return self._broker._inbox(self.party)  # noqa: SLF001  # the broker's own access object

    def _release(self, source: _Queue) -> None:
        """An inbox stays."""

    async def ready(self) -> bool:
        """Whether the bus is connected now."""
        return not self._closed and self._broker._up.is_set()  # noqa: SLF001  # the broker's own access object

    async def check(self) -> str | None:
        """Why the bus is not ready; None when it is."""
        return None if await self.ready() else "the bus in memory is interrupted"

    async def close(self) -> None:
        """Leave the bus; idempotent."""
        self._closed = True


class MemorySession(MemoryBus):
    """A tenant's session on a `MemoryBroker`; implements `shared.bus.Session`."""

    def __init__(self, broker: MemoryBroker, party: Party, *, prefetch: int) -> None:
        super().__init__(broker, party, prefetch=prefetch)
        self._listened = 0

    async def wait_listening(self) -> int:
        """Return once messages are heard, with how many times that began."""
        await self.consuming.wait()
        return self._listened

    def _source(self) -> _Queue:
        queue = _Queue(self.party, TENANT_MAX_MESSAGES, drop_oldest=True)
        self._broker._sessions[self.party].append(queue)  # noqa: SLF001  # the broker's own access object
        self._listened += 1
        return queue

    def _release(self, source: _Queue) -> None:
        """A session's queue goes with its consumer."""
        sessions = self._broker._sessions[self.party]  # noqa: SLF001  # the broker's own access object
        if source in sessions:
            sessions.remove(source)


def make_lane_endpoint(**changes: Any) -> LaneEndpoint:
    """What a node tells of itself; shaped like certificates, good for no TLS."""
    pem = "-----BEGIN CERTIFICATE-----\nMDEy\n-----END CERTIFICATE-----\n"
    return LaneEndpoint(certificate=pem, authority=pem).model_copy(update=changes)
