"""The donor agent as a whole: on the in-memory bus, over a real SQLite file, with a node and a broker that talk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry

from services.donor_agent.metrics import DonorMetrics
from services.donor_agent.policy_file import PolicyFile
from services.donor_agent.service import DonorService
from services.donor_agent.settings import DonorSection
from services.donor_agent.testing import DESCRIPTION, PORT, SUMMARY, VM, make_agreement, make_heartbeat, make_identity
from shared.messages import Message, seal
from shared.messages.approval import ApprovalRequested, DonorApproved, DonorRejected
from shared.messages.nodes import (
    DescribeFailed,
    DescribeVm,
    EraseQuarantine,
    ExpectOutbound,
    InventoryReported,
    VmDescribed,
)
from shared.messages.porting import (
    AbortTransfer,
    CompletionFailed,
    DisconnectVm,
    DisksErased,
    OutboundFinished,
    OutboundStarted,
    PortingFixed,
    ServiceChangeAgreement,
    Side,
    StartOutbound,
    TransferAborted,
    TransferFailed,
    VmDisconnected,
)
from shared.messages.service_change import PortCancelled, PortFailed, PortPhase
from shared.messages.vm import VmState
from shared.parties import BROKER, Party, donor, node
from shared.store import Store
from shared.testing import ManualClock, MemoryBroker

ALPHA = donor("alpha")
NODE = node("alpha", "alpha-1")
OTHER = node("alpha", "alpha-2")
M = TypeVar("M", bound=Message)

POLICY = """
max_concurrent_ports = 2
[accounts.acme]
contract_start = 2024-01-01
vms = [{ name = "web-*" }]
"""


class World:
    """The bus with everybody on it, and one donor agent that can be restarted."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.bus = MemoryBroker(BROKER, ALPHA, NODE, OTHER)
        self.folder = folder
        self.policy_path = folder / "policy.toml"
        self.policy_path.write_text(POLICY)
        self.settings = DonorSection(policy_file=self.policy_path, quarantine_s=100, erase_again_s=50)
        self.metrics = DonorMetrics(CollectorRegistry())

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[DonorService]:
        """A running agent over the same file each time."""
        store = Store(f"sqlite:///{self.folder}/donor.db", ALPHA, clock=self.clock)
        async with store:
            policy = PolicyFile.open(self.policy_path)
            self.service = DonorService(store, self.bus.bus(ALPHA), policy, self.settings, self.metrics)
            await self.service.start()
            self.store = store
            self.relay, self.timers = self.service.relay, self.service.timers
            inbox = asyncio.get_running_loop().create_task(self.bus.bus(ALPHA).consume(self.service.handle))
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
        await self.bus.bus(sender).publish(ALPHA, envelope)
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
        return [letter.code for letter in self.bus.dead[ALPHA]]

    async def beat(self, **changes: object) -> None:
        """The node says what it runs."""
        await self.say(NODE, make_heartbeat(self.clock(), **changes))

    async def to_approved(self, port: UUID = PORT) -> None:
        """A port that is approved."""
        await self.beat()
        await self.say(BROKER, ApprovalRequested(port_id=port, tenant="acme", vm_uuid=VM))
        await self.say(NODE, VmDescribed(port_id=port, identity=make_identity()))

    def agreement(self, **changes: object) -> ServiceChangeAgreement:
        """The agreement about it."""
        return make_agreement(**changes)

    async def to_moving(self) -> None:
        """A port that moves."""
        await self.to_approved()
        await self.say(BROKER, PortingFixed(port_id=PORT, agreement=self.agreement()))
        await self.say(BROKER, StartOutbound(port_id=PORT, agreement=self.agreement()))
        await self.say(NODE, OutboundStarted(port_id=PORT))

    async def to_left(self) -> None:
        """A port whose VM has left."""
        await self.to_moving()
        await self.say(NODE, FINISHED)


FINISHED = OutboundFinished(port_id=PORT, downtime_ms=100, total_ms=1000, memory_bytes=1, disk_bytes=1, wire_bytes=1)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A fresh world."""
    return World(tmp_path)


@pytest.fixture
async def running(world: World) -> AsyncIterator[World]:
    """A world with a running agent."""
    async with world.agent():
        yield world


async def test_the_whole_way_of_a_vm_that_leaves(running: World) -> None:
    """Asked, described, approved, started, left, disconnected, quarantined, erased: each step told."""
    await running.to_left()
    await running.say(BROKER, DisconnectVm(port_id=PORT, vm_uuid=VM))
    await running.say(NODE, VmDisconnected(port_id=PORT, quarantined_disks=("/q/vda",)))
    disconnected_at = running.clock()
    await running.pass_time(99)
    assert running.heard(NODE, EraseQuarantine) == []
    await running.pass_time(1)
    assert running.heard(NODE, EraseQuarantine) == [EraseQuarantine(port_id=PORT)]
    await running.say(NODE, DisksErased(port_id=PORT, erased_bytes=1 << 28))

    told = [type(e.data) for e in running.bus.received(BROKER) if not isinstance(e.data, InventoryReported)]
    assert told == [DonorApproved, OutboundStarted, OutboundFinished, VmDisconnected, DisksErased]
    assert [type(e.data) for e in running.bus.received(NODE)] == [
        DescribeVm,
        ExpectOutbound,
        StartOutbound,
        DisconnectVm,
        EraseQuarantine,
    ]
    (said,) = running.heard(BROKER, VmDisconnected)
    assert said.quarantine_until == disconnected_at + timedelta(seconds=100)
    assert said.quarantined_disks == ("/q/vda",)
    assert running.dead_codes() == []


async def test_answers_stay_in_the_conversation(running: World) -> None:
    """Every relayed message names its cause and keeps the port's correlation."""
    await running.to_moving()

    for to in (BROKER, NODE):
        for envelope in running.bus.received(to):
            if not isinstance(envelope.data, InventoryReported):
                assert envelope.correlationid == PORT
                assert envelope.causationid is not None
                assert envelope.sender == ALPHA


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (ApprovalRequested(port_id=PORT, tenant="globex", vm_uuid=VM), "not_owner"),
        (ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=uuid4()), "unknown_vm"),
    ],
)
async def test_a_refused_request_is_answered_with_its_rule(running: World, asked: ApprovalRequested, code: str) -> None:
    """The node is not even asked, and the refusal is counted."""
    await running.beat()
    await running.say(BROKER, asked)

    (rejected,) = running.heard(BROKER, DonorRejected)
    assert [refusal.code for refusal in rejected.refusals] == [code]
    assert running.heard(NODE, DescribeVm) == []
    assert running.metrics.refusals_total.labels(code)._value.get() == 1


async def test_a_partner_list_is_heeded_when_the_recipient_is_known(world: World) -> None:
    """The tenant hears at once, not when everything is fixed."""
    world.policy_path.write_text('partners = ["gamma"]\n' + POLICY)
    async with world.agent():
        await world.beat()
        await world.say(BROKER, ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=VM, recipient="beta"))

    assert world.heard(BROKER, DonorRejected)[0].refusals[0].code == "partner_not_allowed"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (DescribeFailed(port_id=PORT, code="libvirt_failed", detail="no such domain"), "libvirt_failed"),
        (
            VmDescribed(
                port_id=PORT,
                identity=make_identity().model_copy(
                    update={"vm": DESCRIPTION.model_copy(update={"blockers": ("a vTPM",)})}
                ),
            ),
            "vm_blocked",
        ),
        (
            VmDescribed(
                port_id=PORT,
                identity=make_identity().model_copy(
                    update={"vm": DESCRIPTION.model_copy(update={"state": VmState.PAUSED})}
                ),
            ),
            "vm_not_running",
        ),
    ],
)
async def test_what_the_node_finds_can_refuse(running: World, answer: Message, code: str) -> None:
    """The live VM has the last word."""
    await running.beat()
    await running.say(BROKER, ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=VM))
    await running.say(NODE, answer)

    (rejected,) = running.heard(BROKER, DonorRejected)
    assert [refusal.code for refusal in rejected.refusals] == [code]
    await running.pass_time(60)
    assert len(running.heard(BROKER, DonorRejected)) == 1


async def test_a_node_that_does_not_answer_is_unreachable(running: World) -> None:
    """The request ends at its deadline; what the node says later changes nothing."""
    await running.beat()
    await running.say(BROKER, ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=VM))
    await running.pass_time(19)
    assert running.heard(BROKER, DonorRejected) == []
    await running.pass_time(1)
    await running.say(NODE, VmDescribed(port_id=PORT, identity=make_identity()))

    (rejected,) = running.heard(BROKER, DonorRejected)
    assert [refusal.code for refusal in rejected.refusals] == ["node_unreachable"]
    assert running.heard(BROKER, DonorApproved) == []


async def test_a_silent_node_is_unreachable(running: World) -> None:
    """A VM on a node that was not heard lately is not asked for."""
    await running.beat()
    await running.pass_time(31)
    await running.say(BROKER, ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=VM))

    assert running.heard(BROKER, DonorRejected)[0].refusals[0].code == "node_unreachable"


async def test_a_duplicate_message_has_no_second_effect(running: World) -> None:
    """The same message id twice is one request."""
    await running.beat()
    message_id = uuid4()
    for _ in range(2):
        await running.say(BROKER, ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=VM), message_id=message_id)

    assert len(running.heard(NODE, DescribeVm)) == 1


async def test_a_deadline_is_kept_and_passed_on(running: World) -> None:
    """What comes too late is not acted on; what is relayed is worth nothing after the same instant."""
    await running.to_approved()
    start = StartOutbound(port_id=PORT, agreement=running.agreement())
    soon = running.clock() + timedelta(seconds=5)
    await running.say(BROKER, start, deadline=running.clock() - timedelta(seconds=1))
    assert running.heard(NODE, StartOutbound) == []
    await running.say(BROKER, start, deadline=soon)

    assert [e.deadline for e in running.bus.received(NODE) if isinstance(e.data, StartOutbound)] == [soon]


@pytest.mark.parametrize("sender", [OTHER, NODE])
async def test_a_node_is_heard_only_about_ports_that_it_holds(running: World, sender: Party) -> None:
    """Another node of the provider, or the right node about a port that nobody asked for, is not believed."""
    await running.to_moving()
    port_id = PORT if sender == OTHER else UUID(int=99)
    await running.say(sender, FINISHED.model_copy(update={"port_id": port_id}))

    assert running.heard(BROKER, OutboundFinished) == []
    assert running.dead_codes() == ["wrong_node" if sender == OTHER else "unknown_port"]


async def test_a_forged_identity_is_not_passed_on(running: World) -> None:
    """The XML's digest must be right."""
    await running.beat()
    await running.say(BROKER, ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=VM))
    forged = make_identity().model_copy(update={"domain_xml_sha256": "0" * 64})
    await running.say(NODE, VmDescribed(port_id=PORT, identity=forged))

    assert running.heard(BROKER, DonorApproved) == []
    assert running.dead_codes() == ["invalid_identity"]


async def test_a_port_that_was_never_approved_is_not_started(running: World) -> None:
    """The broker is told so, as a failure of this half, with the guest running."""
    await running.beat()
    await running.say(BROKER, StartOutbound(port_id=PORT, agreement=running.agreement()))

    (failed,) = running.heard(BROKER, TransferFailed)
    assert (failed.side, failed.code, failed.guest_running) == (Side.OUTBOUND, "not_approved", True)
    assert running.heard(NODE, StartOutbound) == []


async def test_an_agreement_other_than_approved_is_not_started(running: World) -> None:
    """Whatever differs is named."""
    await running.to_approved()
    other = running.agreement(tenant="globex")
    await running.say(BROKER, PortingFixed(port_id=PORT, agreement=other))
    await running.say(BROKER, StartOutbound(port_id=PORT, agreement=other))

    (failed,) = running.heard(BROKER, TransferFailed)
    assert failed.code == "agreement_differs"
    assert "tenant" in failed.detail
    assert running.heard(NODE, StartOutbound) == []


async def test_the_policy_of_the_day_of_the_start_counts(world: World) -> None:
    """A legal hold that came between approval and window keeps the VM here."""
    async with world.agent():
        await world.to_approved()
        await world.say(BROKER, PortingFixed(port_id=PORT, agreement=world.agreement()))
    world.policy_path.write_text(POLICY + 'legal_hold = "court order"\n')
    async with world.agent():
        await world.beat()
        await world.say(BROKER, StartOutbound(port_id=PORT, agreement=world.agreement()))

    (failed,) = world.heard(BROKER, TransferFailed)
    assert failed.code == "legal_hold"


async def test_a_vm_that_changed_its_node_is_not_started(running: World) -> None:
    """The agreement names the node."""
    await running.to_approved()
    await running.say(BROKER, PortingFixed(port_id=PORT, agreement=running.agreement()))
    await running.beat(vms=())
    await running.say(OTHER, make_heartbeat(running.clock()))
    await running.say(BROKER, StartOutbound(port_id=PORT, agreement=running.agreement()))

    assert [failed.code for failed in running.heard(BROKER, TransferFailed)] == ["vm_moved"]


async def test_a_port_that_begins_later_is_not_expected_yet(running: World) -> None:
    """Its disk would have changed until then."""
    await running.to_approved()
    later = running.agreement(window_start=running.clock() + timedelta(hours=1))
    await running.say(BROKER, PortingFixed(port_id=PORT, agreement=later))
    assert running.heard(NODE, ExpectOutbound) == []


async def test_only_so_many_ports_at_once(world: World) -> None:
    """Fixed ports count, approvals alone do not."""
    second, third = SUMMARY.model_copy(update={"uuid": UUID(int=2)}), SUMMARY.model_copy(update={"uuid": UUID(int=3)})
    world.policy_path.write_text(POLICY.replace("= 2\n", "= 1\n", 1))
    async with world.agent():
        await world.to_approved()
        await world.beat(vms=(SUMMARY, second, third))
        await world.say(BROKER, ApprovalRequested(port_id=UUID(int=2), tenant="acme", vm_uuid=second.uuid))
        await world.say(BROKER, PortingFixed(port_id=PORT, agreement=world.agreement()))
        await world.say(BROKER, ApprovalRequested(port_id=UUID(int=3), tenant="acme", vm_uuid=third.uuid))
        await world.say(BROKER, ApprovalRequested(port_id=UUID(int=4), tenant="acme", vm_uuid=VM))

    rejected = {r.port_id.int: [refusal.code for refusal in r.refusals] for r in world.heard(BROKER, DonorRejected)}
    assert rejected == {3: ["too_many_ports"], 4: ["port_under_way", "too_many_ports"]}


@pytest.mark.parametrize("started", [False, True])
async def test_abort_is_answered_in_every_phase(running: World, *, started: bool) -> None:
    """The node answers once it has been asked to start; before, the agent knows that nothing was touched."""
    if started:
        await running.to_moving()
    else:
        await running.to_approved()
    await running.say(BROKER, AbortTransfer(port_id=PORT, side=Side.OUTBOUND, reason="cancelled"))
    if started:
        assert running.heard(BROKER, TransferAborted) == []
        await running.say(NODE, TransferAborted(port_id=PORT, side=Side.OUTBOUND, guest_running=True))

    assert len(running.heard(NODE, AbortTransfer)) == int(started)
    (aborted,) = running.heard(BROKER, TransferAborted)
    assert aborted.guest_running


async def test_abort_of_a_port_that_nobody_knows_is_answered(running: World) -> None:
    """The broker never waits for nothing."""
    await running.say(BROKER, AbortTransfer(port_id=PORT, side=Side.OUTBOUND, reason="x"))

    assert len(running.heard(BROKER, TransferAborted)) == 1


@pytest.mark.parametrize(
    "end",
    [
        PortFailed(port_id=PORT, phase=PortPhase.TRANSFERRING, code="x", detail="y", vm_runs_at="alpha"),
        PortCancelled(port_id=PORT, phase=PortPhase.TRANSFERRING),
    ],
)
async def test_an_ended_port_frees_its_place(running: World, end: Message) -> None:
    """The VM may leave another time, and the old port may not start again."""
    await running.to_moving()
    await running.say(BROKER, end)
    await running.say(BROKER, StartOutbound(port_id=PORT, agreement=running.agreement()))
    await running.to_approved(UUID(int=8))

    assert [failed.code for failed in running.heard(BROKER, TransferFailed)] == ["not_approved"]
    assert [approved.port_id.int for approved in running.heard(BROKER, DonorApproved)] == [7, 8]


async def test_failures_of_the_node_are_passed_on(running: World) -> None:
    """The broker decides what follows."""
    await running.to_moving()
    failed = TransferFailed(port_id=PORT, side=Side.OUTBOUND, code="x", detail="y", guest_running=True)
    unfinished = CompletionFailed(port_id=PORT, side=Side.OUTBOUND, code="x", detail="y")
    await running.say(NODE, failed)
    await running.say(NODE, unfinished)

    assert running.heard(BROKER, TransferFailed) == [failed]
    assert running.heard(BROKER, CompletionFailed) == [unfinished]


@pytest.mark.parametrize("vm_uuid", [VM, UUID(int=1)])
async def test_only_a_vm_that_left_by_this_port_is_disconnected(running: World, vm_uuid: UUID) -> None:
    """A VM that is only approved, or another VM, is not touched."""
    if vm_uuid == VM:
        await running.to_approved()
    else:
        await running.to_left()
    await running.say(BROKER, DisconnectVm(port_id=PORT, vm_uuid=vm_uuid))

    assert [failed.code for failed in running.heard(BROKER, CompletionFailed)] == ["not_approved"]
    assert running.heard(NODE, DisconnectVm) == []


async def test_disconnecting_again_is_answered_from_the_record(running: World) -> None:
    """The quarantine's date does not move."""
    await running.to_left()
    await running.say(BROKER, DisconnectVm(port_id=PORT, vm_uuid=VM))
    await running.say(NODE, VmDisconnected(port_id=PORT, quarantined_disks=("/q/vda",)))
    await running.pass_time(10)
    await running.say(BROKER, DisconnectVm(port_id=PORT, vm_uuid=VM))

    first, second = running.heard(BROKER, VmDisconnected)
    assert first == second
    assert len(running.heard(NODE, DisconnectVm)) == 1


async def test_a_node_that_does_not_erase_is_asked_again(running: World) -> None:
    """Until it says that it has."""
    await running.to_left()
    await running.say(BROKER, DisconnectVm(port_id=PORT, vm_uuid=VM))
    await running.say(NODE, VmDisconnected(port_id=PORT, quarantined_disks=("/q/vda",)))
    assert running.metrics.quarantined_bytes._value.get() == 1 << 28
    await running.pass_time(100)
    await running.pass_time(50)
    await running.say(NODE, DisksErased(port_id=PORT, erased_bytes=5))
    await running.pass_time(50)

    assert len(running.heard(NODE, EraseQuarantine)) == 2
    assert len(running.heard(BROKER, DisksErased)) == 1
    assert running.metrics.quarantined_bytes._value.get() == 0


async def test_inventory_is_reported_when_it_changes(running: World) -> None:
    """A new VM at once, the same news not again; a VM that has left is not served here any more."""
    await running.beat()
    await running.beat()
    assert [len(report.vms) for report in running.heard(BROKER, InventoryReported)] == [1]
    await running.to_left()
    await running.beat(vms=(SUMMARY.model_copy(update={"state": VmState.PAUSED}),))

    assert [len(report.vms) for report in running.heard(BROKER, InventoryReported)] == [1, 0]


async def test_a_vm_that_is_still_arriving_is_not_served_here(running: World) -> None:
    """Until it runs it is the other provider's; a VM that was paused before a port came is not mistaken for it."""
    incoming = SUMMARY.model_copy(update={"uuid": UUID(int=2), "name": "web-2", "state": VmState.PAUSED})
    paused = SUMMARY.model_copy(update={"state": VmState.PAUSED})
    arrived = incoming.model_copy(update={"state": VmState.RUNNING})
    await running.beat(vms=(paused,))
    for vms in ((paused, incoming), (paused, arrived)):
        await running.clock.advance(1)
        await running.beat(vms=vms, ports=(UUID(int=99),))

    reported = [[owned.vm.uuid.int for owned in report.vms] for report in running.heard(BROKER, InventoryReported)]
    assert reported == [[VM.int], [2, VM.int]]


async def test_inventory_is_reported_at_intervals_and_when_the_policy_changes(running: World) -> None:
    """The periodic report is sent though nothing changed."""
    await running.beat()
    await running.service.report(only_changes=False)
    await running.service.report(only_changes=True)
    await running.settle()

    assert len(running.heard(BROKER, InventoryReported)) == 2


async def restarted(world: World, *steps: Callable[[], Awaitable[None]]) -> None:
    """Each step in an agent of its own: all that it knows comes from the file."""
    for step in steps:
        async with world.agent():
            await step()


async def test_everything_survives_a_restart(world: World) -> None:
    """A restart between any two messages changes nothing, not even before the first heartbeat."""

    def said(sender: Party, message: Message) -> Callable[[], Awaitable[None]]:
        return lambda: world.say(sender, message)

    await restarted(
        world,
        world.beat,
        said(BROKER, ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=VM)),
        said(NODE, VmDescribed(port_id=PORT, identity=make_identity())),
        said(BROKER, PortingFixed(port_id=PORT, agreement=world.agreement())),
        said(BROKER, StartOutbound(port_id=PORT, agreement=world.agreement())),
        said(NODE, OutboundStarted(port_id=PORT)),
        said(NODE, FINISHED),
        said(BROKER, DisconnectVm(port_id=PORT, vm_uuid=VM)),
        said(NODE, VmDisconnected(port_id=PORT, quarantined_disks=("/q/vda",))),
        lambda: world.pass_time(100),
        said(NODE, DisksErased(port_id=PORT, erased_bytes=1)),
    )

    told = [type(e.data) for e in world.bus.received(BROKER) if not isinstance(e.data, InventoryReported)]
    assert told == [DonorApproved, OutboundStarted, OutboundFinished, VmDisconnected, DisksErased]
    assert world.dead_codes() == []


async def test_a_deadline_survives_a_restart(world: World) -> None:
    """The node is silent while the agent is away; the request is refused when it is back."""
    async with world.agent():
        await world.beat()
        await world.say(BROKER, ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=VM))
    async with world.agent():
        await world.pass_time(20)

    assert world.heard(BROKER, DonorRejected)[0].refusals[0].code == "node_unreachable"
