"""The recipient agent as a whole: on the in-memory bus, over a real SQLite file, with a node and a broker that talk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry

from services.recipient_agent.assessment import Terms
from services.recipient_agent.capacity import GIB, Quota
from services.recipient_agent.metrics import RecipientMetrics
from services.recipient_agent.service import RecipientService
from services.recipient_agent.settings import RecipientSection
from services.recipient_agent.testing import (
    MAC,
    VERSIONS,
    VM_UUID,
    XML,
    make_agreement,
    make_capacity,
    make_heartbeat,
    make_identity,
    make_summary,
    make_terms,
    make_vm,
)
from shared.messages import Message, seal
from shared.messages.nodes import CapacityReported
from shared.messages.porting import (
    AbortTransfer,
    CompletionFailed,
    InboundFinished,
    InboundOpened,
    OpenInbound,
    PortingFixed,
    ProvisionVm,
    QuoteDeclined,
    QuoteOffered,
    QuoteRequested,
    ReleaseReservation,
    ReservationRefused,
    ReservationRequested,
    Reserved,
    ServiceChangeAgreement,
    Side,
    TransferAborted,
    TransferFailed,
    VmProvisioned,
)
from shared.messages.service_change import PortCancelled, PortFailed, PortLimits, PortPhase
from shared.messages.vm import VmSummary
from shared.parties import BROKER, Party, node, recipient
from shared.store import Store
from shared.testing import ManualClock, MemoryBroker

BETA = recipient("beta")
NODE = node("beta", "beta-1")
OTHER = node("beta", "beta-2")
PORT = UUID(int=7)
M = TypeVar("M", bound=Message)


class World:
    """The bus with everybody on it, and one recipient agent that can be restarted."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.bus = MemoryBroker(BROKER, BETA, NODE, OTHER)
        self.folder = folder
        self.terms: Terms = make_terms()
        self.settings = RecipientSection()
        self.metrics = RecipientMetrics(CollectorRegistry())

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[RecipientService]:
        """A running agent over the same file each time."""
        store = Store(f"sqlite:///{self.folder}/recipient.db", BETA, clock=self.clock)
        async with store:
            self.service = RecipientService(store, self.bus.bus(BETA), self.terms, self.settings, self.metrics)
            await self.service.start()
            self.relay, self.timers = self.service.relay, self.service.timers
            inbox = asyncio.get_running_loop().create_task(self.bus.bus(BETA).consume(self.service.handle))
            try:
                yield self.service
            finally:
                inbox.cancel()
                await asyncio.gather(inbox, return_exceptions=True)

    async def settle(self) -> None:
        """Let everything that is due happen."""
        while True:
            await self.bus.wait_idle()
            before = len(self.bus.published)
            await self.relay.flush()
            if len(self.bus.published) == before:
                return

    async def say(
        self, sender: Party, message: Message, *, message_id: UUID | None = None, deadline: datetime | None = None
    ) -> None:
        """Somebody says something to the agent, and it settles."""
        envelope = seal(message, source=sender, message_id=message_id or uuid4(), now=self.clock(), deadline=deadline)
        await self.bus.bus(sender).publish(BETA, envelope)
        await self.settle()

    async def pass_time(self, seconds: float) -> None:
        """Time passes, due timers fire."""
        await self.clock.advance(seconds)
        await self.timers.run_due()
        await self.settle()

    def heard(self, to: Party, kind: type[M]) -> list[M]:
        """What a party was told, of one type."""
        return [e.data for e in self.bus.received(to) if isinstance(e.data, kind)]

    def dead_codes(self) -> list[str]:
        """Why messages to the agent were given up."""
        return [letter.code for letter in self.bus.dead[BETA]]

    async def beat(self, sender: Party = NODE, **changes: Any) -> None:
        """A node says what it is."""
        await self.say(sender, make_heartbeat(at=self.clock(), **changes))

    async def quote(self, port_id: UUID = PORT, tenant: str = "acme", **vm: Any) -> None:
        """The broker asks for a quote."""
        asked = QuoteRequested(
            port_id=port_id,
            tenant=tenant,
            vm=make_vm(**vm),
            versions=VERSIONS,
            limits=PortLimits(),
            answer_by=self.clock() + timedelta(seconds=30),
        )
        await self.say(BROKER, asked)

    async def reserve(self, port_id: UUID = PORT, **changes: Any) -> None:
        """The broker takes up the last quote."""
        facts = {
            "port_id": port_id,
            "tenant": "acme",
            "identity": make_identity(),
            "limits": PortLimits(),
            "quote": self.heard(BROKER, QuoteOffered)[-1].quote,
        }
        await self.say(BROKER, ReservationRequested(**{**facts, **changes}))

    def agreement(self, **changes: Any) -> ServiceChangeAgreement:
        """The agreement about the last reservation."""
        reserved = self.heard(BROKER, Reserved)[-1]
        return make_agreement(reserved, self.heard(BROKER, QuoteOffered)[-1].quote, self.clock(), **changes)

    async def to_reserved(self) -> None:
        """A port that is reserved."""
        await self.beat()
        await self.quote()
        await self.reserve()

    async def to_fixed(self) -> None:
        """A port that is fixed."""
        await self.to_reserved()
        await self.say(BROKER, PortingFixed(port_id=PORT, agreement=self.agreement()))

    async def to_open(self) -> None:
        """A port whose node waits for the VM."""
        await self.to_fixed()
        await self.say(BROKER, OpenInbound(port_id=PORT, agreement=self.agreement()))
        await self.say(NODE, InboundOpened(port_id=PORT))

    def reservations(self) -> float:
        """How many reservations hold capacity, by the metric."""
        return float(self.metrics.reservations_active._value.get())


PROVISION = ProvisionVm(port_id=PORT, vm_uuid=VM_UUID, autostart=True, donor_xml=XML)
ABORT = AbortTransfer(port_id=PORT, side=Side.INBOUND, reason="x")


def arrived(**changes: Any) -> VmSummary:
    """The VM, as it is listed once it is here."""
    facts = {"uuid": VM_UUID, "name": "web-1", "memory_bytes": 512 << 20, "vcpus": 1, "disk_bytes": GIB, "macs": (MAC,)}
    return make_summary(**{**facts, **changes})


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A fresh world."""
    return World(tmp_path)


@pytest.fixture
async def running(world: World) -> AsyncIterator[World]:
    """A world with a running agent."""
    async with world.agent():
        yield world


async def test_the_whole_way_of_a_vm_that_comes(running: World) -> None:
    """Quoted, reserved, fixed, opened, arrived, provisioned: each step told."""
    await running.to_open()
    await running.say(NODE, InboundFinished(port_id=PORT, epoch=2))
    assert running.reservations() == 1
    await running.beat(vms=(arrived(),))
    await running.say(BROKER, PROVISION)
    await running.say(NODE, VmProvisioned(port_id=PORT))

    told = [type(e.data) for e in running.bus.received(BROKER) if not isinstance(e.data, CapacityReported)]
    assert told == [QuoteOffered, Reserved, InboundOpened, InboundFinished, VmProvisioned]
    assert [type(e.data) for e in running.bus.received(NODE)] == [OpenInbound, ProvisionVm]
    assert running.heard(BROKER, VmProvisioned)[0].identity_differences == ()
    assert running.reservations() == 0
    assert running.dead_codes() == []


async def test_answers_stay_in_the_conversation(running: World) -> None:
    """Every relayed message names its cause and keeps the port's correlation."""
    await running.to_open()

    for to in (BROKER, NODE):
        for envelope in running.bus.received(to):
            if not isinstance(envelope.data, CapacityReported):
                assert (envelope.correlationid, envelope.sender) == (PORT, BETA)
                assert envelope.causationid is not None


async def test_a_quote_names_price_promise_and_expiry(running: World) -> None:
    """As the settings say."""
    await running.beat()
    await running.quote()

    (offered,) = running.heard(BROKER, QuoteOffered)
    assert (offered.quote.provider, offered.quote.instance_type) == ("beta", "small")
    assert offered.quote.valid_until == running.clock() + timedelta(seconds=600)
    assert running.metrics.quotes_total.labels("offered")._value.get() == 1


@pytest.mark.parametrize(
    ("vm", "code"),
    [
        ({"cpu_model": "Skylake"}, "cpu_model_unusable"),
        ({"memory_bytes": 20 * GIB}, "memory_short"),
        ({"vcpus": 1000}, "no_instance_type"),
        ({"blockers": ("a vTPM",)}, "vm_blocked"),
        ({"uuid": UUID(int=99)}, "uuid_collision"),
    ],
)
async def test_what_cannot_run_here_is_declined(running: World, vm: dict[str, Any], code: str) -> None:
    """With a refusal per finding, and counted."""
    await running.beat(vms=(make_summary(),))
    await running.quote(**vm)

    (declined,) = running.heard(BROKER, QuoteDeclined)
    assert code in {refusal.code for refusal in declined.refusals}
    assert running.metrics.refusals_total.labels(code)._value.get() == 1
    assert running.heard(BROKER, QuoteOffered) == []


async def test_without_nodes_nothing_is_offered(running: World) -> None:
    """No node was ever heard, or none lately."""
    await running.quote()
    await running.beat()
    await running.pass_time(31)
    await running.quote(UUID(int=8))

    assert [d.refusals[0].code for d in running.heard(BROKER, QuoteDeclined)] == ["no_node", "node_unreachable"]


async def test_a_question_that_came_too_late_is_not_answered(running: World) -> None:
    """The broker has gone on."""
    await running.beat()
    asked = QuoteRequested(
        port_id=PORT,
        tenant="acme",
        vm=make_vm(),
        versions=VERSIONS,
        limits=PortLimits(),
        answer_by=running.clock() - timedelta(seconds=1),
    )
    await running.say(BROKER, asked)

    assert running.heard(BROKER, QuoteOffered) == []


async def test_a_duplicate_message_has_no_second_effect(running: World) -> None:
    """The same message id twice is one request."""
    await running.to_fixed()
    message_id = uuid4()
    for _ in range(2):
        await running.say(BROKER, OpenInbound(port_id=PORT, agreement=running.agreement()), message_id=message_id)

    assert len(running.heard(NODE, OpenInbound)) == 1


async def test_a_reservation_asked_for_again_is_the_same(running: World) -> None:
    """In every phase, the broker gets the XML that was issued."""
    await running.to_reserved()
    await running.reserve()
    await running.say(BROKER, PortingFixed(port_id=PORT, agreement=running.agreement()))
    await running.reserve()

    reserved = running.heard(BROKER, Reserved)
    assert len({each.domain_xml for each in reserved}) == 1
    assert len(reserved) == 3
    assert running.reservations() == 1


async def test_a_fixed_reservation_is_not_changed(running: World) -> None:
    """Another XML for the same port is refused."""
    await running.to_fixed()
    await running.reserve(identity=make_identity(XML.replace("/donor/a.raw", "/donor/b.raw")))

    assert [r.code for r in running.heard(BROKER, ReservationRefused)[0].refusals] == ["port_under_way"]


async def test_a_reservation_needs_a_quote_that_was_made_and_holds(running: World) -> None:
    """Unknown, changed and expired quotes are refused, each by its own code."""
    await running.beat()
    await running.quote()
    quote = running.heard(BROKER, QuoteOffered)[0].quote
    await running.reserve(UUID(int=8))
    await running.reserve(quote=quote.model_copy(update={"price_per_month": quote.price_per_month / 2}))
    await running.pass_time(601)
    await running.beat()
    await running.reserve()

    codes = [[r.code for r in refused.refusals] for refused in running.heard(BROKER, ReservationRefused)]
    assert codes == [["quote_unknown"], ["quote_differs"], ["quote_expired"]]
    assert running.reservations() == 0


async def test_the_xml_is_checked_before_anything_is_held(running: World) -> None:
    """A VM that reaches into this host is refused."""
    await running.beat()
    await running.quote()
    await running.reserve(identity=make_identity(XML.replace("/dev/urandom", "/dev/sda")))

    assert [r.code for r in running.heard(BROKER, ReservationRefused)[0].refusals] == ["foreign_host_path"]
    assert running.reservations() == 0


async def test_the_last_room_is_given_once(running: World) -> None:
    """A reservation takes its room away from later quotes; its own quote it does not disturb; released, it is free."""
    await running.beat(capacity=make_capacity(memory_free_bytes=GIB + GIB // 4))
    await running.quote()
    await running.reserve()
    other: dict[str, Any] = {"uuid": UUID(int=2), "name": "web-2", "nics": ()}
    await running.quote(UUID(int=8), **other)
    await running.quote(PORT)
    await running.say(BROKER, ReleaseReservation(port_id=PORT, reason="not chosen"))
    await running.quote(UUID(int=8), **other)

    assert [r.code for r in running.heard(BROKER, QuoteDeclined)[0].refusals] == ["memory_short"]
    assert [offer.port_id.int for offer in running.heard(BROKER, QuoteOffered)] == [7, 7, 8]


async def test_a_reservation_ends_by_itself(running: World) -> None:
    """Until the porting is fixed it is held for a while only."""
    await running.to_reserved()
    await running.pass_time(299)
    assert running.reservations() == 1
    await running.pass_time(1)
    assert running.reservations() == 0
    await running.say(BROKER, OpenInbound(port_id=PORT, agreement=running.agreement()))

    (failed,) = running.heard(BROKER, TransferFailed)
    assert (failed.code, failed.side, failed.guest_running) == ("not_reserved", Side.INBOUND, False)
    assert "expired" in failed.detail


async def test_a_fixed_reservation_holds_until_long_after_its_deadline(running: World) -> None:
    """An hour for the port, an hour of grace; then, if no node knows of it, it is free."""
    await running.to_fixed()
    await running.pass_time(7199)
    assert running.reservations() == 1
    await running.pass_time(1)
    assert running.reservations() == 0


async def test_a_reservation_that_a_node_still_carries_out_is_not_released_by_a_clock(running: World) -> None:
    """The heartbeat says that the port has a half there."""
    await running.to_open()
    await running.beat(ports=(PORT,))
    await running.pass_time(7200)

    assert running.reservations() == 1


async def test_an_agreement_other_than_reserved_is_not_opened(running: World) -> None:
    """Whatever differs is named, and the node hears nothing."""
    await running.to_reserved()
    other = running.agreement(price_per_month=1)
    await running.say(BROKER, PortingFixed(port_id=PORT, agreement=other))
    await running.say(BROKER, OpenInbound(port_id=PORT, agreement=other))

    (failed,) = running.heard(BROKER, TransferFailed)
    assert failed.code == "agreement_differs"
    assert "price_per_month" in failed.detail
    assert running.heard(NODE, OpenInbound) == []


async def test_a_silent_node_is_not_opened(running: World) -> None:
    """The broker hears it at once instead of waiting."""
    await running.to_fixed()
    await running.pass_time(31)
    await running.say(BROKER, OpenInbound(port_id=PORT, agreement=running.agreement()))

    assert running.heard(BROKER, TransferFailed)[0].code == "node_unreachable"


@pytest.mark.parametrize("opened", [False, True])
async def test_abort_is_answered_in_every_phase(running: World, *, opened: bool) -> None:
    """The node answers once it has been asked to open; before, the agent knows that nothing is there."""
    await (running.to_open() if opened else running.to_fixed())
    await running.say(BROKER, ABORT)
    if opened:
        assert running.heard(BROKER, TransferAborted) == []
        await running.say(NODE, TransferAborted(port_id=PORT, side=Side.INBOUND, guest_running=False))

    assert len(running.heard(NODE, AbortTransfer)) == int(opened)
    assert [aborted.guest_running for aborted in running.heard(BROKER, TransferAborted)] == [False]


async def test_abort_of_a_port_that_nobody_knows_is_answered(running: World) -> None:
    """The broker never waits for nothing."""
    await running.say(BROKER, ABORT)

    assert len(running.heard(BROKER, TransferAborted)) == 1


@pytest.mark.parametrize(
    "end",
    [
        PortFailed(port_id=PORT, phase=PortPhase.TRANSFERRING, code="x", detail="y", vm_runs_at="alpha"),
        PortCancelled(port_id=PORT, phase=PortPhase.TRANSFERRING),
        ReleaseReservation(port_id=PORT, reason="x"),
    ],
)
async def test_an_ended_port_frees_its_room(running: World, end: Message) -> None:
    """And the same VM may come another time."""
    await running.to_open()
    await running.say(BROKER, end)
    assert running.reservations() == 0
    await running.quote(UUID(int=8))

    assert [offer.port_id.int for offer in running.heard(BROKER, QuoteOffered)] == [7, 8]


async def test_a_port_that_failed_after_the_vm_arrived_keeps_its_room(running: World) -> None:
    """The VM runs here, so its room is not free."""
    await running.to_open()
    failed = PortFailed(port_id=PORT, phase=PortPhase.FINISHING, code="x", detail="y", vm_runs_at="beta")
    await running.say(BROKER, failed)

    assert running.reservations() == 1


async def test_a_deadline_is_kept_and_passed_on(running: World) -> None:
    """What comes too late is not acted on; what is relayed is worth nothing after the same instant."""
    await running.to_fixed()
    command = OpenInbound(port_id=PORT, agreement=running.agreement())
    soon = running.clock() + timedelta(seconds=5)
    await running.say(BROKER, command, deadline=running.clock() - timedelta(seconds=1))
    assert running.heard(NODE, OpenInbound) == []
    await running.say(BROKER, command, deadline=soon)

    assert [e.deadline for e in running.bus.received(NODE) if isinstance(e.data, OpenInbound)] == [soon]


@pytest.mark.parametrize("sender", [OTHER, NODE])
async def test_a_node_is_heard_only_about_ports_that_it_holds(running: World, sender: Party) -> None:
    """Another node of the provider, or the right node about a port that nobody reserved, is not believed."""
    await running.to_open()
    port_id = PORT if sender == OTHER else UUID(int=99)
    await running.say(sender, InboundFinished(port_id=port_id, epoch=2))

    assert running.heard(BROKER, InboundFinished) == []
    assert running.dead_codes() == ["wrong_node" if sender == OTHER else "unknown_port"]


async def test_failures_of_the_node_are_passed_on(running: World) -> None:
    """The broker decides what follows."""
    await running.to_open()
    failed = TransferFailed(port_id=PORT, side=Side.INBOUND, code="x", detail="y", guest_running=False)
    unfinished = CompletionFailed(port_id=PORT, side=Side.INBOUND, code="x", detail="y")
    await running.say(NODE, failed)
    await running.say(NODE, unfinished)

    assert running.heard(BROKER, TransferFailed) == [failed]
    assert running.heard(BROKER, CompletionFailed) == [unfinished]


async def test_only_what_was_reserved_is_provisioned(running: World) -> None:
    """Neither before the node was told of it, nor with another identity."""
    await running.to_fixed()
    await running.say(BROKER, PROVISION)
    await running.say(BROKER, OpenInbound(port_id=PORT, agreement=running.agreement()))
    await running.say(BROKER, PROVISION.model_copy(update={"donor_xml": XML.replace("10.0", "9.2")}))

    codes = [failed.code for failed in running.heard(BROKER, CompletionFailed)]
    assert codes == ["not_reserved", "identity_differs"]
    assert running.heard(NODE, ProvisionVm) == []


async def test_a_difference_of_the_final_identity_is_told(running: World) -> None:
    """The node's findings, and what its inventory shows."""
    await running.to_open()
    await running.beat(vms=(arrived(memory_bytes=1),))
    await running.say(BROKER, PROVISION)
    await running.say(NODE, VmProvisioned(port_id=PORT, identity_differences=("cpu changed",)))

    (said,) = running.heard(BROKER, VmProvisioned)
    assert said.identity_differences == ("cpu changed", f"memory_bytes: {512 << 20} became 1")


async def test_a_quota_counts_what_came_and_is_still_here(world: World) -> None:
    """One VM per tenant: a second is refused while the first is here, and welcome when it has left again."""
    world.terms = make_terms(quota_per_tenant=Quota(vms=1))
    other: dict[str, Any] = {"uuid": UUID(int=2), "name": "web-2", "nics": ()}
    async with world.agent():
        await world.to_open()
        await world.beat(vms=(arrived(),))
        await world.say(BROKER, PROVISION)
        await world.say(NODE, VmProvisioned(port_id=PORT))
        await world.quote(UUID(int=8), **other)
        await world.quote(UUID(int=9), tenant="globex", **other)
        await world.clock.advance(1)
        await world.beat(vms=())
        await world.quote(UUID(int=8), **other)

    assert [r.code for r in world.heard(BROKER, QuoteDeclined)[0].refusals] == ["quota_tenant"]
    assert [offer.port_id.int for offer in world.heard(BROKER, QuoteOffered)] == [7, 9, 8]


async def test_capacity_is_reported_when_nodes_come_and_at_intervals(running: World) -> None:
    """Healthy nodes only, after reservations."""
    await running.beat()
    await running.beat()
    await running.beat(OTHER, healthy=False)
    await running.service.report(only_changes=False)
    await running.settle()

    reports = running.heard(BROKER, CapacityReported)
    assert [(report.nodes_healthy, report.nodes) for report in reports] == [(1, 1), (1, 2), (1, 2)]
    assert reports[0].memory_free_bytes == 7 * GIB - (512 << 20)


async def restarted(world: World, *steps: Callable[[], Awaitable[None]]) -> None:
    """Each step in an agent of its own: all that it knows comes from the file."""
    for step in steps:
        async with world.agent():
            await step()


async def test_everything_survives_a_restart(world: World) -> None:
    """A restart between any two messages changes nothing, not even before the first heartbeat."""

    def said(sender: Party, message: Callable[[], Message]) -> Callable[[], Awaitable[None]]:
        return lambda: world.say(sender, message())

    await restarted(
        world,
        world.beat,
        world.quote,
        world.reserve,
        said(BROKER, lambda: PortingFixed(port_id=PORT, agreement=world.agreement())),
        said(BROKER, lambda: OpenInbound(port_id=PORT, agreement=world.agreement())),
        said(NODE, lambda: InboundOpened(port_id=PORT)),
        said(NODE, lambda: InboundFinished(port_id=PORT, epoch=2)),
        said(BROKER, lambda: PROVISION),
        said(NODE, lambda: VmProvisioned(port_id=PORT)),
    )

    told = [type(e.data) for e in world.bus.received(BROKER) if not isinstance(e.data, CapacityReported)]
    assert told == [QuoteOffered, Reserved, InboundOpened, InboundFinished, VmProvisioned]
    assert world.dead_codes() == []


async def test_a_reservation_survives_a_restart_and_still_expires(world: World) -> None:
    """It holds room in the new process, until its own time."""
    async with world.agent():
        await world.to_reserved()
    async with world.agent():
        assert world.reservations() == 1
        await world.pass_time(300)
        assert world.reservations() == 0
