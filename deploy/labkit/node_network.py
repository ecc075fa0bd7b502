"""What vmport is told of the networks of a lab: what each node can do, and which addresses guests have. Pure."""

from collections.abc import Iterable
from ipaddress import ip_interface
from typing import Any

from deploy.labkit import addressing
from deploy.labkit.plan import GUEST_BRIDGE, LabPlan
from deploy.labkit.state import GuestRecord
from shared.messages.network import NetworkMode

NEUTRAL_PARTY = "exchange"
_JOINED_SEGMENT = "lab"
_MODES = {
    NetworkMode.JOINED: [NetworkMode.JOINED],
    NetworkMode.EXTEND: [NetworkMode.EXTEND],
    NetworkMode.TRANSLATE: [NetworkMode.TRANSLATE],
    NetworkMode.ANCHOR: [NetworkMode.ANCHOR],
    # An extension carries the traffic until the recipient announces the addresses.
    NetworkMode.ANNOUNCE: [NetworkMode.EXTEND, NetworkMode.ANNOUNCE],
}


def section(plan: LabPlan, provider: str, addresses_file: str) -> dict[str, Any]:
    """The section [network] of a node agent's settings."""
    table: dict[str, Any] = {
        "modes": [mode.value for mode in _MODES[plan.network]],
        "segments": {GUEST_BRIDGE: provider if plan.routed else _JOINED_SEGMENT},
        "addresses_file": addresses_file,
    }
    if plan.routed:
        here = addressing.site(plan, provider)
        table["care_of"] = [str(here.care_of4), str(here.care_of6)]
    return table


def broker_section(plan: LabPlan) -> dict[str, Any]:
    """The section [anchor] of the broker's settings, where the lab has a neutral party."""
    if not plan.gateways:
        return {}
    prefixes = [str(addressing.NEUTRAL4), str(addressing.NEUTRAL6)]
    return {"anchor": {"prefixes": prefixes, "gateways": [f"{NEUTRAL_PARTY}/{name}" for name in plan.gateways]}}


def addresses(plan: LabPlan, provider: str, guests: Iterable[GuestRecord]) -> dict[str, Any]:
    """The provider's list of addresses: of those guests that began there, wherever they run."""
    cards = {guest.mac: _card(plan, guest) for guest in guests if guest.home == provider}
    return {"cards": cards} if cards else {}


def _card(plan: LabPlan, guest: GuestRecord) -> dict[str, Any]:
    station = addressing.guest(plan, guest.home, int(guest.address.rpartition(".")[2]))
    neutral = plan.network is NetworkMode.ANCHOR
    party = NEUTRAL_PARTY if neutral else guest.home
    card: dict[str, Any] = {
        "addresses": [station.address, station.address6],
        "holder": party,
        "announced_by": party,
    }
    if neutral:
        # No bridge of a provider is its network, not even that of its home.
        card["segment"] = NEUTRAL_PARTY
    else:
        card["on_link"] = [str(ip_interface(each).network) for each in (station.ip, station.ip6)]
    if station.gateway:
        mac = addressing.site(plan, guest.home).gateway_mac
        card["gateways"] = [{"address": each, "mac": mac} for each in (station.gateway, station.gateway6)]
    return card
