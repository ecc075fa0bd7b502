"""The steps of ports: what is stored, logged and counted of a decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select
from structlog.testing import capture_logs

from services.broker import ledger, port_steps
from services.broker.metrics import BrokerMetrics
from services.broker.port_steps import Stepper, read_timer, timer_key
from services.broker.rules import Facts, KnownVm, Limits
from services.broker.saga import TABLE, DeadlinePassed, Event, Heard, LanesOpened, SagaBug, SagaState, Timing, WakeUp
from services.broker.tables import lane_jobs, port_events, sla_records
from shared.messages import Message, seal
from shared.messages.approval import DonorApproved
from shared.messages.porting import QuerySwitchover, Side, VmDisconnected, VmProvisioned
from shared.messages.service_change import PortPhase, PortRequested
from shared.parties import Party
from shared.store import Store, Timer, outbox, timers
from shared.testing import ManualClock
from tests.support.broker_ledger import add, load
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    ALPHA_NODE,
    BETA,
    BETA_NODE,
    NOW,
    PORT,
    VM,
    Conversation,
    guest_paused,
    identity,
    request,
    request_switchover,
    transfer_failed,
)

P = PortPhase
FACTS = Facts(
    vm=KnownVm(uuid=VM, name="web", provider="alpha", node="alpha-1", tenant="acme", epoch=1),
    providers=frozenset({"alpha", "beta"}),
)


@dataclass
class Steps:
    """A stepper on a ledger."""

    store: Store
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    woken: int = 0

    def __post_init__(self) -> None:
        self.stepper = Stepper(Timing(), Limits(), BrokerMetrics(self.registry), wake_lanes=self._wake)

    def _wake(self) -> None:
        self.woken += 1

    async def begin(self, asked: PortRequested) -> None:
        """A tenant's request, in a transaction of its own."""
        async with self.store.transaction() as tx:
            envelope = seal(asked, source=ACME, message_id=uuid4(), now=tx.now)
            await self.stepper.begin(tx, envelope, asked, "acme", FACTS)

    async def hear(self, sender: Party, message: Message) -> None:
        """A party's message, in a transaction of its own."""
        envelope = seal(message, source=sender, message_id=uuid4(), now=self.store.clock())
        async with self.store.transaction() as tx:
            stored = await ledger.load(tx, PORT)
            assert stored is not None
            await self.stepper.step(tx, stored, Heard(sender, message), envelope)

    async def happen(self, event: Event) -> None:
        """An event that is no message."""
        async with self.store.transaction() as tx:
            stored = await ledger.load(tx, PORT)
            assert stored is not None
            await self.stepper.step(tx, stored, event, None)

    async def rows(self, statement: Callable[[], object]) -> list[tuple[object, ...]]:
        """What a statement selects."""
        async with self.store.reading() as connection:
            return [tuple(row) for row in await connection.execute(statement())]  # type: ignore[call-overload]  # any select

    async def sent(self) -> list[str]:
        """Recipients of all stored messages."""
        return [str(row[0]) for row in await self.rows(lambda: select(outbox.c.recipient).order_by(outbox.c.id))]

    async def record(self) -> list[tuple[object, ...]]:
        """Type and verdict of each line of the port's record."""
        return await self.rows(lambda: select(port_events.c.type, port_events.c.verdict).order_by(port_events.c.id))

    async def timers(self) -> dict[str, object]:
        """When each timer is due."""
        return {str(key): due for key, due in await self.rows(lambda: select(timers.c.key, timers.c.due_at))}

    def metric(self, name: str, **labels: str) -> float | None:
        """A metric's value."""
        return self.registry.get_sample_value(name, labels)


@pytest.fixture
def steps(store: Store) -> Steps:
    """A stepper on a ledger with one VM and one recipient."""
    return Steps(store)


def saved(upto: str) -> SagaState:
    """A port's state after the good path up to a phase."""
    talk: Conversation = getattr(Conversation.begin(request()), upto)()
    return talk.state


def test_timer_keys() -> None:
    """A timer's key names the port and what is due."""
    for kind in ("deadline", "wake"):
        assert read_timer(Timer(timer_key(PORT, kind), NOW, {})) == (PORT, kind)


class TestBegin:
    """A new request."""

    async def test_accepted(self, steps: Steps) -> None:
        """State, messages, record and deadline are stored together."""
        await steps.begin(request())
        assert (await load(steps.store)).state.phase is P.APPROVAL
        assert await steps.sent() == ["tenant.acme", "donor.alpha"]
        assert await steps.record() == [("PortRequested", "handled")]
        assert list(await steps.timers()) == [timer_key(PORT, "deadline")]

    async def test_refused(self, steps: Steps) -> None:
        """A refused request is a port that has ended; it is counted by its reasons and has no timer."""
        await steps.begin(request("nowhere"))
        assert (await load(steps.store)).state.phase is P.REFUSED
        assert await steps.timers() == {}
        assert steps.metric("vmport_ports_total", outcome="refused") == 1
        assert steps.metric("vmport_refusals_total", code="recipient_unknown") == 1


class TestStep:
    """One step of a port."""

    async def test_deadline_follows_the_phase(self, steps: Steps, clock: ManualClock) -> None:
        """The timer is what the state says, and the time in the old phase is counted."""
        await steps.begin(request())
        await clock.advance(3)
        await steps.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity()))
        state = (await load(steps.store)).state
        assert await steps.timers() == {timer_key(PORT, "deadline"): state.deadline}
        assert steps.metric("vmport_port_phase_duration_seconds_sum", phase="approval") == 3.0

    async def test_timers_end_with_the_port(self, steps: Steps, clock: ManualClock) -> None:
        """A port that has ended waits for nothing."""
        await steps.begin(request())
        await clock.advance(Timing().approval.total_seconds())
        await steps.happen(DeadlinePassed())
        assert (await load(steps.store)).state.phase is P.FAILED
        assert await steps.timers() == {}
        assert await steps.record() == [("PortRequested", "handled"), ("DeadlinePassed", "handled")]

    async def test_rearm(self, steps: Steps) -> None:
        """At a start of the broker the timers are set from the state."""
        state = saved("transferring").with_(wake_at=NOW + timedelta(seconds=5))
        await add(steps.store, state)
        async with steps.store.transaction() as tx:
            await steps.stepper.rearm(tx, state)
        assert await steps.timers() == {
            timer_key(PORT, "deadline"): state.deadline,
            timer_key(PORT, "wake"): state.wake_at,
        }

    async def test_alarm(self, steps: Steps) -> None:
        """An alarm is a line of the record and an error in the log, with the keys that operators search for."""
        await add(steps.store, saved("switching"))
        with capture_logs() as lines:
            await steps.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=True))
        assert ("alarm:runs_at_donor_after_commit", "alarm") in await steps.record()
        (line,) = [line for line in lines if line["event"] == "operator needed"]
        assert (line["log_level"], line["code"]) == ("error", "runs_at_donor_after_commit")
        assert "the donor reports" in line["reason"]

    async def test_lanes_are_opened(self, steps: Steps, clock: ManualClock) -> None:
        """What is to be opened is stored, and the keeper of the lanes is woken after the commit."""
        window = NOW + timedelta(hours=1)
        await add(steps.store, Conversation.begin(request(window_start=window)).fixed().state)
        await clock.advance(3600)
        await steps.happen(WakeUp())
        assert (await load(steps.store)).state.phase is P.PREPARING
        assert steps.woken == 1
        assert await steps.rows(lambda: select(lane_jobs.c.wanted)) == [("open",)]

    async def test_bug_stores_nothing(self, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
        """A step that the table does not allow leaves the port as it was."""
        await add(steps.store, saved("fixed"))
        row = TABLE[P.PREPARING]
        assert row.on_lanes is not None
        monkeypatch.setitem(
            TABLE, P.PREPARING, replace(row, on_lanes=replace(row.on_lanes, do=lambda at: at.go(P.COMPLETED)))
        )
        with pytest.raises(SagaBug):
            await steps.happen(LanesOpened())
        assert (await load(steps.store)).state.phase is P.PREPARING
        assert (await steps.sent(), await steps.record()) == ([], [])

    async def test_long_message_is_recorded_without_its_body(
        self, steps: Steps, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The record holds who said what; very long bodies would only fill the ledger."""
        await steps.begin(request())
        monkeypatch.setattr(port_steps, "LARGEST_RECORDED_BODY", 10)
        await steps.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity()))
        bodies = await steps.rows(lambda: select(port_events.c.body).order_by(port_events.c.id))
        assert [body is None for (body,) in bodies] == [False, True]

    async def test_ownership_query_is_not_recorded(self, steps: Steps) -> None:
        """A waiting node asks every second; only its questions at debug level show it."""
        await add(steps.store, saved("switching"))
        with capture_logs() as lines:
            await steps.hear(ALPHA_NODE, QuerySwitchover(port_id=PORT))
        assert await steps.record() == []
        assert [line["log_level"] for line in lines if line["event"] == "port step"] == ["debug"]

    async def test_repeated_words_before_the_commit_are_not_recorded(self, steps: Steps) -> None:
        """Both nodes repeat themselves every two seconds; the first of each is a line, as is the commit."""
        await add(steps.store, saved("transferring"))
        for _ in range(3):
            await steps.hear(ALPHA_NODE, guest_paused())
        await steps.hear(BETA_NODE, request_switchover())
        for _ in range(3):
            await steps.hear(ALPHA_NODE, guest_paused())
        assert await steps.record() == [("GuestPaused", "handled"), ("RequestSwitchover", "handled")]

    async def test_wrong_party_is_a_warning(self, steps: Steps) -> None:
        """A refused message is logged at warning, with the reason."""
        await steps.begin(request())
        with capture_logs() as lines:
            await steps.hear(BETA, DonorApproved(port_id=PORT, identity=identity()))
        (line,) = [line for line in lines if line["event"] == "port step"]
        assert (line["log_level"], line["sender"], line["phase"]) == ("warning", "recipient.beta", "approval")
        assert line["reason"] == "recipient.beta may not send DonorApproved for this port"

    async def test_completed_port_is_counted(self, steps: Steps) -> None:
        """The end counts the outcome, the downtime, the outage and whether the promises were kept."""
        await add(steps.store, saved("finishing"))
        await steps.hear(BETA, VmProvisioned(port_id=PORT))
        await steps.hear(ALPHA, VmDisconnected(port_id=PORT))
        assert (await load(steps.store)).state.phase is P.COMPLETED
        assert steps.metric("vmport_ports_total", outcome="completed") == 1
        assert steps.metric("vmport_downtime_seconds_sum") == 0.12
        assert steps.metric("vmport_outage_seconds_sum") == 0.15
        assert steps.metric("vmport_promises_total", kept="yes") == 1
        assert await steps.rows(lambda: select(sla_records.c.port_id, sla_records.c.kept)) == [(PORT, True)]
