"""A VM is received and provisioned only as it was reserved."""

from __future__ import annotations

import pytest

from services.recipient_agent.testing import (
    XML,
)
from shared.domain import describe
from shared.messages.porting import (
    AbortTransfer,
    CompletionFailed,
    OpenInbound,
    PortingFixed,
    ProvisionVm,
    Side,
    TransferAborted,
    TransferFailed,
    VmProvisioned,
)
from shared.parties import BROKER
from tests.support.recipient_world import ABORT, NODE, PORT, PROVISION, World, arrived


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
    """The broker hears it at once instead of waiting; an outage of minutes is no such silence."""
    await running.to_fixed()
    await running.pass_time(241)
    await running.say(BROKER, OpenInbound(port_id=PORT, agreement=running.agreement()))

    assert running.heard(BROKER, TransferFailed)[0].code == "node_unreachable"


async def test_an_outage_of_minutes_does_not_end_an_agreed_port(running: World) -> None:
    """RabbitMQ is back before the node's first heartbeat: the command waits for the node."""
    await running.to_fixed()
    await running.pass_time(125)
    await running.say(BROKER, OpenInbound(port_id=PORT, agreement=running.agreement()))

    assert running.heard(BROKER, TransferFailed) == []
    assert len(running.heard(NODE, OpenInbound)) == 1


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


async def test_only_what_was_reserved_is_provisioned(running: World) -> None:
    """Neither before the node was told of it, nor with another identity."""
    await running.to_fixed()
    await running.say(BROKER, PROVISION)
    await running.say(BROKER, OpenInbound(port_id=PORT, agreement=running.agreement()))
    await running.say(BROKER, PROVISION.model_copy(update={"donor_xml": XML.replace("10.0", "9.2")}))

    codes = [failed.code for failed in running.heard(BROKER, CompletionFailed)]
    assert codes == ["not_reserved", "identity_differs"]
    assert running.heard(NODE, ProvisionVm) == []


async def test_the_node_gets_the_lasting_definition_as_it_was_reserved(running: World) -> None:
    """Whatever the broker says: it has none."""
    await running.to_open()
    await running.say(BROKER, PROVISION.model_copy(update={"lasting_xml": "<domain/>"}))

    (command,) = running.heard(NODE, ProvisionVm)
    assert command.lasting_xml is not None
    assert describe(command.lasting_xml).nics[0].bridge == "vmbr0"


async def test_a_difference_of_the_final_identity_is_told(running: World) -> None:
    """The node's findings, and what its inventory shows."""
    await running.to_open()
    await running.beat(vms=(arrived(memory_bytes=1),))
    await running.say(BROKER, PROVISION)
    await running.say(
        NODE, VmProvisioned(port_id=PORT, identity_differences=("cpu changed",), address_differences=("an address",))
    )

    (said,) = running.heard(BROKER, VmProvisioned)
    assert said.identity_differences == ("cpu changed", f"memory_bytes: {512 << 20} became 1")
    assert said.address_differences == ("an address",)
