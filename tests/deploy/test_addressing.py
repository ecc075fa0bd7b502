"""Addresses of joined and routed labs."""

from ipaddress import ip_address, ip_interface

import pytest

from deploy.labkit import addressing
from deploy.labkit.plan import LabPlan
from shared.messages.network import NetworkMode

_PROVIDERS = ("alpha", "beta", "gamma")
_JOINED = LabPlan("lab", _PROVIDERS)
_EXTEND = LabPlan("lab", _PROVIDERS, NetworkMode.EXTEND)
_ANCHOR = LabPlan("lab", _PROVIDERS, NetworkMode.ANCHOR)


def test_in_a_joined_lab_all_are_on_one_link_without_gateways() -> None:
    """Guests of every provider and the client share one prefix per family."""
    stations = [addressing.client(_JOINED), *(addressing.guest(_JOINED, name, 10) for name in _PROVIDERS)]
    assert {ip_interface(station.ip).network for station in stations} == {ip_interface("10.88.0.0/24").network}
    assert {ip_interface(station.ip6).network for station in stations} == {ip_interface("fd00:88::/64").network}
    assert stations[1].settings() == {"ip": "10.88.0.10/24", "ip6": "fd00:88::10/64"}


@pytest.mark.parametrize("provider", _PROVIDERS)
def test_in_a_routed_lab_a_guest_is_behind_its_providers_router(provider: str) -> None:
    """Address and gateway are in the provider's network, in both families."""
    here, guest = addressing.site(_EXTEND, provider), addressing.guest(_EXTEND, provider, 10)
    assert ip_address(guest.address) in here.network4
    assert ip_address(guest.address6) in here.network6
    assert (guest.gateway, guest.gateway6) == (here.gateway4, here.gateway6)


def test_providers_share_nothing_and_care_of_addresses_are_no_hosts() -> None:
    """All prefixes of all providers are apart from each other, and so are the routers' MACs."""
    sites = [addressing.site(_EXTEND, name) for name in _PROVIDERS]
    four = [prefix for site in sites for prefix in (site.network4, site.care_of4)]
    six = [prefix for site in sites for prefix in (site.network6, site.care_of6)]
    assert not any(one.overlaps(other) for one in four for other in four if one is not other)
    assert not any(one.overlaps(other) for one in six for other in six if one is not other)
    assert len({site.gateway_mac for site in sites}) == len({site.as_number for site in sites}) == len(sites)


def test_a_neutral_address_is_alone_on_its_link() -> None:
    """Whoever serves it, every other neutral address is reached through the gateway."""
    guest = addressing.guest(_ANCHOR, "beta", 10)
    assert (guest.ip, guest.ip6) == ("198.51.100.10/32", "2001:db8:a::10/128")
    assert (guest.gateway, guest.gateway6) == ("10.81.2.1", "fd00:81:2::1")


def test_every_router_has_a_number() -> None:
    """The hub is transit; both gateways are of one neutral party."""
    found = {host: addressing.as_number(_ANCHOR, host) for host in _ANCHOR.routers}
    assert found == {"hub": 65000, "alpha": 65001, "beta": 65002, "gamma": 65003, "gw-1": 65100, "gw-2": 65100}
