"""A tenant's conversation with the broker: every call ends, with an answer or with the reason why not."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest

from shared.bus import BusDown
from shared.client.errors import (
    CancelNotPossible,
    NoAnswer,
    NotFixedInTime,
    NotUnderstood,
    PortEndedOtherwise,
    PortNotAllowed,
    QuestionFailed,
)
from shared.client.sdk import MAX_WAITING_EVENTS, SHOW_VM_S, TenantClient
from shared.messages import AnyEnvelope, Message, Refusal
from shared.messages.porting import PortingFixed
from shared.messages.queries import PortShown
from shared.messages.service_change import (
    CancelPort,
    CancelRefused,
    MessageRejected,
    PortAccepted,
    PortCancelled,
    PortCompleted,
    PortFailed,
    PortPhase,
    PortPlanned,
    PortProgressed,
    PortRefused,
    PortRequested,
    SlaRecord,
    StreamProgress,
    TransferPhase,
)
from tests.support.scripted_broker import DETAILS, WEB, ScriptedBroker, agreement_of

PORT = UUID(int=1)
OTHER_PORT = UUID(int=2)
VM = UUID(int=3)
REQUEST = PortRequested(port_id=PORT, vm_uuid=VM, donor="alpha", recipient="beta")
DRY = REQUEST.model_copy(update={"dry_run": True})
REFUSAL = Refusal(code="dues_open", rule="no open invoices", evidence="invoice 7 of 12.50 EUR")
SLA = SlaRecord(
    promised_total_s=60,
    measured_total_s=42,
    promised_downtime_ms=500,
    measured_downtime_ms=120,
    price_per_month="12.50",
    currency="EUR",
    kept=True,
)
COMPLETED = PortCompleted(port_id=PORT, recipient="beta", epoch=2, sla=SLA, memory_bytes=1, disk_bytes=2, wire_bytes=3)


def progress(percent: int, port_id: UUID = PORT) -> PortProgressed:
    return PortProgressed(
        port_id=port_id,
        phase=TransferPhase.MEMORY,
        percent=percent,
        memory=StreamProgress(),
        disk=StreamProgress(),
        rate_bytes_per_s=1,
    )


def answering(*messages: Message) -> Callable[[ScriptedBroker, AnyEnvelope], None]:
    """A broker that says these when it hears a command."""

    def script(broker: ScriptedBroker, command: AnyEnvelope) -> None:
        for message in messages:
            broker.say(message, cause=command)

    return script


async def test_questions(broker: ScriptedBroker) -> None:
    """Each question is answered by its own answer, also when several are under way."""
    async with TenantClient(broker) as client:
        assert [vm.name for vm in await client.vms()] == ["web", "shop"]
        assert [provider.name for provider in await client.providers()] == ["beta"]
        assert await client.ports() == ()
        shown = await client.vm(WEB.uuid)
        assert (shown.vm, shown.details) == (WEB, DETAILS)
    assert broker.closed


async def test_a_vm_may_take_its_provider_seconds(broker: ScriptedBroker) -> None:
    """The question is worth as long as the broker waits for the provider, whatever the time limit for others is."""
    async with TenantClient(broker, timeout_s=0.01) as client:
        await client.vm(WEB.uuid)
    (asked,) = broker.heard
    assert asked.deadline is not None
    assert (asked.deadline - asked.time).total_seconds() == SHOW_VM_S


async def test_question_about_nothing(broker: ScriptedBroker) -> None:
    """What is not there is said by the broker, with its code."""
    async with TenantClient(broker) as client:
        with pytest.raises(QuestionFailed, match="there is no port") as caught:
            await client.port(PORT)
    assert caught.value.code == "not_found"


async def test_silent_broker(broker: ScriptedBroker) -> None:
    """A broker that does not answer does not hold anybody up."""
    broker.silent = True
    async with TenantClient(broker, timeout_s=0.01) as client:
        with pytest.raises(NoAnswer, match="ListVms"):
            await client.vms()
        with pytest.raises(NoAnswer, match="vmport port show"):
            await client.create_port(REQUEST)


async def test_bus_down(broker: ScriptedBroker) -> None:
    """A bus that cannot be reached ends the attempt at once, and is left."""
    broker.down = True
    with pytest.raises(BusDown):
        async with TenantClient(broker, timeout_s=0.05):
            raise AssertionError("there was no bus to talk over")
    assert broker.closed


async def test_port_accepted(broker: ScriptedBroker) -> None:
    """A port is created when the broker has recorded it; events of other ports settle nothing."""
    broker.on_command = answering(progress(5, OTHER_PORT), PortAccepted(port_id=OTHER_PORT), PortAccepted(port_id=PORT))
    async with TenantClient(broker) as client:
        assert (await client.create_port(REQUEST)).port_id == PORT
    assert broker.heard[-1].data == REQUEST
    assert broker.heard[-1].source == "tenant.acme"


async def test_port_refused(broker: ScriptedBroker) -> None:
    """A refusal names who refuses, and each rule with its evidence."""
    broker.on_command = answering(PortRefused(port_id=PORT, refused_by="broker", refusals=(REFUSAL,)))
    async with TenantClient(broker) as client:
        with pytest.raises(PortNotAllowed, match=r"broker refuses.*dues_open.*invoice 7") as caught:
            await client.create_port(REQUEST)
    assert caught.value.refusals == (REFUSAL,)


async def test_message_rejected(broker: ScriptedBroker) -> None:
    """When the broker could not read a message, the tenant hears why instead of waiting."""

    def reject(to: ScriptedBroker, command: AnyEnvelope) -> None:
        to.say(MessageRejected(code="unknown_version", reason="version 9", message_id=str(command.id)))

    broker.on_command = reject
    async with TenantClient(broker) as client:
        with pytest.raises(NotUnderstood, match="version 9"):
            await client.create_port(REQUEST)


async def test_plan(broker: ScriptedBroker) -> None:
    """A dry run ends with its plan, or with why there is none."""
    async with TenantClient(broker) as client:
        broker.on_command = answering(PortAccepted(port_id=PORT), PortPlanned(port_id=PORT, quotes=(), declined={}))
        assert (await client.plan(DRY)).quotes == ()
        broker.on_command = answering(
            PortFailed(port_id=PORT, phase=PortPhase.APPROVAL, code="no_answer", detail="silent", vm_runs_at="alpha")
        )
        with pytest.raises(PortEndedOtherwise, match="silent"):
            await client.plan(DRY)


async def test_dry_run_is_not_mistaken(broker: ScriptedBroker) -> None:
    """A plan needs a dry run and a port must not be one: the wrong call is found before anything is sent."""
    async with TenantClient(broker) as client:
        with pytest.raises(ValueError, match="plan"):
            await client.create_port(DRY)
        with pytest.raises(ValueError, match="create_port"):
            await client.plan(REQUEST)
    assert broker.heard == []


async def test_cancel(broker: ScriptedBroker) -> None:
    """A cancel returns when the port is undone; too late is said as such."""
    async with TenantClient(broker) as client:
        broker.on_command = answering(PortCancelled(port_id=PORT, phase=PortPhase.TRANSFERRING))
        assert (await client.cancel(PORT, reason="changed my mind")).phase is PortPhase.TRANSFERRING
        assert broker.heard[-1].data == CancelPort(port_id=PORT, reason="changed my mind")
        broker.on_command = answering(CancelRefused(port_id=PORT, code="too_late", detail="it runs at beta"))
        with pytest.raises(CancelNotPossible, match="it runs at beta") as caught:
            await client.cancel(PORT)
        assert caught.value.code == "too_late"
        broker.on_command = answering(COMPLETED)
        with pytest.raises(PortEndedOtherwise):
            await client.cancel(PORT)


async def watched(client: TenantClient, **options: float) -> list[Message]:
    return [envelope.data async for envelope in client.watch(PORT, **options)]


async def test_watch_until_the_end(broker: ScriptedBroker, record: Callable[..., PortShown]) -> None:
    """A watcher gets the record first, then each event, and stops at the end."""
    broker.ports[PORT] = record(PORT)
    events: list[Message] = [progress(10), progress(90), COMPLETED]
    async with TenantClient(broker) as client:
        seen = []
        async for envelope in client.watch(PORT):
            if isinstance(envelope.data, PortShown):
                for event in events:
                    broker.say(event)
            seen.append(envelope.data)
    assert seen == [broker.ports[PORT], *events]


async def test_watch_of_an_ended_port(broker: ScriptedBroker, record: Callable[..., PortShown]) -> None:
    """A port that ended before anybody looked is shown once."""
    broker.ports[PORT] = record(PORT, PortPhase.FAILED, failure="no route")
    async with TenantClient(broker) as client:
        assert await watched(client) == [broker.ports[PORT]]


async def test_watch_finds_what_it_missed(broker: ScriptedBroker, record: Callable[..., PortShown]) -> None:
    """Events lost while the bus was away are made up for by the record, which is shown only when it changed."""
    broker.ports[PORT] = record(PORT, PortPhase.TRANSFERRING)
    async with TenantClient(broker) as client:
        seen: list[Message] = []
        async for envelope in client.watch(PORT, poll_s=0.001, poll_max_s=0.002):
            seen.append(envelope.data)
            asked = len(broker.heard)
            assert asked < 100
            broker.ports[PORT] = record(PORT, PortPhase.COMPLETED, sla=SLA)
    assert [data.summary.phase for data in seen if isinstance(data, PortShown)] == ["transferring", "completed"]


async def test_watch_gives_up(broker: ScriptedBroker, record: Callable[..., PortShown]) -> None:
    """A watcher whom nobody answers is told that the port goes on, instead of hanging."""
    broker.ports[PORT] = record(PORT, PortPhase.TRANSFERRING)
    async with TenantClient(broker, timeout_s=0.5) as client:
        watching = client.watch(PORT, poll_s=0.001, give_up_s=0.02)
        await anext(watching)
        broker.silent = True
        with pytest.raises(NoAnswer, match="goes on"):
            await anext(watching)


async def test_watch_of_an_unknown_port(broker: ScriptedBroker) -> None:
    """There is nothing to wait for."""
    async with TenantClient(broker) as client:
        with pytest.raises(QuestionFailed):
            await watched(client)


async def test_slow_watcher_keeps_the_end(broker: ScriptedBroker, record: Callable[..., PortShown]) -> None:
    """Who reads slower than the port speaks loses old progress and never the end."""
    broker.ports[PORT] = record(PORT)
    async with TenantClient(broker) as client:
        seen = []
        async for envelope in client.watch(PORT):
            if isinstance(envelope.data, PortShown):
                await client._receive(envelope)  # an answer that nobody waits for any more is dropped
                for count in range(MAX_WAITING_EVENTS + 50):
                    await client._receive(envelope.model_copy(update={"data": progress(count % 100)}))
                await client._receive(envelope.model_copy(update={"data": COMPLETED}))
            seen.append(envelope.data)
    assert len(seen) == MAX_WAITING_EVENTS + 1
    assert seen[-1] == COMPLETED


async def test_wait_fixed_by_an_event(broker: ScriptedBroker, record: Callable[..., PortShown]) -> None:
    """Events on the way to the agreement are passed over; the agreement is returned."""
    broker.ports[PORT] = record(PORT, PortPhase.QUOTING)
    agreement = agreement_of(PORT)
    broker.after_record = (
        lambda port: PortAccepted(port_id=port),
        lambda port: PortingFixed(port_id=port, agreement=agreement),
    )
    async with TenantClient(broker) as client:
        assert await client.wait_fixed(PORT) == agreement


async def test_wait_fixed_by_the_record(broker: ScriptedBroker, record: Callable[..., PortShown]) -> None:
    """A port that was fixed before anybody waited is fixed, also when it is complete by now."""
    for phase in (PortPhase.SCHEDULED, PortPhase.TRANSFERRING, PortPhase.COMPLETED):
        broker.ports[PORT] = record(PORT, phase, agreement=agreement_of(PORT))
        async with TenantClient(broker) as client:
            assert await client.wait_fixed(PORT) == agreement_of(PORT)


async def test_wait_fixed_of_a_port_that_ended(broker: ScriptedBroker, record: Callable[..., PortShown]) -> None:
    """Whatever ended the port is raised, from its record as from its events."""
    refused = record(PORT, PortPhase.REFUSED, refusals=(REFUSAL,))
    async with TenantClient(broker) as client:
        broker.ports[PORT] = refused
        with pytest.raises(PortNotAllowed, match="dues_open"):
            await client.wait_fixed(PORT)
        for phase in (PortPhase.FAILED, PortPhase.CANCELLED, PortPhase.PLANNED):
            broker.ports[PORT] = record(PORT, phase, failure="no route")
            with pytest.raises(PortEndedOtherwise, match="no route") as caught:
                await client.wait_fixed(PORT)
            assert caught.value.phase is phase
        broker.ports[PORT] = record(PORT)
        broker.after_record = (lambda port: PortPlanned(port_id=port, quotes=(), declined={}),)
        with pytest.raises(PortEndedOtherwise, match="dry run"):
            await client.wait_fixed(PORT)


async def test_wait_fixed_is_bounded(broker: ScriptedBroker, record: Callable[..., PortShown]) -> None:
    """After the limit the port goes on; the error has its id."""
    broker.ports[PORT] = record(PORT)
    async with TenantClient(broker) as client:
        with pytest.raises(NotFixedInTime, match="it goes on") as caught:
            await client.wait_fixed(PORT, timeout_s=0.02)
    assert caught.value.port_id == PORT


async def test_cancel_twice(broker: ScriptedBroker, record: Callable[..., PortShown]) -> None:
    """Cancelling a cancelled port succeeds; a port that ended otherwise is not cancelled by it."""
    broker.on_command = answering(CancelRefused(port_id=PORT, code="already_ended", detail="the port is over"))
    async with TenantClient(broker) as client:
        broker.ports[PORT] = record(PORT, PortPhase.CANCELLED)
        assert await client.cancel(PORT) == PortCancelled(port_id=PORT, phase=PortPhase.CANCELLED)
        broker.ports[PORT] = record(PORT, PortPhase.FAILED)
        with pytest.raises(CancelNotPossible, match="over"):
            await client.cancel(PORT)
