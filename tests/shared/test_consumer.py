"""What is done with a delivery, without a bus: believed, handled, retried, given up, acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from uuid import uuid4

from shared.bus import BusDown, DeadLetter, Reject
from shared.consumer import Consumer, Delivery
from shared.messages import AnyEnvelope, Message, seal
from shared.messages.porting import GuestPaused, QuerySwitchover
from shared.messages.queries import ListVms
from shared.metrics import Metrics
from shared.parties import BROKER, Party, node, tenant
from shared.redelivery import MAX_ATTEMPTS, MAX_HELD
from shared.testing import ManualClock, breathe

ACME = tenant("acme")


class Settled:
    """Remembers what the consumer told the bus; ``failing`` burials fail first."""

    def __init__(self, *, failing: int = 0) -> None:
        self.acknowledged: list[str] = []
        self.buried: list[tuple[str, DeadLetter]] = []
        self._failing = failing

    async def acknowledge(self, token: str) -> None:
        self.acknowledged.append(token)

    async def bury(self, token: str, letter: DeadLetter) -> None:
        if self._failing:
            self._failing -= 1
            raise BusDown
        self.buried.append((token, letter))


def delivery(token: str, *, user_id: str | None = "tenant.acme") -> Delivery[str]:
    body = seal(ListVms(), source=ACME, message_id=uuid4(), now=datetime.now(UTC)).to_json()
    return Delivery(body, user_id, None, token)


async def consumed(
    settled: Settled,
    deliveries: list[Delivery[str]],
    handler: Callable[[AnyEnvelope], Awaitable[None]],
    *,
    for_s: float = 0.0,
    on_dead: Callable[[DeadLetter], Awaitable[None]] | None = None,
) -> None:
    """Run a consumer over these on a clock of its own."""
    clock = ManualClock()
    consumer = Consumer(
        party=BROKER,
        handler=handler,
        settle=settled,
        metrics=Metrics(service="t", version="0").bus,
        on_dead=on_dead,
        monotonic=clock.monotonic,
        sleep=clock.sleep,
    )
    running = asyncio.ensure_future(consumer.run())
    for one in deliveries:
        consumer.deliver(one)
    await clock.advance(for_s)
    await breathe()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def nothing(_: AnyEnvelope) -> None:
    """A handler that succeeds."""


async def test_handled_is_acknowledged_in_order() -> None:
    """After the handler returned."""
    settled = Settled()
    await consumed(settled, [delivery("a"), delivery("b")], nothing)
    assert (settled.acknowledged, settled.buried) == (["a", "b"], [])


async def test_a_guest_that_stands_still_goes_before_questions() -> None:
    """Whoever asks only whether the broker could commit waits for it."""
    host = node("alpha", "a1")
    said: list[tuple[str, Message]] = [(f"q{number}", QuerySwitchover(port_id=uuid4())) for number in range(3)]
    said.append(("paused", GuestPaused(port_id=uuid4(), vm_uuid=uuid4(), epoch=2)))
    now = datetime.now(UTC)
    deliveries = [
        Delivery(seal(message, source=host, message_id=uuid4(), now=now).to_json(), str(host), None, token)
        for token, message in said
    ]
    settled = Settled()
    await consumed(settled, deliveries, nothing)
    assert settled.acknowledged == ["paused", "q0", "q1", "q2"]


async def test_unbelieved_is_buried_unseen() -> None:
    """No handler sees a message whose sender is not proven, or that is no message."""

    async def never(_: AnyEnvelope) -> None:
        raise AssertionError

    settled = Settled()
    await consumed(settled, [delivery("a", user_id=None), Delivery(b"?", "tenant.acme", None, "b")], never)
    assert [(token, letter.code) for token, letter in settled.buried] == [
        ("a", "unproven_sender"),
        ("b", "not_an_envelope"),
    ]
    assert settled.acknowledged == ["a", "b"]


async def test_failure_is_retried() -> None:
    """With a delay; the success then counts."""
    attempts = []

    async def second_time(_: AnyEnvelope) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError

    settled = Settled()
    await consumed(settled, [delivery("a")], second_time, for_s=1.0)
    assert (len(attempts), settled.acknowledged, settled.buried) == (2, ["a"], [])


async def test_failure_is_given_up_in_the_end() -> None:
    """It becomes a dead letter with the error as its reason, and the one who asked is told."""
    attempts, told = [], []

    async def broken(_: AnyEnvelope) -> None:
        attempts.append(1)
        raise OSError("oh")

    async def on_dead(letter: DeadLetter) -> None:
        told.append(letter.code)

    settled = Settled()
    await consumed(settled, [delivery("a")], broken, for_s=300.0, on_dead=on_dead)
    assert len(attempts) == MAX_ATTEMPTS
    ((token, letter),) = settled.buried
    assert (token, letter.code, letter.reason, letter.sender) == (
        "a",
        "handler_failed",
        "OSError: oh",
        "tenant.acme",
    )
    assert (told, settled.acknowledged) == (["handler_failed"], ["a"])


async def test_rejected_is_buried_once_there_is_a_place() -> None:
    """While dead letters cannot be stored nothing is acknowledged; then it is."""

    async def reject(_: AnyEnvelope) -> None:
        raise Reject("stale", "too old")

    settled = Settled(failing=2)
    await consumed(settled, [delivery("a")], reject, for_s=10.0)
    assert [(token, letter.code) for token, letter in settled.buried] == [("a", "stale")]
    assert settled.acknowledged == ["a"]


async def test_deterministic_error_is_given_up_at_once() -> None:
    """What a message says makes the handler fail in the same way each time: nothing is held for it."""
    for error in (OverflowError("date value out of range"), ValueError("oh"), TypeError("oh")):
        attempts: list[int] = []

        async def broken(_: AnyEnvelope, error: Exception = error, attempts: list[int] = attempts) -> None:
            attempts.append(1)
            raise error

        settled = Settled()
        await consumed(settled, [delivery("a")], broken)
        assert len(attempts) == 1
        assert [letter.code for _, letter in settled.buried] == ["handler_failed"]
        assert settled.acknowledged == ["a"]


async def test_one_sender_does_not_use_up_the_prefetch() -> None:
    """Of a sender whose messages fail only a few are held, while those of others are handled."""

    async def fails_for_acme(envelope: AnyEnvelope) -> None:
        if envelope.source == str(ACME):
            raise OSError("oh")

    other = seal(ListVms(), source=tenant("globex"), message_id=uuid4(), now=datetime.now(UTC)).to_json()
    bad = [delivery(f"bad{number}") for number in range(40)]
    settled = Settled()
    await consumed(settled, [bad[0], Delivery(other, "tenant.globex", None, "good"), *bad[1:]], fails_for_acme)
    assert "good" in settled.acknowledged
    assert len(settled.buried) == len(bad) - MAX_HELD
    assert {letter.sender for _, letter in settled.buried} == {"tenant.acme"}


async def test_messages_behind_a_failing_one_are_bounded_too() -> None:
    """A conversation that fails does not hold all that its sender says in it."""
    same = uuid4()

    def said(party: Party, token: str) -> Delivery[str]:
        envelope = seal(ListVms(), source=party, message_id=uuid4(), now=datetime.now(UTC), correlation_id=same)
        return Delivery(envelope.to_json(), str(party), None, token)

    async def fails_for_acme(envelope: AnyEnvelope) -> None:
        if envelope.source == str(ACME):
            raise OSError("oh")

    settled = Settled()
    bad = [said(ACME, f"bad{number}") for number in range(40)]
    await consumed(settled, [bad[0], said(tenant("globex"), "good"), *bad[1:]], fails_for_acme)
    assert settled.acknowledged[0] == "good"  # another's message under the same id is not held up
    assert [letter.code for _, letter in settled.buried] == ["too_many_failures"] * (len(bad) - MAX_HELD)
