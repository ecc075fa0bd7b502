"""A reservation's life, and which agreements it answers."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.recipient_agent.capacity import Held
from services.recipient_agent.reservation import HOLDS_CAPACITY, Phase, Reservation, agreement_refusals
from services.recipient_agent.testing import NOW, SMALL, VM_UUID, XML, make_agreement, make_vm
from shared.messages.porting import Reserved, ReservedDisk
from shared.messages.service_change import Quote
from shared.messages.vm import Need
from shared.testing import make_lane_endpoint

PORT = UUID(int=7)
LATER = NOW + timedelta(days=9)
QUOTE = Quote(
    provider="beta",
    price_per_month=SMALL.price_per_month,
    currency="EUR",
    instance_type="small",
    promised_total_s=60,
    promised_downtime_ms=800,
    valid_until=NOW + timedelta(minutes=10),
)
DISKS = (ReservedDisk(target="vda", path="/images/a.raw", format="raw", virtual_size_bytes=1 << 30),)
RESERVED = Reserved(
    port_id=PORT, node="beta-1", lane=make_lane_endpoint(), domain_xml=XML, disks=DISKS, reserved_until=NOW
)
AGREEMENT = make_agreement(RESERVED, QUOTE)


def reservation(phase: Phase = Phase.HELD) -> Reservation:
    """A reservation until NOW."""
    return Reservation(
        port_id=PORT,
        tenant="acme",
        node="beta-1",
        lane=make_lane_endpoint(),
        phase=phase,
        until=NOW,
        vm=make_vm(),
        donor_xml=XML,
        donor_xml_sha256="0" * 64,
        domain_xml=XML,
        disks=DISKS,
        quote=QUOTE,
        updated_at=NOW,
    )


def test_the_way_of_a_port_that_succeeds() -> None:
    """Held, fixed, open, here, provisioned; capacity is held until the VM is here for good."""
    held = reservation()
    fixed = held.fixed(AGREEMENT, NOW, after_deadline_s=60)
    opened = fixed.opened(NOW)
    here = opened.arrived(NOW)
    done = here.provisioned(NOW)

    steps = [held, fixed, opened, here, done]
    assert [each.phase for each in steps] == [Phase.HELD, Phase.FIXED, Phase.OPEN, Phase.HERE, Phase.PROVISIONED]
    assert [each.holds_capacity for each in steps] == [True, True, True, True, False]
    assert fixed.until == AGREEMENT.deadline + timedelta(seconds=60)


def test_each_step_says_when_it_was() -> None:
    """And a release says why."""
    fixed = reservation().fixed(AGREEMENT, LATER, after_deadline_s=60)
    opened = reservation(Phase.FIXED).opened(LATER)
    here = reservation(Phase.OPEN).arrived(LATER)
    done = reservation(Phase.HERE).provisioned(LATER)
    gone = reservation().released("another was chosen", LATER)
    held_on = reservation(Phase.HERE).on_clock(LATER, node_knows_it=True, after_deadline_s=60)
    expired = reservation().on_clock(LATER, node_knows_it=False, after_deadline_s=60)

    assert {each.updated_at for each in (fixed, opened, here, done, gone, held_on, expired)} == {LATER}
    assert (gone.reason, expired.reason) == ("another was chosen", "expired")


@pytest.mark.parametrize("phase", sorted(HOLDS_CAPACITY))
def test_a_clock_frees_only_what_nobody_has(phase: Phase) -> None:
    """A reservation that was never fixed expires; a fixed one too, unless a node knows of it; a VM here never."""
    known = reservation(phase).on_clock(NOW, node_knows_it=True, after_deadline_s=60)
    unknown = reservation(phase).on_clock(NOW, node_knows_it=False, after_deadline_s=60)

    assert (known.phase is Phase.RELEASED) == (phase is Phase.HELD)
    assert (unknown.phase is Phase.RELEASED) == (phase is not Phase.HERE)
    for each in (known, unknown):
        assert each.phase is Phase.RELEASED or each.until == NOW + timedelta(seconds=60)


@pytest.mark.parametrize("phase", sorted(Phase))
def test_a_clock_that_is_early_changes_nothing(phase: Phase) -> None:
    """Nothing expires before its time."""
    before = reservation(phase)

    assert before.on_clock(NOW - timedelta(seconds=1), node_knows_it=False, after_deadline_s=60) == before


STEPS = {
    "fix": lambda r: r.fixed(AGREEMENT, LATER, after_deadline_s=60),
    "open": lambda r: r.opened(LATER),
    "arrive": lambda r: r.arrived(LATER),
    "provision": lambda r: r.provisioned(LATER),
    "release": lambda r: r.released("x", LATER),
    "clock": lambda r: r.on_clock(LATER, node_knows_it=False, after_deadline_s=60),
}


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=12))
def test_any_order_of_events_is_harmless(order: list[str]) -> None:
    """Repeated and late events change nothing: what is released or provisioned stays so, and it survives JSON."""
    now = reservation()
    for name in order:
        after = STEPS[name](now)
        if now.phase in {Phase.RELEASED, Phase.PROVISIONED}:
            assert after == now
        if name != "clock":
            assert STEPS[name](after) == after
        now = after
        assert Reservation.model_validate_json(now.model_dump_json()) == now


def test_what_capacity_sees() -> None:
    """Size, identity and node; a VM that is here for good no longer reserves."""
    vm = make_vm()
    on_pages = vm.model_copy(update={"needs": (Need(kind="hugepages", value="2048 KiB"),)})

    assert reservation().model_copy(update={"vm": on_pages}).as_held().huge_pages == ("2048 KiB",)
    assert reservation().as_held() == Held(
        port_id=PORT,
        tenant="acme",
        node="beta-1",
        vm_uuid=VM_UUID,
        vm_name=vm.name,
        macs=tuple(nic.mac for nic in vm.nics),
        vcpus=1,
        memory_bytes=vm.memory_bytes,
        disk_bytes=1 << 30,
        reserved=True,
    )
    assert vm.nics
    assert not reservation(Phase.PROVISIONED).as_held().reserved


def test_an_equal_agreement_is_accepted() -> None:
    """The broker's agreement of this very reservation."""
    assert agreement_refusals(reservation(), AGREEMENT, provider="beta") == ()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"port_id": uuid4()}, "port_id"),
        ({"tenant": "globex"}, "tenant"),
        ({"vm_uuid": uuid4()}, "vm_uuid"),
        ({"vm_name": "x"}, "vm_name"),
        ({"recipient": "gamma"}, "recipient"),
        ({"recipient_node": "beta-2"}, "recipient_node"),
        ({"recipient_lane": make_lane_endpoint(authority="another")}, "recipient_lane"),
        ({"domain_xml": "<domain/>"}, "domain_xml"),
        ({"domain_xml_sha256": "1" * 64}, "domain_xml_sha256"),
        ({"disks": ()}, "disks"),
        ({"price_per_month": Decimal(1)}, "price_per_month"),
        ({"currency": "USD"}, "currency"),
    ],
)
def test_an_agreement_that_differs_is_refused(change: dict[str, Any], names: str) -> None:
    """Whatever was changed after the reservation is named."""
    refusals = agreement_refusals(reservation(), make_agreement(RESERVED, QUOTE, **change), provider="beta")

    assert {refusal.code for refusal in refusals} == {"agreement_differs"}
    assert any(refusal.evidence.startswith(names) for refusal in refusals)
