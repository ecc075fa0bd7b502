"""Requests for approval are answered by the records and by what the node reads of the live VM."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from services.donor_agent.testing import DESCRIPTION, PORT, SUMMARY, VM, make_heartbeat, make_identity
from shared.messages import Message, seal
from shared.messages.approval import ApprovalRequested, DonorApproved, DonorRejected
from shared.messages.costs import EnergyModel
from shared.messages.network import CardNetwork, VmNetwork
from shared.messages.nodes import (
    ClockDiffers,
    DescribeFailed,
    DescribeVm,
    VmDescribed,
)
from shared.messages.porting import (
    PortingFixed,
    StartOutbound,
)
from shared.messages.rules import DemandRefused
from shared.messages.vm import VmState
from shared.parties import BROKER
from tests.support.donor_world import ALPHA, NODE, POLICY, World


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


async def test_a_medium_that_the_tenant_ejects_refuses_nothing(running: World) -> None:
    """Whatever it lies on: it stays here."""
    drive = DESCRIPTION.disks[0].model_copy(
        update={"target": "sda", "device": "cdrom", "read_only": True, "medium_blockers": ("sda is in the network",)}
    )
    vm = DESCRIPTION.model_copy(update={"disks": (drive,), "blockers": ("sda is in the network",)})
    identity = make_identity().model_copy(update={"vm": vm})
    await running.beat()
    await running.say(BROKER, ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=VM, eject=("all",)))
    await running.say(NODE, VmDescribed(port_id=PORT, identity=identity))

    assert running.heard(BROKER, DonorRejected) == []
    assert running.heard(BROKER, DonorApproved)[0].identity == identity
    assert all(asked.port_may_follow for asked in running.heard(NODE, DescribeVm))


async def test_the_approval_says_what_leaving_costs(running: World) -> None:
    """Today's price by the policy, and the energy model of the VM's host; without them they are not stated."""
    await running.to_approved()
    (approved,) = running.heard(BROKER, DonorApproved)
    assert approved.terms is not None
    assert (approved.terms.fee, approved.terms.price_per_month, approved.terms.energy) == (Decimal(0), None, None)
    policy = running.policy_path.read_text()
    running.policy_path.write_text(policy.replace('name = "web-*"', 'name = "web-*", price_per_month = "30.00"'))
    platform = make_heartbeat().platform.model_copy(update={"energy": EnergyModel(joules_per_byte=1e-6)})
    await running.beat(platform=platform)
    await running.say(BROKER, ApprovalRequested(port_id=UUID(int=8), tenant="acme", vm_uuid=VM))
    await running.say(NODE, VmDescribed(port_id=UUID(int=8), identity=make_identity()))
    terms = running.heard(BROKER, DonorApproved)[-1].terms
    assert terms is not None
    assert terms.price_per_month == Decimal("30.00")
    assert terms.energy is not None
    assert terms.energy.model.joules_per_byte == 1e-6


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


async def test_a_forged_identity_is_not_passed_on(running: World) -> None:
    """The XML's digest must be right."""
    await running.beat()
    await running.say(BROKER, ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=VM))
    forged = make_identity().model_copy(update={"domain_xml_sha256": "0" * 64})
    await running.say(NODE, VmDescribed(port_id=PORT, identity=forged))

    assert running.heard(BROKER, DonorApproved) == []
    assert running.dead_codes() == ["invalid_identity"]


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


async def test_a_deadline_survives_a_restart(world: World) -> None:
    """The node is silent while the agent is away; the request is refused when it is back."""
    async with world.agent():
        await world.beat()
        await world.say(BROKER, ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=VM))
    async with world.agent():
        await world.pass_time(20)

    assert world.heard(BROKER, DonorRejected)[0].refusals[0].code == "node_unreachable"


@pytest.mark.parametrize("ahead_s", [600, -600])
async def test_a_wrong_clock_silences_nobody(running: World, ahead_s: int) -> None:
    """The broker's clock is ten minutes from ours, and it has said so: its question is answered in its time."""
    brokers_now = running.clock() - timedelta(seconds=ahead_s)
    await running.beat()
    told = ClockDiffers(reported_at=running.clock(), ahead_s=ahead_s)
    await running.bus.bus(BROKER).publish(ALPHA, seal(told, source=BROKER, message_id=uuid4(), now=brokers_now))
    asked = seal(
        ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=VM),
        source=BROKER,
        message_id=uuid4(),
        now=brokers_now,
        deadline=brokers_now + timedelta(seconds=30),
    )
    await running.bus.bus(BROKER).publish(ALPHA, asked)
    await running.settle()
    assert len(running.heard(NODE, DescribeVm)) == 1


async def test_the_provider_says_how_long_it_helps_and_for_how_much(running: World) -> None:
    """Where its node tells of the VM's addresses; who knows nothing of them helps nobody."""
    known = VmNetwork(cards=(CardNetwork(mac=DESCRIPTION.nics[0].mac),))
    told = make_identity()
    told = told.model_copy(update={"vm": told.vm.model_copy(update={"network": known})})
    await running.beat()
    for identity in (told, make_identity()):
        await running.say(BROKER, ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=VM))
        await running.say(NODE, VmDescribed(port_id=PORT, identity=identity))

    first, second = (approved.identity.vm.network for approved in running.heard(BROKER, DonorApproved))
    assert first is not None
    assert (first.cards, first.ends_after_s, first.price, first.currency) == (known.cards, 30 * 86_400, None, "EUR")
    assert second is None


DEMANDING = 'demands = ["zip_code"]\nminimum_stay_days = 4000\n' + POLICY


async def test_void_refusals_are_not_used_for_the_port(world: World) -> None:
    """Neither when it is asked for again, nor when it starts; the facts are stated with each answer."""
    world.policy_path.write_text(DEMANDING)
    void = ("minimum_stay",)
    async with world.agent():
        await world.beat()
        await world.say(BROKER, ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=VM, told={"zip_code": "1"}))
        (rejected,) = world.heard(BROKER, DonorRejected)
        assert [refusal.code for refusal in rejected.refusals] == ["minimum_stay"]
        assert rejected.facts is not None
        assert rejected.facts.minimum_stay_days == 4000
        refusal = rejected.refusals[0].model_copy(update={"clause": "eu-data-act, Art. 25(2)(d)"})
        await world.say(BROKER, DemandRefused(port_id=PORT, refusals=(refusal,), void=void))
        again = ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=VM, told={"zip_code": "1"}, void=void)
        await world.say(BROKER, again)
        await world.say(NODE, VmDescribed(port_id=PORT, identity=make_identity()))
        (approved,) = world.heard(BROKER, DonorApproved)
        assert approved.facts is not None
        await world.say(BROKER, PortingFixed(port_id=PORT, agreement=world.agreement()))
        await world.say(BROKER, StartOutbound(port_id=PORT, agreement=world.agreement()))
    assert len(world.heard(NODE, StartOutbound)) == 1
    assert world.metrics.demands_refused_total.labels("minimum_stay")._value.get() == 1


async def test_a_demand_of_an_unknown_port_is_only_logged(running: World) -> None:
    """The record of the port may be gone."""
    await running.say(BROKER, DemandRefused(port_id=uuid4(), refusals=(), void=("minimum_stay",)))
    assert running.heard(BROKER, DonorRejected) == []
