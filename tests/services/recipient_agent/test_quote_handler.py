"""An offer, or every reason why there is none."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.recipient_agent.capacity import GIB
from services.recipient_agent.prefix_files import PrefixFiles, PrefixSection
from services.recipient_agent.testing import (
    MAC,
    VERSIONS,
    XML,
    describe_as_donor,
    make_capacity,
    make_identity,
    make_platform,
    make_summary,
    make_vm,
)
from shared.messages import seal
from shared.messages.base import Refusal
from shared.messages.costs import EnergyModel
from shared.messages.network import (
    CardAddress,
    CardNetwork,
    NetworkMode,
    NetworkTerms,
    NodeNetwork,
    VmNetwork,
    WantedMode,
)
from shared.messages.nodes import CheckVm, ClockDiffers, VmChecked
from shared.messages.porting import (
    QuoteDeclined,
    QuoteOffered,
    QuoteRequested,
    ReservationRefused,
    Reserved,
)
from shared.messages.quote_lines import Part
from shared.messages.service_change import PortLimits
from shared.messages.vm import CpuFacts, CpuMode
from shared.parties import BROKER
from tests.support.recipient_world import BETA, NODE, OTHER, PORT, World


async def test_a_quote_names_price_promise_and_expiry(running: World) -> None:
    """As the settings say."""
    await running.beat()
    await running.quote()

    (offered,) = running.heard(BROKER, QuoteOffered)
    assert (offered.quote.provider, offered.quote.instance_type) == ("beta", "small")
    assert offered.quote.valid_until == running.clock() + timedelta(seconds=600)
    assert offered.quote.joining is None
    assert running.metrics.quotes_total.labels("offered")._value.get() == 1


async def test_a_quote_states_the_energy_of_its_host(running: World) -> None:
    """Of the node on which the VM would run; the reservation takes the quote up as it was."""
    platform = make_platform().model_copy(update={"energy": EnergyModel(joules_per_byte=1e-6)})
    await running.beat(platform=platform)
    await running.quote()
    await running.reserve()
    assert len(running.heard(BROKER, Reserved)) == 1
    joining = running.heard(BROKER, QuoteOffered)[-1].quote.joining
    assert joining is not None
    assert joining.energy is not None
    assert joining.energy.model.joules_per_byte == 1e-6


@pytest.mark.parametrize(
    ("vm", "code"),
    [
        ({"machine": "pc-q35-99.0"}, "machine_type_unsupported"),
        ({"cpu": CpuFacts(mode=CpuMode.MAXIMUM)}, "host_cpu_differs"),
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


@pytest.mark.parametrize("ahead_s", [600, -600])
async def test_a_wrong_clock_declines_nothing(running: World, ahead_s: int) -> None:
    """The broker's clock is ten minutes from ours, and it has said so: it gets its offer."""
    brokers_now = running.clock() - timedelta(seconds=ahead_s)
    await running.beat()
    told = ClockDiffers(reported_at=running.clock(), ahead_s=ahead_s)
    answer_by = brokers_now + timedelta(seconds=15)
    asked = QuoteRequested(
        port_id=PORT, tenant="acme", vm=make_vm(), versions=VERSIONS, limits=PortLimits(), answer_by=answer_by
    )
    for message in (told, asked):
        deadline = answer_by if message is asked else None
        sealed = seal(message, source=BROKER, message_id=uuid4(), now=brokers_now, deadline=deadline)
        await running.bus.bus(BROKER).publish(BETA, sealed)
    await running.settle()
    await running.answer_checks()
    assert len(running.heard(BROKER, QuoteOffered)) == 1


EPYC_XML = XML.replace("qemu64", "EPYC")
EPYC = describe_as_donor(EPYC_XML).cpu
INCOMPATIBLE = Refusal(code="cpu_incompatible", rule="r", evidence="node beta-1: EPYC: no avx512f")


async def asked_both(world: World) -> None:
    """Two nodes that could take the VM, and a quote that waits for them."""
    await world.beat(NODE)
    await world.beat(OTHER, capacity=make_capacity(memory_free_bytes=2 * GIB))
    await world.quote(nodes_answer=False, cpu=EPYC)


async def test_every_node_that_could_take_the_vm_is_asked_about_its_cpu(running: World) -> None:
    """By facts; a node that cannot take it anyway is left alone, and nothing is offered before the answers."""
    await running.beat(NODE)
    await running.beat(OTHER, healthy=False)
    await running.quote(nodes_answer=False, cpu=EPYC)

    (question,) = running.heard(NODE, CheckVm)
    assert (question.cpu, question.machine, question.domain_type) == (EPYC, "pc-q35-10.0", "qemu")
    assert running.heard(OTHER, CheckVm) == []
    assert running.heard(BROKER, QuoteOffered) == []
    assert running.heard(BROKER, QuoteDeclined) == []


async def test_the_quote_is_made_when_all_have_answered(running: World) -> None:
    """And for a node that said yes."""
    await asked_both(running)
    await running.say(NODE, VmChecked(port_id=PORT, refusals=(INCOMPATIBLE,)))
    assert running.heard(BROKER, QuoteOffered) == []

    await running.say(OTHER, VmChecked(port_id=PORT))

    assert len(running.heard(BROKER, QuoteOffered)) == 1
    await running.reserve(identity=make_identity(EPYC_XML))
    assert [reserved.node for reserved in running.heard(BROKER, Reserved)] == ["beta-2"]


async def test_where_no_cpu_fits_every_node_says_why(running: World) -> None:
    """libvirt's own words reach the tenant, before anything moves."""
    await asked_both(running)
    for node in (NODE, OTHER):
        await running.say(node, VmChecked(port_id=PORT, refusals=(INCOMPATIBLE,)))

    (declined,) = running.heard(BROKER, QuoteDeclined)
    assert declined.refusals == (INCOMPATIBLE,)


async def test_a_silent_node_is_not_waited_for(running: World) -> None:
    """What has answered by then is offered; a late answer changes nothing."""
    await asked_both(running)
    await running.say(OTHER, VmChecked(port_id=PORT))
    await running.pass_time(4)

    assert len(running.heard(BROKER, QuoteOffered)) == 1
    await running.say(NODE, VmChecked(port_id=PORT))
    assert len(running.heard(BROKER, QuoteOffered)) == 1


async def test_nobody_answers(running: World) -> None:
    """The tenant reads that no node has compared the CPU, not that it does not fit."""
    await asked_both(running)
    await running.pass_time(4)

    (declined,) = running.heard(BROKER, QuoteDeclined)
    assert {refusal.code for refusal in declined.refusals} == {"cpu_not_compared"}


async def test_a_reservation_is_judged_by_the_same_answers(running: World) -> None:
    """Another CPU than the one that was asked about was never compared."""
    await asked_both(running)
    for node in (NODE, OTHER):
        await running.say(node, VmChecked(port_id=PORT))
    await running.reserve(identity=make_identity(cpu=CpuFacts(mode=CpuMode.CUSTOM, model="Skylake-Server")))

    (refused,) = running.heard(BROKER, ReservationRefused)
    assert {refusal.code for refusal in refused.refusals} == {"cpu_not_compared"}


async def test_a_vm_that_cannot_come_anyway_is_not_asked_about(running: World) -> None:
    """Its refusals are known at once."""
    await running.beat(NODE)
    await running.quote(nodes_answer=False, cpu=EPYC, blockers=("a vTPM",))

    assert running.heard(NODE, CheckVm) == []
    assert len(running.heard(BROKER, QuoteDeclined)) == 1


async def test_a_quote_says_what_becomes_of_the_vm(running: World) -> None:
    """And is declined where the tenant requires what is not kept here."""
    vm = make_vm(not_kept=("cputune/vcpupin: not kept: the recipient chooses the CPUs of its host",))
    await running.beat()
    for port_id, require in ((PORT, ()), (UUID(int=8), (Part.PINNING,))):
        asked = QuoteRequested(
            port_id=port_id,
            tenant="acme",
            vm=vm,
            versions=VERSIONS,
            limits=PortLimits(require=require),
            answer_by=running.clock() + timedelta(seconds=30),
        )
        await running.say(BROKER, asked)
        await running.answer_checks(port_id)

    (offered,) = running.heard(BROKER, QuoteOffered)
    assert [line.part for line in offered.quote.not_kept] == [Part.PINNING]
    assert offered.quote.made_anew[0].part is Part.BRIDGE
    (declined,) = running.heard(BROKER, QuoteDeclined)
    assert [refusal.code for refusal in declined.refusals] == ["requirement_not_met"]


async def test_a_medium_that_stays_behind_needs_no_room(running: World) -> None:
    """It is not counted in the quote; with it the VM is too large for the node."""
    disk = make_vm().disks[0]
    cd = disk.model_copy(
        update={
            "target": "sda",
            "device": "cdrom",
            "read_only": True,
            "virtual_size_bytes": 10**15,
            "file_bytes": 10**15,
        }
    )
    await running.beat()
    await running.quote(disks=(disk, cd))
    await running.quote(disks=(disk, cd), eject=("all",))

    (declined,) = running.heard(BROKER, QuoteDeclined)
    assert "disk_space_short" in [refusal.code for refusal in declined.refusals]
    assert len(running.heard(BROKER, QuoteOffered)) == 1


PUBLIC = VmNetwork(
    cards=(CardNetwork(mac=MAC, addresses=(CardAddress(address="198.51.100.7"),), announced_by="alpha"),),
    modes=tuple(NetworkMode),
)


@pytest.mark.parametrize("wanted", ["auto", NetworkMode.ANNOUNCE])
async def test_a_public_prefix_without_proofs(world: World, wanted: WantedMode) -> None:
    """By itself it is kept without being announced, and the quote says why; asked by name it is declined."""
    world.prefixes = PrefixFiles(PrefixSection(as_numbers={"alpha": 65_001, "beta": 65_002}), "beta")
    async with world.agent():
        await world.beat(platform=make_platform(network=NodeNetwork(modes=tuple(NetworkMode))))
        await world.quote(network=PUBLIC, network_mode=wanted)
        if wanted == "auto":
            (offered,) = world.heard(BROKER, QuoteOffered)
            assert offered.quote.network == NetworkTerms(carry=NetworkMode.EXTEND)
            told = [line.text for line in offered.quote.kept if "is not announced from here" in line.text]
            assert len(told) == 1
            assert "no_roa_for_recipient" in told[0]
            await world.reserve(identity=make_identity(network=PUBLIC))
            assert len(world.heard(BROKER, Reserved)) == 1
        else:
            (declined,) = world.heard(BROKER, QuoteDeclined)
            codes = [each.code for each in declined.refusals]
            assert codes[:2] == ["prefix_longer_than_24", "authorisation_missing"]
