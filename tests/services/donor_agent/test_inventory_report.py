"""The broker is told which VMs this provider serves."""

from __future__ import annotations

from uuid import UUID

from services.donor_agent.testing import SUMMARY, VM
from shared.messages.nodes import (
    InventoryReported,
)
from shared.messages.vm import VmState
from shared.parties import BROKER
from tests.support.donor_world import NODE, World


async def test_inventory_is_reported_when_it_changes(running: World) -> None:
    """A new VM at once, what is known already not again; a VM that has left is not served here any more."""
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


async def test_when_the_nodes_were_heard_is_reported(running: World) -> None:
    """In seconds, so that the broker needs no clock but its own."""
    await running.beat()
    await running.clock.advance(40)
    await running.service.report(only_changes=False)
    await running.settle()

    assert [report.nodes_silent_s for report in running.heard(BROKER, InventoryReported)] == [
        {NODE.node: 0.0},
        {NODE.node: 40.0},
    ]
