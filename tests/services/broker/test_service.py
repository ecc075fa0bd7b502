"""The broker service on a bus in memory, with a ledger on disk and other parties that play their parts."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.broker import ledger
from services.broker.metrics import BrokerMetrics
from services.broker.port_steps import timer_key
from services.broker.service import BrokerService
from services.broker.tables import port_events, sla_records
from services.broker.tables import ports as ports_table
from shared.bus import BusDown, LaneEnds
from shared.messages import Message, seal
from shared.messages.approval import ApprovalRequested, DonorRejected
from shared.messages.nodes import ClockDiffers
from shared.messages.porting import (
    AbortTransfer,
    DisconnectVm,
    OpenInbound,
    OutboundStarted,
    ProvisionVm,
    QuerySwitchover,
    QuoteDeclined,
    QuoteOffered,
    QuoteRequested,
    ReleaseReservation,
    ReservationRequested,
    Side,
    StartOutbound,
    SwitchoverDenied,
    SwitchoverGranted,
    SwitchoverState,
    VmProvisioned,
)
from shared.messages.queries import ListPorts, ListVms, PortShown, PortsListed, ShowPort, VmsListed
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
    PortRefused,
)
from shared.metrics import Metrics
from shared.parties import BROKER, Party, donor
from shared.store import Store, StoreDown, inbox, timers
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    ALPHA_NODE,
    BETA,
    BETA_NODE,
    GAMMA,
    PORT,
    VM,
    capacity,
    guest_paused,
    inventory,
    quote,
    refusal,
    request,
    request_switchover,
    transfer_failed,
)
from tests.support.broker_world import GLOBEX, World, good_parts, settings


class TestWholePort:
    """From request to end."""

    async def test_completes(self, world: World) -> None:
        """All parties play their parts: the VM changes its provider, and everybody is told."""
        await world.ask_for_port()
        completed = await world.until_told(ACME, PortCompleted)
        await world.until_nothing_is_left()
        assert world.told(ACME) == ["PortAccepted", "PortingFixed", "PortCompleted"]
        assert world.told(ALPHA) == [
            "ApprovalRequested",
            "PortingFixed",
            "StartOutbound",
            "DisconnectVm",
            "PortCompleted",
        ]
        assert world.told(BETA) == [
            "QuoteRequested",
            "ReservationRequested",
            "PortingFixed",
            "OpenInbound",
            "ProvisionVm",
            "PortCompleted",
        ]
        assert world.told(BETA_NODE) == ["SwitchoverGranted"]
        assert completed.correlationid == PORT
        await self._nothing_left(world)
        await world.say(ACME, ListVms())
        answer = (await world.until_told(ACME, VmsListed)).data
        assert isinstance(answer, VmsListed)
        assert [(vm.provider, vm.epoch, vm.port_id) for vm in answer.vms] == [("beta", 2, None)]

    async def test_record_tells_the_story(self, world: World) -> None:
        """Every message of the port is a line with its sender; the message's text is kept beside it."""
        await world.ask_for_port()
        await world.until_told(ACME, PortCompleted)
        await world.say(ACME, ShowPort(port_id=PORT))
        shown = (await world.until_told(ACME, PortShown)).data
        assert isinstance(shown, PortShown)
        assert [f"{event.sender} {event.type}" for event in shown.events][:4] == [
            "tenant.acme PortRequested",
            "donor.alpha DonorApproved",
            "recipient.beta QuoteOffered",
            "recipient.beta Reserved",
        ]
        assert shown.events[-1].phase is PortPhase.COMPLETED
        assert shown.sla is not None
        async with world.store.reading() as connection:
            bodies = [row.body for row in await connection.execute(select(port_events.c.body))]
            assert len((await connection.execute(select(sla_records))).all()) == 1
        assert json.loads(bodies[0] or "{}")["vm_uuid"] == str(VM)

    async def test_best_and_dry_run(self, world: World) -> None:
        """A dry run asks everybody, answers with all offers, and leaves nothing."""
        await world.say(ACME, request("best", dry_run=True))
        planned = (await world.until_told(ACME, PortPlanned)).data
        assert isinstance(planned, PortPlanned)
        assert [offer.provider for offer in planned.quotes] == ["beta", "gamma"]
        await world.until_told(GAMMA, ReleaseReservation)
        await self._nothing_left(world)

    async def test_next_best(self, world: World) -> None:
        """When the best offer declines at the reservation, the next is taken."""
        world.parts[BETA, ReservationRequested] = lambda _: []
        await world.say(ACME, request("best"))
        await world.until_told(BETA, ReservationRequested)
        await world.broker.wait_idle()
        await world.deadline()
        await world.until_told(GAMMA, ReservationRequested)
        await world.until_told(BETA, ReleaseReservation)

    async def test_refused_by_rules(self, world: World) -> None:
        """A request that breaks a rule is refused and recorded; its id cannot be used again for another."""
        await world.ask_for_port(donor="gamma")
        refused = (await world.until_told(ACME, PortRefused)).data
        assert isinstance(refused, PortRefused)
        assert [each.code for each in refused.refusals] == ["wrong_donor"]
        await world.ask_for_port()
        again = (await world.until_told(ACME, PortRefused, times=2)).data
        assert isinstance(again, PortRefused)
        assert again.refusals[0].code == "port_id_taken"
        assert world.metrics.refusals_total.labels("wrong_donor")._value.get() == 1

    @pytest.mark.parametrize(
        ("party", "kind", "answer"),
        [
            (ALPHA, ApprovalRequested, DonorRejected(port_id=PORT, refusals=(refusal("dues_open"),))),
            (BETA, QuoteRequested, QuoteDeclined(port_id=PORT, refusals=(refusal("no_bridge"),))),
        ],
    )
    async def test_refused_by_provider(
        self, world: World, party: Party, kind: type[Message], answer: DonorRejected | QuoteDeclined
    ) -> None:
        """A provider's refusal reaches the tenant as it is."""
        world.script(party, kind, (party, answer))
        await world.ask_for_port()
        refused = (await world.until_told(ACME, PortRefused)).data
        assert isinstance(refused, PortRefused)
        assert (refused.refused_by, refused.refusals) == (str(party), answer.refusals)
        await self._nothing_left(world)

    async def test_failed_transfer(self, world: World) -> None:
        """A failure before the switchover leaves the VM at the donor, and nothing of the port."""
        world.script(ALPHA, StartOutbound, (ALPHA, transfer_failed(Side.OUTBOUND, guest_running=True)))
        await world.ask_for_port()
        failed = (await world.until_told(ACME, PortFailed)).data
        assert isinstance(failed, PortFailed)
        assert (failed.code, failed.vm_runs_at) == ("lane_lost", "alpha")
        await world.until_told(BETA, ReleaseReservation)
        await self._nothing_left(world)
        await world.say(ACME, request(port_id=uuid4()))
        await world.until_told(ACME, PortAccepted, times=2)

    async def test_way_back_after_grant(self, world: World) -> None:
        """A recipient that cannot take the VM after the grant gives it back: epoch 3 is the donor's."""
        world.script(BETA_NODE, SwitchoverGranted, (BETA, transfer_failed(Side.INBOUND, guest_running=False)))
        await world.ask_for_port()
        await world.until_told(ACME, PortFailed)
        owner = (await world.until_told(ALPHA_NODE, SwitchoverState)).data
        assert isinstance(owner, SwitchoverState)
        assert (owner.owner, owner.epoch, owner.committed) == ("alpha", 3, False)
        await world.say(ACME, ListVms())
        answer = (await world.until_told(ACME, VmsListed)).data
        assert isinstance(answer, VmsListed)
        assert [(vm.provider, vm.node, vm.epoch) for vm in answer.vms] == [("alpha", "alpha-1", 3)]

    @staticmethod
    async def _nothing_left(world: World) -> None:
        """No lane, no timer, no outgoing message, no active port."""
        await world.until_nothing_is_left()
        await world.clock.advance(365 * 24 * 3600)
        assert await world.service.timers.run_due() == 0
        async with world.store.reading() as connection:
            assert (await connection.execute(select(ports_table).where(ports_table.c.active))).all() == []


class TestCancel:
    """The tenant takes it back."""

    async def test_during_transfer(self, world: World) -> None:
        """Both sides are stopped, then the port is cancelled; a switchover after that is denied."""
        world.mute(ALPHA, StartOutbound)
        await world.ask_for_port()
        await world.until_told(ALPHA, StartOutbound)
        await world.say(ACME, CancelPort(port_id=PORT))
        await world.until_told(ACME, PortCancelled)
        await world.say(BETA_NODE, request_switchover())
        denied = (await world.until_told(BETA_NODE, SwitchoverDenied)).data
        assert isinstance(denied, SwitchoverDenied)
        assert denied.code == "cancelled"

    async def test_too_late(self, world: World) -> None:
        """After the commit the answer is "too late"."""
        world.mute(BETA_NODE, SwitchoverGranted)
        await world.ask_for_port()
        await world.until_told(BETA_NODE, SwitchoverGranted)
        await world.say(ACME, CancelPort(port_id=PORT))
        refused = (await world.until_told(ACME, CancelRefused)).data
        assert isinstance(refused, CancelRefused)
        assert refused.code == "too_late"
        assert await world.phase() is PortPhase.SWITCHING

    async def test_unknown_and_foreign(self, world: World) -> None:
        """A port that does not exist and somebody else's get the same answer."""
        world.mute(ALPHA, ApprovalRequested)
        await world.ask_for_port()
        await world.until_told(ALPHA, ApprovalRequested)
        answers = []
        for number, port_id in enumerate((PORT, uuid4()), start=1):
            await world.say(GLOBEX, CancelPort(port_id=port_id))
            answer = (await world.until_told(GLOBEX, CancelRefused, times=number)).data
            assert isinstance(answer, CancelRefused)
            answers.append((answer.code, answer.detail))
        assert answers[0] == answers[1]
        assert await world.phase() is PortPhase.APPROVAL


class TestRestart:
    """The broker dies and comes back, in any phase."""

    @pytest.mark.parametrize(
        ("party", "kind"),
        [
            (ALPHA, ApprovalRequested),
            (BETA, QuoteRequested),
            (BETA, ReservationRequested),
            (BETA, OpenInbound),
            (ALPHA, StartOutbound),
            (BETA_NODE, SwitchoverGranted),
            (ALPHA, DisconnectVm),
            (BETA, ProvisionVm),
        ],
    )
    async def test_goes_on(self, world: World, party: Party, kind: type[Message]) -> None:
        """The answer that comes after the restart takes the port on to its completion."""
        answer = world.mute(party, kind)
        await world.ask_for_port()
        asked = await world.until_told(party, kind)
        await world.restart()
        for speaker, message in answer(asked):
            await world.say(speaker, message, cause=asked)
        await world.until_told(ACME, PortCompleted)

    async def test_aborting_goes_on(self, world: World) -> None:
        """An abort that was decided is carried out after a restart, too."""
        world.mute(ALPHA, StartOutbound)
        answer = world.mute(ALPHA, AbortTransfer)
        await world.ask_for_port()
        await world.until_told(ALPHA, StartOutbound)
        await world.say(ACME, CancelPort(port_id=PORT))
        asked = await world.until_told(ALPHA, AbortTransfer)
        await world.restart()
        for speaker, message in answer(asked):
            await world.say(speaker, message, cause=asked)
        await world.until_told(ACME, PortCancelled)

    async def test_deadline_that_passed_meanwhile(self, world: World) -> None:
        """A deadline that passed while the broker was away takes effect when it is back."""
        world.mute(ALPHA, ApprovalRequested)
        await world.ask_for_port()
        await world.until_told(ALPHA, ApprovalRequested)
        await world.stop()
        await world.clock.advance(3600)
        await world.start()
        failed = (await world.until_told(ACME, PortFailed)).data
        assert isinstance(failed, PortFailed)
        assert failed.code == "donor_silent"

    async def test_committed_but_not_published(self, world: World) -> None:
        """A broker that dies between commit and publish says after its return what it had committed to say."""
        await world.stop()
        await world.start(run=False)
        asked = seal(request(), source=ACME, message_id=uuid4(), now=world.clock())
        await world.service.handle(asked)
        assert world.told(ACME) == []
        await world.restart()
        await world.until_told(ACME, PortCompleted)
        assert world.told(ACME).count("PortAccepted") == 1

    async def test_lanes_wanted_before_the_crash(self, world: World) -> None:
        """Lanes that were to be declared when the broker died are declared when it is back."""
        broken = True
        real = world.lanes.open_lanes

        async def failing(ends: LaneEnds) -> None:
            if broken:
                raise BusDown("no relay")
            await real(ends)

        world.lanes.open_lanes = failing  # type: ignore[method-assign]  # the fault of this test
        await world.ask_for_port()
        await world.until_phase(PortPhase.PREPARING)
        await world.restart()
        assert "OpenInbound" not in world.told(BETA)
        broken = False
        world.service.lanes.wake()
        await world.until_told(ACME, PortCompleted)
        await world.until_nothing_is_left()


class TestTimers:
    """A port's timers are what its state says, whatever became of them."""

    @staticmethod
    async def _armed(world: World) -> dict[str, object]:
        async with world.store.reading() as connection:
            return {row.key: row.due_at for row in await connection.execute(select(timers))}

    async def test_timer_that_comes_too_early_is_set_again(self, world: World) -> None:
        """A clock that stepped back, or a timer of an older state: it is taken, ignored, and stands again."""
        world.mute(ALPHA, ApprovalRequested)
        await world.ask_for_port()
        await world.until_told(ALPHA, ApprovalRequested)
        await world.broker.wait_idle()
        deadline = (await world.port()).state.deadline
        key = timer_key(PORT, "deadline")
        for early in (world.clock(), world.clock() - timedelta(hours=1)):
            async with world.store.transaction() as tx:
                await tx.arm(key, early)
            await world.service.timers.run_due()
            assert await self._armed(world) == {key: deadline}
        await world.deadline()
        await world.until_told(ACME, PortFailed)

    async def test_second_broker_leaves_newer_timers_alone(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the first broker decided since the second one looked stands."""
        world.mute(ALPHA, ApprovalRequested)
        await world.ask_for_port()
        asked = await world.until_told(ALPHA, ApprovalRequested)
        await world.broker.wait_idle()
        real = ledger.active_ports

        async def look_then_be_overtaken(connection: AsyncConnection) -> Sequence[UUID]:
            found = await real(connection)
            world.mute(BETA, QuoteRequested)
            for speaker, message in good_parts(PORT)[ALPHA, ApprovalRequested](asked):
                await world.say(speaker, message)
            await world.until_phase(PortPhase.QUOTING)
            return found

        monkeypatch.setattr(ledger, "active_ports", look_then_be_overtaken)
        async with Store(world.url, BROKER, clock=world.clock) as store:
            metrics = BrokerMetrics(Metrics(service="second", version="0").registry)
            second = BrokerService(settings(world.url), store, world.broker.bus(BROKER), world.lanes, metrics)
            await second.start()
        state = (await world.port()).state
        assert state.phase is PortPhase.QUOTING
        assert await self._armed(world) == {timer_key(PORT, "deadline"): state.deadline}


class TestRepetition:
    """Duplicates change nothing."""

    async def test_same_message_twice(self, world: World) -> None:
        """A redelivered message has no second effect."""
        world.mute(ALPHA, ApprovalRequested)
        asked = seal(request(), source=ACME, message_id=uuid4(), now=world.clock())
        for _ in range(3):
            await world.broker.bus(ACME).publish(BROKER, asked)
        await world.until_told(ALPHA, ApprovalRequested)
        await world.until_nothing_is_left()
        assert (world.told(ACME), world.told(ALPHA)) == (["PortAccepted"], ["ApprovalRequested"])

    async def test_same_request_again(self, world: World) -> None:
        """A tenant that repeats its request with a new message is answered again, and nothing is asked twice."""
        world.mute(ALPHA, ApprovalRequested)
        for times in (1, 2):
            await world.ask_for_port()
            await world.until_told(ACME, PortAccepted, times=times)
        assert world.told(ALPHA) == ["ApprovalRequested"]

    async def test_two_ports_of_one_vm(self, world: World) -> None:
        """The second port of a VM is refused while the first is under way."""
        world.mute(ALPHA, ApprovalRequested)
        await world.ask_for_port()
        await world.say(ACME, request(port_id=uuid4()))
        refused = (await world.until_told(ACME, PortRefused)).data
        assert isinstance(refused, PortRefused)
        assert [each.code for each in refused.refusals] == ["port_under_way"]


class TestStrangers:
    """Who may not speak is not heard."""

    async def test_refused_and_recorded(self, world: World) -> None:
        """A party that speaks for another changes nothing, and the record says so."""
        world.mute(ALPHA, ApprovalRequested)
        await world.ask_for_port()
        await world.until_told(ALPHA, ApprovalRequested)
        await world.say(BETA, VmProvisioned(port_id=PORT))
        await world.broker.wait_idle()
        assert await world.phase() is PortPhase.APPROVAL
        async with world.store.reading() as connection:
            rows = (await connection.execute(select(port_events).where(port_events.c.verdict != "handled"))).all()
        assert [(row.sender, row.type, row.verdict) for row in rows] == [("recipient.beta", "VmProvisioned", "refused")]

    async def test_node_of_unknown_port(self, world: World) -> None:
        """A question about a port that nobody knows lies in the dead letters, and the broker goes on."""
        await world.say(BETA_NODE, QuerySwitchover(port_id=uuid4()))
        await world.broker.wait_idle()
        assert [letter.code for letter in world.broker.dead[BROKER]] == ["unknown_port"]

    async def test_questions_are_not_events(self, world: World) -> None:
        """A node may ask who owns the VM as often as it likes without filling the record."""
        world.mute(BETA_NODE, SwitchoverGranted)
        await world.ask_for_port()
        await world.until_told(BETA_NODE, SwitchoverGranted)
        for _ in range(3):
            await world.say(ALPHA_NODE, QuerySwitchover(port_id=PORT))
        await world.until_told(ALPHA_NODE, SwitchoverState, times=3)
        async with world.store.reading() as connection:
            types = [row.type for row in await connection.execute(select(port_events.c.type))]
            marks = [row.sender for row in await connection.execute(select(inbox.c.sender))]
        assert "QuerySwitchover" not in types
        assert "RequestSwitchover" in types
        assert marks.count(str(ALPHA_NODE)) == 1  # GuestPaused

    async def test_grant_passes_a_crowd(self, world: World) -> None:
        """The grant is published although the outbox relay has much to say to others first."""
        world.mute(BETA_NODE, SwitchoverGranted)
        world.parts[ALPHA, StartOutbound] = lambda _: []
        await world.ask_for_port()
        await world.until_told(ALPHA, StartOutbound)
        for _ in range(50):
            await world.say(ACME, ListVms())
        await world.say(ALPHA_NODE, guest_paused())
        await world.say(BETA_NODE, request_switchover())
        await world.until_told(BETA_NODE, SwitchoverGranted)
        assert world.told(ACME).count("VmsListed") < 50
        await world.until_told(ACME, VmsListed, times=50)

    async def test_garbage_from_a_tenant(self, world: World) -> None:
        """A proven tenant is told that its message was given up, and why; an unproven sender is not."""
        world.broker.put_raw(BROKER, b"{}", user_id="tenant.acme", message_id="m1")
        world.broker.put_raw(BROKER, b"{}", user_id=None)
        rejected = (await world.until_told(ACME, MessageRejected)).data
        assert isinstance(rejected, MessageRejected)
        assert (rejected.code, rejected.message_id) == ("not_an_envelope", "m1")
        assert len(world.broker.dead[BROKER]) == 2

    async def test_expired_message(self, world: World) -> None:
        """A request for switchover that nobody waits for any more commits nothing."""
        world.script(ALPHA, StartOutbound, (ALPHA, OutboundStarted(port_id=PORT)), (ALPHA_NODE, guest_paused()))
        await world.ask_for_port()
        await world.until_told(ALPHA_NODE, SwitchoverState)
        old = seal(request_switchover(), source=BETA_NODE, message_id=uuid4(), now=world.clock() - timedelta(minutes=5))
        await world.broker.bus(BETA_NODE).publish(BROKER, old)
        await world.broker.wait_idle()
        assert (await world.port()).state.epoch == 1

    async def test_inventory_conflict_is_counted(self, world: World) -> None:
        """A provider that claims another's VM is counted."""
        await world.clock.advance(5)
        report = seal(inventory(world.clock(), VM), source=donor("beta"), message_id=uuid4(), now=world.clock())
        await world.service.handle(report)
        assert world.metrics.registry_conflicts_total._value.get() == 1

    async def test_bad_requests_of_one_tenant_hold_up_nobody(self, world: World) -> None:
        """More requests for the year 9999 than the bus hands over at once: another tenant is answered at once."""
        for _ in range(40):
            sealed = seal(request(), source=ACME, message_id=uuid4(), now=world.clock())
            body = json.loads(sealed.to_json())
            body["data"]["limits"]["window_start"] = "9999-12-31T23:59:59Z"
            world.broker.put_raw(BROKER, json.dumps(body).encode(), user_id=str(ACME))
        await world.say(GLOBEX, ListVms())
        await world.until_told(GLOBEX, VmsListed)
        await world.broker.wait_idle()
        assert [letter.code for letter in world.broker.dead[BROKER]] == ["invalid_body"] * 40


class TestCompletion:
    """After the switchover only forward."""

    async def test_asked_until_done(self, world: World) -> None:
        """A provisioning that does not answer is asked for again."""
        answer = world.mute(BETA, ProvisionVm)
        await world.ask_for_port()
        await world.until_told(BETA, ProvisionVm)
        await world.broker.wait_idle()
        await world.deadline()
        asked = await world.until_told(BETA, ProvisionVm, times=2)
        for speaker, message in answer(asked):
            await world.say(speaker, message, cause=asked)
        await world.until_told(ACME, PortCompleted)

    async def test_metrics(self, world: World) -> None:
        """The end is counted by outcome, with downtime and outage and whether the promise was kept."""
        await world.ask_for_port()
        await world.until_told(ACME, PortCompleted)
        assert world.metrics.ports_total.labels(PortPhase.COMPLETED)._value.get() == 1
        assert world.metrics.promises_total.labels("yes")._value.get() == 1
        assert world.metrics.downtime_seconds._sum.get() == pytest.approx(0.12)
        assert world.metrics.outage_seconds._sum.get() == pytest.approx(0.15)

    async def test_switchover_is_fast(self, world: World) -> None:
        """From the request for switchover to the grant at the node no poll is waited for."""
        world.mute(BETA_NODE, SwitchoverGranted)
        world.script(ALPHA, StartOutbound, (ALPHA, OutboundStarted(port_id=PORT)), (ALPHA_NODE, guest_paused()))
        await world.ask_for_port()
        await world.until_phase(PortPhase.TRANSFERRING)
        await world.broker.wait_idle()
        started_s = time.perf_counter()
        await world.say(BETA_NODE, request_switchover())
        await world.until_told(BETA_NODE, SwitchoverGranted)
        assert time.perf_counter() - started_s < 1.0

    async def test_store_away_for_a_while(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """A message that finds the ledger locked by somebody else is not lost."""
        failures = iter([StoreDown("x", "away"), StoreDown("x", "away")])
        real = world.service.dispatch

        async def flaky(envelope: object) -> None:
            for failure in failures:
                raise failure
            await real(envelope)  # type: ignore[arg-type]  # passed through

        monkeypatch.setattr(world.service, "dispatch", flaky)
        await world.ask_for_port()
        await world.until_told(ACME, PortCompleted)


class TestClocks:
    """Providers' clocks may be wrong by ten minutes."""

    @pytest.mark.parametrize("ahead_s", [600, -600])
    async def test_a_provider_is_told_that_its_clock_differs(self, world: World, ahead_s: int) -> None:
        """Its reports are taken, and it is told; and once more when its clock is right again."""
        ahead = timedelta(seconds=ahead_s)
        for each in (ahead, ahead, ahead, timedelta(0), timedelta(0), timedelta(0), timedelta(0)):
            now = world.clock() + each
            await world.service.handle(seal(capacity(now), source=BETA, message_id=uuid4(), now=now))
            await world.clock.advance(5)
        told = [each.data for each in world.broker.received(BETA) if isinstance(each.data, ClockDiffers)]
        await world.broker.wait_idle()
        assert {round(each.ahead_s) for each in told} >= {ahead_s, 0}
        assert told[-1].ahead_s == 0

    @pytest.mark.parametrize("ahead_s", [600, -600])
    async def test_an_offer_by_a_wrong_clock_is_taken(self, world: World, ahead_s: int) -> None:
        """It has not expired."""
        now = world.clock() + timedelta(seconds=ahead_s)

        world.mute(BETA, QuoteRequested)
        await world.ask_for_port()
        await world.until_told(BETA, QuoteRequested)
        offer = QuoteOffered(port_id=PORT, quote=quote("beta", valid_until=now + timedelta(minutes=2)))
        await world.service.handle(seal(offer, source=BETA, message_id=uuid4(), now=now))
        asked = (await world.until_told(BETA, ReservationRequested)).data
        assert isinstance(asked, ReservationRequested)

    async def test_a_tenants_question_is_answered_whatever_its_clock(self, world: World) -> None:
        """Who asks once shows nothing of its clock."""
        old = world.clock() - timedelta(minutes=10)
        await world.service.handle(
            seal(ListPorts(), source=ACME, message_id=uuid4(), now=old, deadline=old + timedelta(seconds=10))
        )
        answer = (await world.until_told(ACME, PortsListed)).data
        assert isinstance(answer, PortsListed)
        assert answer.ports == ()
