"""The final identity against the donor's."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from services.recipient_agent.provision import identity_differences, provision_refusals
from services.recipient_agent.reservation import Phase, Reservation
from services.recipient_agent.testing import MAC, NOW, SMALL, VM_UUID, XML, make_summary, make_vm
from shared.messages.porting import ProvisionVm
from shared.messages.service_change import Quote
from shared.messages.vm import VmSummary
from shared.testing import make_lane_endpoint

QUOTE = Quote(
    provider="beta",
    price_per_month=SMALL.price_per_month,
    currency="EUR",
    instance_type="small",
    promised_total_s=60,
    promised_downtime_ms=800,
    valid_until=NOW,
)
RESERVATION = Reservation(
    port_id=UUID(int=7),
    tenant="acme",
    node="beta-1",
    lane=make_lane_endpoint(),
    phase=Phase.HERE,
    until=NOW,
    vm=make_vm(),
    donor_xml=XML,
    donor_xml_sha256="0" * 64,
    domain_xml=XML,
    disks=(),
    quote=QUOTE,
    updated_at=NOW,
)


def command(**changes: Any) -> ProvisionVm:
    """The broker's command about the reserved VM."""
    facts: dict[str, Any] = {
        "port_id": RESERVATION.port_id,
        "vm_uuid": VM_UUID,
        "autostart": True,
        "donor_xml": XML,
    }
    return ProvisionVm(**{**facts, **changes})


def seen(**changes: Any) -> VmSummary:
    """The VM as a heartbeat lists it."""
    facts = {"uuid": VM_UUID, "name": "web-1", "memory_bytes": 512 << 20, "vcpus": 1, "macs": (MAC,)}
    return make_summary(**{**facts, **changes})


def test_the_reserved_vm_is_provisioned() -> None:
    """Nothing speaks against the command that names what was reserved; host-side parts may differ."""
    assert provision_refusals(RESERVATION, command()) == ()
    assert provision_refusals(RESERVATION, command(donor_xml=XML.replace("/donor/a.raw", "/x"))) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"vm_uuid": uuid4()},
        {"donor_xml": XML.replace("pc-q35-10.0", "pc-q35-9.2")},
        {"donor_xml": "<nonsense/>"},
    ],
)
def test_another_vm_is_not_provisioned(change: dict[str, Any]) -> None:
    """The command cannot swap the identity that everything is compared with."""
    refusals = provision_refusals(RESERVATION, command(**change))

    assert {refusal.code for refusal in refusals} == {"identity_differs"}


@pytest.mark.parametrize(
    ("summary", "from_node", "expected"),
    [
        (None, (), 0),
        (seen(), (), 0),
        (seen(), ("cpu changed",), 1),
        (seen(name="x"), (), 1),
        (seen(memory_bytes=1), (), 1),
        (seen(vcpus=2), (), 1),
        (seen(macs=()), ("cpu changed", "cpu changed"), 2),
    ],
)
def test_every_difference_is_told_once(summary: VmSummary | None, from_node: tuple[str, ...], expected: int) -> None:
    """The node's findings and those of its inventory, together."""
    assert len(identity_differences(RESERVATION, summary, from_node)) == expected
