"""What a lab tells its node agents of networks."""

import tomllib

import pytest

from deploy.labkit.node_network import addresses, section
from deploy.labkit.plan import LabPlan
from deploy.labkit.state import GuestRecord
from deploy.labkit.toml_text import to_toml
from shared.messages.network import NetworkMode

_MAC = "52:54:00:00:00:01"


def _plan(mode: NetworkMode) -> LabPlan:
    return LabPlan("lab", ("alpha", "beta"), mode)


def _guest(address: str, address6: str, home: str = "alpha") -> GuestRecord:
    return GuestRecord("vm1", "u", _MAC, address, "tiny", "idle", 512, home, address6=address6)


def test_joined_providers_have_one_segment_and_routed_ones_each_its_own() -> None:
    """The same name of a segment says that two bridges are joined."""
    joined = [section(_plan(NetworkMode.JOINED), name, "f") for name in ("alpha", "beta")]
    assert [table["segments"] for table in joined] == [{"vmbr0": "lab"}] * 2
    routed = [section(_plan(NetworkMode.EXTEND), name, "f") for name in ("alpha", "beta")]
    assert [table["segments"] for table in routed] == [{"vmbr0": "alpha"}, {"vmbr0": "beta"}]


@pytest.mark.parametrize("mode", NetworkMode)
def test_a_lab_offers_the_mode_that_it_was_made_for(mode: NetworkMode) -> None:
    """And what that needs: care-of addresses, an extension until the address is announced."""
    table = section(_plan(mode), "beta", "/lab/addresses.toml")
    assert mode in table["modes"]
    assert ("care_of" in table) == (mode is not NetworkMode.JOINED)
    if mode is NetworkMode.ANNOUNCE:
        assert "extend" in table["modes"]


def test_a_providers_list_names_the_guests_that_began_there() -> None:
    """With what their neighbours know: prefixes and gateways of the home network."""
    plan = _plan(NetworkMode.EXTEND)
    guests = [_guest("10.81.1.10", "fd00:81:1::10")]
    assert addresses(plan, "beta", guests) == {}
    card = tomllib.loads(to_toml(addresses(plan, "alpha", guests)))["cards"][_MAC]
    assert card == {
        "addresses": ["10.81.1.10", "fd00:81:1::10"],
        "holder": "alpha",
        "announced_by": "alpha",
        "on_link": ["10.81.1.0/24", "fd00:81:1::/64"],
        "gateways": [
            {"address": "10.81.1.1", "mac": "02:81:00:00:01:01"},
            {"address": "fd00:81:1::1", "mac": "02:81:00:00:01:01"},
        ],
    }


def test_a_neutral_address_belongs_to_the_exchange() -> None:
    """Nothing else is on its link."""
    guests = [_guest("198.51.100.10", "2001:db8:a::10", "beta")]
    card = addresses(_plan(NetworkMode.ANCHOR), "beta", guests)["cards"][_MAC]
    assert (card["holder"], card["announced_by"], card["segment"]) == ("exchange",) * 3
    assert "on_link" not in card
    assert card["gateways"][0]["address"] == "10.81.2.1"


def test_a_joined_guest_has_no_gateway() -> None:
    """All that it talks to is on its link."""
    card = addresses(_plan(NetworkMode.JOINED), "alpha", [_guest("10.88.0.10", "fd00:88::10")])["cards"][_MAC]
    assert card["on_link"] == ["10.88.0.0/24", "fd00:88::/64"]
    assert "gateways" not in card
