"""What a consumer does with a delivery, on whatever bus: understand, believe, hand over, retry or give up, acknowledge.

Both buses run this one loop, so they cannot differ in it. The bus supplies deliveries and settles them through
`Settle`. Owns no connection. Which delivery is next is decided by `shared.redelivery`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from shared.bus import BusDown, DeadLetter, Handler, Reject, believe
from shared.logs import get_logger, port_bound
from shared.messages import AnyEnvelope, MessageError, open_envelope
from shared.metrics import BusMetrics
from shared.parties import Party
from shared.redelivery import Conversations
from shared.tasks import Tasks

log = get_logger(__name__)

OnDead = Callable[[DeadLetter], Awaitable[None]]
Sleep = Callable[[float], Awaitable[None]]

MAX_REASON = 1000
"""Characters of a reason that are kept; it becomes a header."""

DETERMINISTIC = (ArithmeticError, TypeError, ValueError)
"""Errors of a handler that come from what the message says: a further attempt would fail in the same way."""

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Delivery(Generic[T]):
    """A message as the bus handed it over. ``token`` is the bus's own and names it when it is settled."""

    body: bytes
    user_id: str | None
    message_id: str | None
    token: T


class Settle(Protocol[T_contra]):
    """How the loop tells the bus that a delivery is done with."""

    async def acknowledge(self, token: T_contra) -> None:
        """Forget this delivery."""
        ...

    async def bury(self, token: T_contra, letter: DeadLetter) -> None:
        """Store it among this party's dead letters, durably. Raises `BusDown` when that cannot be done now."""
        ...


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T]):
    delivery: Delivery[T]
    envelope: AnyEnvelope


class Consumer(Generic[T]):
    """Handles one party's deliveries, one at a time, until `run` is cancelled. A new one for each subscription."""

    def __init__(
        self,
        *,
        party: Party,
        handler: Handler,
        settle: Settle[T],
        metrics: BusMetrics,
        on_dead: OnDead | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._party = party
        self._handler = handler
        self._settle = settle
        self._metrics = metrics
        self._on_dead = on_dead
        self._monotonic = monotonic
        self._sleep = sleep
        self._waiting: Conversations[_Waiting[T]] = Conversations()
        self._unread: list[Delivery[T]] = []
        self._wake = asyncio.Event()
        self._alarm_due_s: float | None = None

    def deliver(self, delivery: Delivery[T]) -> None:
        """Take a delivery from the bus; never blocks. The bus's prefetch bounds how many there are."""
        self._unread.append(delivery)
        self._wake.set()

    async def run(self) -> None:
        """Handle deliveries until cancelled. Errors of the bus's settling end it; the bus then subscribes again."""
        async with Tasks(f"consumer of {self._party}") as timers:
            while True:
                self._wake.clear()
                await self._read()
                waiting = self._waiting.take(self._monotonic())
                for excess in self._waiting.take_excess():
                    reason = "too many earlier messages of this sender wait for a further attempt"
                    await self._give_up(excess.delivery, "too_many_failures", reason)
                if waiting is not None:
                    await self._handle(waiting)
                elif not self._unread:
                    self._arm(timers)
                    await self._wake.wait()

    def _arm(self, timers: Tasks) -> None:
        due_s = self._waiting.next_due_s()
        if due_s is not None and (self._alarm_due_s is None or due_s < self._alarm_due_s):
            self._alarm_due_s = due_s
            timers.spawn(self._alarm(due_s), name="retry")

    async def _alarm(self, due_s: float) -> None:
        await self._sleep(max(0.0, due_s - self._monotonic()))
        self._alarm_due_s = None
        self._wake.set()

    async def _read(self) -> None:
        unread, self._unread = self._unread, []
        for delivery in unread:
            try:
                envelope = open_envelope(delivery.body)
                believe(envelope, verified_user=delivery.user_id, receiver=self._party)
            except MessageError as error:
                await self._give_up(delivery, error.code, error.reason)
            else:
                # A conversation is one sender's: what another one says under its id is not held up by it.
                conversation = (envelope.source, envelope.correlationid)
                pressing = type(envelope.data).GUEST_STANDS_STILL
                waiting = _Waiting(delivery, envelope)
                self._waiting.arrived(conversation, waiting, sender=envelope.source, pressing=pressing)

    async def _handle(self, waiting: _Waiting[T]) -> None:
        envelope = waiting.envelope
        kind = type(envelope.data).__name__
        with port_bound(getattr(envelope.data, "port_id", None)):
            try:
                with self._metrics.handler_seconds.labels(kind).time():
                    await self._handler(envelope)
            except Reject as verdict:
                await self._give_up(waiting.delivery, verdict.code, verdict.reason)
            except DETERMINISTIC as error:
                log.exception("message given up", type=kind)
                await self._give_up(waiting.delivery, "handler_failed", f"{type(error).__name__}: {error}")
            except Exception as error:  # noqa: BLE001  # whatever a handler raises, the consumer goes on
                await self._retry(waiting, kind, error)
                return
            else:
                await self._settle.acknowledge(waiting.delivery.token)
                self._metrics.messages_received_total.labels(kind).inc()
        self._waiting.succeeded()

    async def _retry(self, waiting: _Waiting[T], kind: str, error: Exception) -> None:
        delay_s = self._waiting.failed(self._monotonic(), random.random())  # noqa: S311  # jitter
        if delay_s is None:
            log.error("message given up", type=kind, exc_info=error)
            await self._give_up(waiting.delivery, "handler_failed", f"{type(error).__name__}: {error}")
            self._waiting.succeeded()
            return
        self._metrics.retries_total.labels(kind).inc()
        log.warning("message will be retried", type=kind, delay_s=round(delay_s, 3), exc_info=error)

    async def _give_up(self, delivery: Delivery[T], code: str, reason: str) -> None:
        letter = DeadLetter(code, reason[:MAX_REASON], delivery.body, delivery.user_id, delivery.message_id)
        failures = 0
        while True:
            try:
                await self._settle.bury(delivery.token, letter)
                break
            except BusDown as error:
                # Nothing overtakes it meanwhile: without a bus there is nothing to handle either.
                failures += 1
                log.warning("dead letter not stored yet", code=code, error=str(error))
                await self._sleep(min(5.0, 0.2 * 2 ** min(failures, 6)))
        self._metrics.dead_letters_total.labels(code).inc()
        log.warning("dead letter", code=code, reason=letter.reason, sender=letter.sender, message_id=letter.message_id)
        if self._on_dead is not None:
            try:
                await self._on_dead(letter)
            except Exception:
                log.exception("dead-letter callback failed", code=code)
        await self._settle.acknowledge(delivery.token)
