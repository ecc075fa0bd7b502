"""Where network cards go: rules first, names where no VLAN is at stake."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from services.recipient_agent.network_map import CardPlace, NetworkMap, NetworkRule, place_cards
from services.recipient_agent.testing import make_platform
from shared.domain import PASST_VHOST
from shared.messages.base import Refusal
from shared.messages.vm import Nic, Vlan

MAC = "52:54:00:5e:15:01"
HOST = make_platform(bridges=("br7", "br42", "br-ovs"), ovs_bridges=("br-ovs",), networks=("default", "tenants"))


def nic(*tags: int, **changes: Any) -> Nic:
    """A card on the donor's br0, with VLAN tags."""
    facts: dict[str, Any] = {"mac": MAC, "model": "virtio", "bridge": "br0"}
    return Nic(**{**facts, "vlan": Vlan(tags=tags) if tags else None, **changes})


def rule(**facts: Any) -> NetworkRule:
    """From TOML's values."""
    return NetworkRule.model_validate(facts)


def place(card: Nic, *rules: NetworkRule, by_name: dict[str, str] | None = None, default: str = "") -> CardPlace | str:
    """Where it goes, or the refusal's code."""
    placed, refusals = place_cards([card], NetworkMap(by_name or {}, default, rules), HOST)
    return refusals[0].code if refusals else placed[0]


def put(card: Nic, *rules: NetworkRule, **names: Any) -> CardPlace:
    """Where it goes; fails the test if nowhere."""
    found = place(card, *rules, **names)
    assert isinstance(found, CardPlace), found
    return found


@pytest.mark.parametrize(("by_name", "default"), [({}, ""), ({"br0": "br7"}, "br7"), ({}, "br7")])
def test_a_tagged_card_never_goes_by_name(by_name: dict[str, str], default: str) -> None:
    """A bridge of the same name, a map of bridges, a default: each would put it among other tenants."""
    assert place(nic(42), by_name=by_name, default=default) == "vlan_unmapped"


def test_a_rule_without_vlan_takes_no_tagged_card() -> None:
    """A rule that names the bridge only says nothing of its VLANs."""
    assert place(nic(42), rule(bridge="br0", to_bridge="br7")) == "vlan_unmapped"
    assert put(nic(), rule(bridge="br0", to_bridge="br7")).bridge == "br7"


def test_a_bridge_that_is_the_vlan_needs_no_tag() -> None:
    """The operator says so; the tag is gone, the wall is not."""
    only = rule(bridge="br0", vlan=[42], to_bridge="br42", to_vlan="is_that_vlan")

    placed = put(nic(42), only)

    assert (placed.bridge, placed.vlan, placed.is_that_vlan) == ("br42", None, True)
    assert place(nic(43), only) == "vlan_unmapped"
    assert place(nic(42, 43), only) == "vlan_unmapped"
    assert place(nic(), only) == "bridge_missing"


def test_tags_are_kept_on_a_port_that_tags() -> None:
    """The same tags, with trunk and native VLAN as they were."""
    trunk = Vlan(tags=(42, 43), trunk=True, native=43, native_mode="untagged")
    same = rule(vlan="any", to_bridge="br-ovs", openvswitch=True, to_vlan="same")

    placed = put(nic(vlan=trunk), same)

    assert (placed.bridge, placed.openvswitch, placed.vlan) == ("br-ovs", True, trunk)


def test_tags_are_mapped_in_their_order() -> None:
    """The native VLAN is mapped with them."""
    trunk = Vlan(tags=(42, 43), trunk=True, native=43, native_mode="tagged")
    mapped = rule(vlan=[42, 43], to_network="tenants", to_vlan=[1042, 1043])

    placed = put(nic(vlan=trunk), mapped)

    assert placed.vlan == Vlan(tags=(1042, 1043), trunk=True, native=1043, native_mode="tagged")
    assert placed.network == "tenants"


def test_a_port_group_goes_by_a_rule_only() -> None:
    """Its VLAN stands in the donor's network, where nobody here can see it."""
    grouped = nic(kind="network", network="ovs", port_group="customers")
    named = rule(network="ovs", port_group="customers", to_bridge="br42", to_vlan="is_that_vlan")

    assert place(grouped, by_name={"br0": "br7"}) == "port_group_unmapped"
    assert place(grouped, rule(network="ovs", to_bridge="br7")) == "port_group_unmapped"
    assert put(grouped, named).bridge == "br42"


def test_networks_go_by_name_where_they_are() -> None:
    """The network of the same name, or what the map says of its bridge; never the bridge of the same name."""
    default = nic(kind="network", network="default", bridge="virbr0")

    assert put(default).network == "default"
    assert put(default, by_name={"virbr0": "br7"}).bridge == "br7"
    assert place(nic(kind="network", network="lab", bridge="br7")) == "network_unmapped"


def test_users_networks_need_a_rule() -> None:
    """Behind the host's address, or on a bridge, as the operator says."""
    user = nic(kind="user", bridge="")

    assert place(user, default="br7") == "network_unmapped"
    assert str(put(user, rule(kind="user", to_user=True))) == "QEMU's user network"


def test_qemus_own_network_stays_one() -> None:
    """Its state is in the stream: QEMU fails at the end of a migration that gives it nowhere to go. passt's is not."""
    user, passt = nic(kind="user", bridge=""), nic(kind="passt", bridge="")
    assert place(user, rule(kind="user", to_bridge="br7")) == "user_network_moved"
    assert place(user, rule(to_network="default")) == "user_network_moved"
    assert put(passt, rule(kind="user", to_bridge="br7")).bridge == "br7"
    assert str(put(passt, rule(kind="user", to_user=True))) == "QEMU's user network"


def test_passt_over_vhost_user_goes_where_a_rule_names_it() -> None:
    """It is no user network to QEMU, which would refuse its state; both kinds of passt may share a rule."""
    passt, vhost = nic(kind="passt", bridge=""), nic(kind=PASST_VHOST, bridge="")
    to_bridge = rule(kind="passt", to_bridge="br7")
    assert put(passt, to_bridge).bridge == put(vhost, rule(kind="user", to_user=True), to_bridge).bridge == "br7"
    assert place(vhost, rule(kind="user", to_user=True)) == "network_unmapped"


@pytest.mark.parametrize(
    ("kind", "model", "found"),
    [
        ("bridge", "virtio", "user_network_too_plain"),
        ("network", "virtio-non-transitional", "user_network_too_plain"),
        ("ethernet", "virtio", "user_network_too_plain"),
        (PASST_VHOST, "virtio", "user_network_too_plain"),
        ("bridge", "e1000e", "QEMU's user network"),
        ("passt", "virtio", "QEMU's user network"),
        ("user", "virtio", "QEMU's user network"),
    ],
)
def test_a_card_with_offloads_does_not_go_to_a_network_without(kind: str, model: str, found: str) -> None:
    """QEMU 10 refuses its state when all else has crossed: "saved image requires vnet_hdr=on"."""
    card = nic(kind=kind, model=model, bridge="" if kind == PASST_VHOST else "br0")
    to_user = rule(kind="ethernet" if kind == "ethernet" else "any", to_user=True)

    assert str(place(card, to_user)) == found


def test_a_tap_device_of_the_donor_goes_only_where_a_rule_names_its_kind() -> None:
    """Nobody but its donor knows what it was connected to, so a rule for any card is not for it."""
    tap = nic(kind="ethernet", bridge="")
    assert place(tap, rule(to_bridge="br7")) == "network_unmapped"
    assert put(tap, rule(kind="ethernet", to_bridge="br7")).bridge == "br7"


def test_cards_of_one_mac_go_by_their_order() -> None:
    """The LAN card does not land on the WAN's bridge."""
    cards = [nic(bridge="lan"), nic(bridge="wan")]

    placed, refusals = place_cards(cards, NetworkMap({"lan": "br7", "wan": "br42"}), HOST)

    assert refusals == ()
    assert [each.bridge for each in placed] == ["br7", "br42"]


@pytest.mark.parametrize(
    ("guard", "changes"),
    [
        ("filter", {"filter": "clean-traffic"}),
        ("bandwidth", {"has_bandwidth": True}),
        ("virtualport", {"virtualport": "802.1Qbh"}),
    ],
)
def test_what_may_not_be_lost_is_refused(guard: str, changes: dict[str, Any]) -> None:
    """Where the operator's rule says so; otherwise the quote tells it."""
    assert place(nic(**changes), rule(to_bridge="br7", never_without=[guard])) == "network_guard_lost"
    assert put(nic(**changes), rule(to_bridge="br7")).bridge == "br7"


def test_a_bridge_keeps_a_card_isolated() -> None:
    """So nothing is lost; a switch of another kind would lose it."""
    alone = nic(isolated=True)

    assert put(alone, rule(to_bridge="br7", never_without=["isolated"])).isolated
    assert place(alone, rule(to_network="tenants", never_without=["isolated"])) == "network_guard_lost"


@pytest.mark.parametrize(
    ("mapped", "code"),
    [
        (rule(to_bridge="gone"), "bridge_missing"),
        (rule(to_network="gone"), "network_missing"),
        (rule(to_bridge="br7", openvswitch=True), "bridge_missing"),
    ],
)
def test_the_target_must_be_there(mapped: NetworkRule, code: str) -> None:
    """And of the kind that the rule says: a Linux bridge takes no tags."""
    assert place(nic(), mapped) == code


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, "give one of to_bridge"),
        ({"to_bridge": "a", "to_network": "b"}, "give one of to_bridge"),
        ({"to_network": "a", "openvswitch": True}, "openvswitch says what to_bridge is"),
        ({"to_bridge": "a", "to_port_group": "b"}, "needs to_network"),
        ({"vlan": [42], "to_bridge": "a"}, "say in to_vlan"),
        ({"port_group": "x", "to_bridge": "a"}, "say in to_vlan"),
        ({"to_bridge": "a", "to_vlan": "same", "openvswitch": True}, "needs vlan or port_group"),
        ({"vlan": "any", "to_bridge": "a", "to_vlan": "same"}, "tags need a port that tags"),
        ({"vlan": [42], "to_network": "a", "to_vlan": [1, 2]}, "as many tags"),
        ({"vlan": "any", "to_network": "a", "to_vlan": [1]}, "as many tags"),
        ({"vlan": [42, 42], "to_network": "a", "to_vlan": "same"}, "names a tag twice"),
        ({"vlan": [4095], "to_network": "a", "to_vlan": "same"}, "4094"),
        ({"to_bridge": "a b"}, "pattern"),
    ],
)
def test_a_rule_that_says_nothing_clear_is_an_error(facts: dict[str, Any], reason: str) -> None:
    """Before any VM comes, and with what to do."""
    with pytest.raises(ValidationError, match=reason):
        rule(**facts)


def test_a_refusal_names_the_card_and_its_network() -> None:
    """So that an operator can write the rule that is missing."""
    _, (refusal,) = place_cards([nic(42)], NetworkMap(), HOST)

    assert isinstance(refusal, Refusal)
    assert refusal.evidence == f"network card {MAC} has VLAN 42 on bridge br0: no rule says where it goes"
