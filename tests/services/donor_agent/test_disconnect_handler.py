"""A VM that left is disconnected once; its disks are erased after the quarantine."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from services.donor_agent import records
from services.donor_agent.disconnect_handler import ERASE
from services.donor_agent.testing import PORT, VM
from shared.messages.nodes import (
    EraseQuarantine,
)
from shared.messages.porting import (
    CompletionFailed,
    DisconnectVm,
    DisksErased,
    VmDisconnected,
)
from shared.messages.service_change import PortFailed, PortPhase
from shared.parties import BROKER
from shared.provider_agent import timer_key
from tests.support.donor_world import COMPLETED, NODE, World


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
    await running.say(BROKER, COMPLETED)
    await running.pass_time(100)
    await running.pass_time(50)
    await running.say(NODE, DisksErased(port_id=PORT, erased_bytes=5))
    await running.pass_time(50)

    assert len(running.heard(NODE, EraseQuarantine)) == 2
    assert len(running.heard(BROKER, DisksErased)) == 1
    assert running.metrics.quarantined_bytes._value.get() == 0


async def test_nothing_is_erased_before_the_port_completed(running: World) -> None:
    """However long the port takes, its disks may be the VM's only ones; the whole quarantine follows its completion."""
    await running.to_left()
    await running.say(BROKER, DisconnectVm(port_id=PORT, vm_uuid=VM))
    await running.say(NODE, VmDisconnected(port_id=PORT, quarantined_disks=("/q/vda",)))
    await running.pass_time(10_000)
    assert running.heard(NODE, EraseQuarantine) == []
    for _ in range(2):
        await running.say(BROKER, COMPLETED)
    await running.pass_time(99)
    assert running.heard(NODE, EraseQuarantine) == []
    await running.pass_time(1)
    assert len(running.heard(NODE, EraseQuarantine)) == 1


async def test_nothing_is_erased_of_a_port_that_failed(running: World) -> None:
    """A port that an operator gave back to the donor keeps its disks for good."""
    await running.to_left()
    await running.say(BROKER, DisconnectVm(port_id=PORT, vm_uuid=VM))
    await running.say(NODE, VmDisconnected(port_id=PORT, quarantined_disks=("/q/vda",)))
    failed = PortFailed(port_id=PORT, phase=PortPhase.FINISHING, code="settled", detail="x", vm_runs_at="alpha")
    await running.say(BROKER, failed)
    await running.pass_time(10_000)
    assert running.heard(NODE, EraseQuarantine) == []


async def test_completion_before_the_disconnection(running: World) -> None:
    """A port that an operator completed without the donor: the quarantine starts when the donor is back."""
    await running.to_left()
    await running.say(BROKER, DisconnectVm(port_id=PORT, vm_uuid=VM))
    await running.say(BROKER, COMPLETED)
    await running.pass_time(10_000)
    await running.say(NODE, VmDisconnected(port_id=PORT, quarantined_disks=("/q/vda",)))
    await running.pass_time(99)
    assert running.heard(NODE, EraseQuarantine) == []
    await running.pass_time(1)
    assert len(running.heard(NODE, EraseQuarantine)) == 1


async def test_timer_of_an_earlier_release(running: World) -> None:
    """It was set at the disconnection; whether that port completed is not known, so its disks are kept."""
    await running.to_left()
    await running.say(BROKER, DisconnectVm(port_id=PORT, vm_uuid=VM))
    await running.say(NODE, VmDisconnected(port_id=PORT, quarantined_disks=("/q/vda",)))
    async with running.service.store.transaction() as tx:
        port = await records.load_port(tx, PORT)
        assert port is not None
        assert port.quarantine_until is not None
        await tx.arm(timer_key(ERASE, PORT), port.quarantine_until)
    await running.pass_time(10_000)
    assert running.heard(NODE, EraseQuarantine) == []


@pytest.mark.parametrize(("keep_s", "kept_s"), [(50, 100), (100, 100), (500, 500)])
async def test_the_longer_of_quarantine_and_rule(running: World, keep_s: int, kept_s: int) -> None:
    """The provider keeps disks for 100 s; a rule may ask for more. The node is told the rule's time, too."""
    await running.to_left()
    until = running.clock() + timedelta(seconds=keep_s)
    await running.say(BROKER, DisconnectVm(port_id=PORT, vm_uuid=VM, keep_until=until))
    (passed,) = running.heard(NODE, DisconnectVm)
    assert passed.keep_until == until
    await running.say(NODE, VmDisconnected(port_id=PORT, quarantined_disks=("/images/a.raw.quarantine",)))
    await running.say(BROKER, COMPLETED)
    await running.pass_time(kept_s - 1)
    assert running.heard(NODE, EraseQuarantine) == []
    await running.pass_time(1)
    assert len(running.heard(NODE, EraseQuarantine)) == 1
