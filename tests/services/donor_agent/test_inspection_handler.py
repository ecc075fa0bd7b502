"""A tenant's question about its VM is answered by the records and by what the node reads; nothing is approved by it."""

from __future__ import annotations

from datetime import date
from uuid import UUID, uuid4

import pytest

from services.donor_agent import records
from services.donor_agent.inspection import details_of
from services.donor_agent.port_record import Phase
from services.donor_agent.testing import DESCRIPTION, PORT, VM, make_identity
from shared.messages.approval import ApprovalRequested, DonorApproved, InspectVm, VmInspected
from shared.messages.nodes import DescribeFailed, DescribeVm, VmDescribed
from shared.messages.vm import VmState
from shared.parties import BROKER
from tests.support.donor_world import NODE, OTHER, POLICY, World

INQUIRY = UUID(int=77)
QUESTION = InspectVm(inquiry_id=INQUIRY, tenant="acme", vm_uuid=VM)
DESCRIBED = VmDescribed(port_id=INQUIRY, identity=make_identity())


def answer(world: World) -> VmInspected:
    """The only answer."""
    (found,) = world.heard(BROKER, VmInspected)
    return found


def codes(world: World) -> list[str]:
    return [refusal.code for refusal in answer(world).refusals]


async def test_the_node_reads_the_vm(running: World) -> None:
    """The tenant's view of it is the answer; no approval is given."""
    await running.beat()
    await running.say(BROKER, QUESTION)
    assert [(asked.vm_uuid, asked.port_may_follow) for asked in running.heard(NODE, DescribeVm)] == [(VM, False)]
    await running.say(NODE, DESCRIBED)
    answered = answer(running)
    assert answered.facts is not None
    assert answered.facts.contract_start == date(2024, 1, 1)
    told = VmInspected(inquiry_id=INQUIRY, tenant="acme", vm=details_of(DESCRIPTION), facts=answered.facts)
    assert answered == told
    assert running.heard(BROKER, DonorApproved) == []
    await running.pass_time(60)
    await running.say(NODE, DESCRIBED)
    assert len(running.heard(BROKER, VmInspected)) == 1
    async with running.store.transaction() as tx:
        kept = await records.load_port(tx, INQUIRY)
    assert kept is not None
    assert (kept.phase, kept.identity) == (Phase.INSPECTED, None)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (QUESTION.model_copy(update={"tenant": "globex"}), "not_owner"),
        (QUESTION.model_copy(update={"vm_uuid": uuid4()}), "unknown_vm"),
    ],
)
async def test_who_does_not_own_it_learns_nothing(running: World, asked: InspectVm, code: str) -> None:
    """The node is not asked, and only that one reason is told."""
    await running.beat()
    await running.say(BROKER, asked)
    assert (answer(running).vm, answer(running).facts, codes(running)) == (None, None, [code])
    assert running.heard(NODE, DescribeVm) == []


async def test_what_the_records_say_hides_nothing(world: World) -> None:
    """A tenant with an open invoice sees its VM, and the invoice."""
    dues = 'dues = [{ invoice = "7", amount = "12.50", currency = "EUR", due = 2025-01-01 }]\n'
    world.policy_path.write_text(POLICY.replace("contract_start", dues + "contract_start"))
    blocked = DESCRIPTION.model_copy(update={"blockers": ("hostdev: a GPU",), "state": VmState.PAUSED})
    async with world.agent():
        await world.beat()
        await world.say(BROKER, QUESTION)
        await world.say(NODE, VmDescribed(port_id=INQUIRY, identity=make_identity().model_copy(update={"vm": blocked})))
    assert codes(world) == ["dues_open", "vm_not_running", "vm_blocked"]
    assert answer(world).vm == details_of(blocked)


async def test_a_node_that_is_away(running: World) -> None:
    """It is not asked; the answer comes at once."""
    await running.beat()
    await running.pass_time(31)
    await running.say(BROKER, QUESTION)
    assert (answer(running).vm, codes(running)) == (None, ["node_unreachable"])


async def test_a_node_that_does_not_answer(world: World) -> None:
    """The deadline holds, also over a restart; what comes later is not said."""
    async with world.agent():
        await world.beat()
        await world.say(BROKER, QUESTION)
    async with world.agent():
        await world.pass_time(20)
        await world.say(NODE, DESCRIBED)
    assert (answer(world).vm, codes(world)) == (None, ["node_unreachable"])


async def test_a_vm_that_cannot_be_read(running: World) -> None:
    """The node says why; a second word changes nothing."""
    failed = DescribeFailed(port_id=INQUIRY, code="domain_xml", detail="no machine type")
    await running.beat()
    await running.say(BROKER, QUESTION)
    await running.say(NODE, failed)
    await running.say(NODE, failed)
    assert codes(running) == ["domain_xml"]
    assert answer(running).refusals[0].evidence == "no machine type"


async def test_a_vm_that_moves_is_not_disturbed(running: World) -> None:
    """Its node is not asked; what was approved is told, and that a port is under way."""
    await running.to_moving()
    before = len(running.heard(NODE, DescribeVm))
    await running.say(BROKER, QUESTION)
    assert len(running.heard(NODE, DescribeVm)) == before
    assert (answer(running).vm, codes(running)) == (details_of(DESCRIPTION), ["port_under_way"])


async def test_only_the_asked_node_is_believed_about_the_asked_vm(running: World) -> None:
    """Anything else becomes a dead letter, and the deadline goes on."""
    await running.beat()
    await running.say(BROKER, QUESTION)
    await running.say(OTHER, DESCRIBED)
    other = DESCRIPTION.model_copy(update={"uuid": uuid4()})
    await running.say(NODE, VmDescribed(port_id=INQUIRY, identity=make_identity().model_copy(update={"vm": other})))
    assert running.dead_codes() == ["wrong_node", "invalid_identity"]
    assert running.heard(BROKER, VmInspected) == []


async def test_an_inquiry_and_a_port_never_share_a_record(running: World) -> None:
    """Whichever was first stays what it is."""
    await running.to_approved()
    await running.say(BROKER, InspectVm(inquiry_id=PORT, tenant="acme", vm_uuid=VM))
    await running.say(BROKER, QUESTION)
    await running.say(BROKER, ApprovalRequested(port_id=INQUIRY, tenant="acme", vm_uuid=VM))
    assert running.dead_codes() == ["inquiry_id_taken", "port_under_way"]


async def test_records_of_inquiries_are_forgotten(running: World) -> None:
    """As those of ports that are over."""
    await running.beat()
    await running.say(BROKER, QUESTION)
    await running.say(NODE, DESCRIBED)
    async with running.store.transaction() as tx:
        await records.forget_ended(tx, running.clock())
        assert await records.load_port(tx, INQUIRY) is not None
    await running.pass_time(1)
    async with running.store.transaction() as tx:
        await records.forget_ended(tx, running.clock())
        assert await records.load_port(tx, INQUIRY) is None
