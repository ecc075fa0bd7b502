"""Which steps each mode needs at each moment."""

from __future__ import annotations

import pytest

from services.node_agent.network.plan import (
    Announced,
    Going,
    device_name,
    donor_routes_away,
    recipient_announces,
    recipient_prepares,
    recipient_routes,
    recipient_wants,
)
from services.node_agent.network.steps import Address, Bridge, NftTable, ProxyNeighbour, Queue, Route
from shared.messages.network import NetworkGateway, NetworkMode
from tests.services.node_agent.network.plans import BRIDGE, GATEWAY_MAC, PORT, plan


def test_an_extended_card_is_on_a_wire_of_its_own() -> None:
    """Without the gateway's MAC: frames for the gateway must cross the extension."""
    steps = recipient_prepares(plan(NetworkMode.EXTEND), PORT)

    assert [step.mac for step in steps if isinstance(step, Bridge)] == [None]
    assert [step.name for step in steps if isinstance(step, NftTable)] == ["vmport_123456789a_0"]
    assert not [step for step in steps if isinstance(step, Address | Route)]


@pytest.mark.parametrize("mode", [NetworkMode.TRANSLATE, NetworkMode.ANCHOR])
def test_a_translated_guest_has_its_gateway_at_the_recipient(mode: NetworkMode) -> None:
    steps = recipient_wants(plan(mode), PORT, arrived=False)

    assert [step.mac for step in steps if isinstance(step, Bridge)] == [None, GATEWAY_MAC]
    addresses = {step.address for step in steps if isinstance(step, Address)}
    assert addresses == {"10.81.1.1", "fd00:81:1::1", "fe80::ff:fe00:1"}
    assert {step.destination for step in steps if isinstance(step, Route)} == {"10.81.1.10/32", "fd00:81:1::10/128"}


def test_little_waits_for_a_guest_that_does_not_run_yet() -> None:
    """From when its devices are known until it has arrived."""
    for arrived, devices in ((False, ["vnet7"]), (True, [])):
        steps = recipient_wants(plan(), PORT, arrived=arrived, taps=("vnet7",))
        assert [step.device for step in steps if isinstance(step, Queue)] == devices


def test_joined_networks_need_nothing() -> None:
    joined = plan(NetworkMode.JOINED)
    assert recipient_prepares(joined, PORT) == recipient_routes(joined) == recipient_announces(joined) == ()
    assert donor_routes_away(joined) == ()


def test_announced_routes_stand_in_a_table_of_their_own() -> None:
    routes = [step for step in recipient_announces(plan(announce=True)) if isinstance(step, Route)]
    assert {(route.destination, route.device, route.table) for route in routes} == {
        ("10.81.1.10/32", BRIDGE, 7070),
        ("fd00:81:1::10/128", BRIDGE, 7070),
    }


@pytest.mark.parametrize("mode", [NetworkMode.EXTEND, NetworkMode.TRANSLATE])
def test_what_a_daemon_announces_is_not_there_before_the_guest_is(mode: NetworkMode) -> None:
    """One daemon knows it by its table, another by the metric of the only route in the main table."""

    def routes(*, arrived: bool) -> set[tuple[int, int]]:
        steps = recipient_wants(plan(mode, announce=True), PORT, arrived=arrived)
        return {(step.table, step.metric) for step in steps if isinstance(step, Route)}

    assert routes(arrived=False) == (set() if mode is NetworkMode.EXTEND else {(254, 19)})
    assert routes(arrived=True) == {(7070, 17), (254, 17)}


def test_routes_that_are_going_are_known_by_their_metric() -> None:
    """Once nothing leads to the guest from here, its packets go where the next host says; then none is asked for."""

    def routes(going: Going) -> set[tuple[int, int]]:
        steps = recipient_wants(plan(announce=True), PORT, arrived=True, going=going)
        return {(step.table, step.metric) for step in steps if isinstance(step, Route)}

    assert routes(Going.HELPED) == {(7070, 18), (254, 18)}
    assert routes(Going.PASSED) == {(7070, 18)}
    assert routes(Going.GONE) == set()


def test_who_has_the_guest_believes_no_other_route() -> None:
    """Routing daemons write theirs with metric 20 (FRR) and 32 (BIRD)."""
    assert max(each.value for each in Announced) < 20


def test_the_donor_answers_for_what_has_left() -> None:
    steps = [step for step in donor_routes_away(plan()) if isinstance(step, ProxyNeighbour)]
    assert {(step.device, step.address) for step in steps} == {("vmbr0", "10.81.1.10"), ("vmbr0", "fd00:81:1::10")}


def test_names_of_devices_fit_the_kernel() -> None:
    assert device_name("vmx", PORT, 63) == "vmx123456789a63"
    assert len(device_name("vmx", PORT, 63)) <= 15


def test_a_guest_that_heard_a_router_advertisement_keeps_its_router() -> None:
    """By the link-local address of the gateway's MAC, where no other is known."""
    steps = recipient_wants(plan(NetworkMode.TRANSLATE), PORT, arrived=False)
    assert Address(device=BRIDGE, address="fe80::ff:fe00:1") in steps
    found = plan(NetworkMode.TRANSLATE)
    (one,) = found.cards
    told = (*one.card.gateways, NetworkGateway(address="fe80::1", mac=GATEWAY_MAC))
    known = one.model_copy(update={"card": one.card.model_copy(update={"gateways": told})})
    steps = recipient_wants(found.model_copy(update={"cards": (known,)}), PORT, arrived=False)
    local = [each.address for each in steps if isinstance(each, Address) and each.address.startswith("fe80")]
    assert local == ["fe80::1"]
